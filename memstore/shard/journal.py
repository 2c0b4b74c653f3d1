"""Journal: what mutations leave behind, into the redo log of a shard, and out of it again.

A mutation is worked out on a draft, copies of the rows that it concerns; what the draft is then
goes into the log, and from there into the table. So nothing is ever in the table that is not in
the log before, and what is read back after a crash is what was put there, to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from memstore.config import MemoryConfig
from memstore.memory import Array, Slots
from memstore.shard.log import Log
from memstore.shard.log_format import Kind, Part, Record
from memstore.shard.requests import Request
from memstore.shard.rows import RowTable

MOST_ROWS = 262_144
"""Rows of equal records that are put back at a time."""


class Journal:
    """Writes the records of one shard; one caller at a time."""

    def __init__(self, config: MemoryConfig, number: int, log: Log) -> None:
        self.log = log
        self._config, self._number = config, number

    @functools.cached_property
    def _draft(self) -> RowTable:
        return RowTable(replace(self._config, resident_bytes=None), self._number)

    def put(
        self,
        rows_B: Slots,
        parts: Mapping[str, Part | None],
        evicted_E: Slots,
        next_slot: int | None,
        request: Request | None,
    ) -> None:
        """parts: keys, values, records and priority of the rows, each or None."""
        rest = {
            "evicted": evicted_E if len(evicted_E) else None,
            "next_slot": None if next_slot is None else np.array([next_slot]),
        }
        self._append(Kind.PUT, {"rows": rows_B, **parts, **rest}, request)

    def kill(self, rows_B: Slots, request: Request | None) -> None:
        self._append(Kind.KILL, {"rows": rows_B}, request)

    def renew(
        self,
        rows_B: Slots,
        generations_B: Array,
        records: pa.Table | None,
        priority_B: Array | None,
        request: Request | None,
    ) -> None:
        rest = {"records": records, "priority": priority_B}
        self._append(Kind.RENEW, {"rows": rows_B, "generations": generations_B, **rest}, request)

    def touch(self, rows_U: Slots, priority_U: Array, request: Request | None) -> None:
        self._append(Kind.TOUCH, {"rows": rows_U, "priority": priority_U}, request)

    def give_out(self, next_slot: int, request: Request) -> None:
        none = {"rows": np.empty(0, np.int64), "priority": np.empty(0)}
        self._append(Kind.TOUCH, none | {"next_slot": np.array([next_slot])}, request)

    def draft(self, table: RowTable, rows_B: Slots) -> tuple[RowTable, Slots, Slots]:
        """Copies of the rows named, for a change to be made to them; the distinct rows, rising;
        and for each row of the call its number in the draft."""
        rows_U, local_B = np.unique(rows_B, return_inverse=True)
        self._draft.copy(table, rows_U)
        return self._draft, rows_U, local_B

    def drafted(
        self,
        kind: Kind,
        rows_U: Slots,
        parts: tuple[str, ...],
        priority_U: Array | None = None,
        request: Request | None = None,
    ) -> dict[str, Array]:
        """Writes what the draft is now of keys, values or both; returns it, by name."""
        image = self._draft.image(slice(len(rows_U)), parts)
        self._append(kind, {"rows": rows_U, **image, "priority": priority_U}, request)
        return image

    def _append(
        self, kind: Kind, parts: Mapping[str, Part | None], request: Request | None
    ) -> None:
        given = {name: part for name, part in parts.items() if part is not None}
        if request is not None:
            given["request"] = request.packed()
        self.log.append(Record(kind, given))


def batches(log: Iterable[tuple[int, Record]]) -> Iterator[tuple[Kind, dict[str, Any]]]:
    """The records of a log, those of one kind that follow each other as one.

    Yields the kind and the parts, in which each row stands once, as the last record has it, and
    "request" is those of all.
    """
    waiting: list[Record] = []
    rows = 0
    for _, record in log:
        many = rows > MOST_ROWS
        if waiting and (many or not _alike(waiting[-1], record)):
            yield waiting[-1].kind, _together(waiting)
            waiting, rows = [], 0
        waiting.append(record)
        rows += len(cast(Array, record.parts["rows"]))
    if waiting:
        yield waiting[-1].kind, _together(waiting)


def _alike(a: Record, b: Record) -> bool:
    # Rows that are evicted are others than those written: each record does both at once.
    named = a.parts.keys() - {"request"}, b.parts.keys() - {"request"}
    return a.kind == b.kind and named[0] == named[1] and "evicted" not in a.parts


def _together(records: list[Record]) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "request": [record.parts["request"] for record in records if "request" in record.parts]
    }
    names = records[0].parts.keys() - {"request"}
    if len(records) == 1:
        for name in names:
            part = records[0].parts[name]
            # What the log gives is not to be written to.
            whole[name] = part.copy() if isinstance(part, np.ndarray) else part
        return whole
    rows_B = np.concatenate([cast(Array, record.parts["rows"]) for record in records])
    _, last_U = np.unique(rows_B[::-1], return_index=True)
    kept_U = np.sort(len(rows_B) - 1 - last_U)
    for name in names:
        parts = [record.parts[name] for record in records]
        if isinstance(parts[0], pa.Table):
            whole[name] = pa.concat_tables(parts).take(pa.array(kept_U))
        else:
            joined = np.concatenate(cast(list[Array], parts))
            whole[name] = joined if name == "next_slot" else joined[kept_U]
    return whole
