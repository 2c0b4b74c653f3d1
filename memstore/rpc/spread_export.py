"""SpreadExport: the rows of a memory over several servers, as they were at one moment.

A cut is made for it, and let go of when it ends; each server reads its own rows out of the files of
that. Whoever is asked puts together what they give, batch by batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from memstore import checks
from memstore.config import MemoryConfig
from memstore.durable.checkpoints import base_of
from memstore.errors import InvalidArgument, MemstoreError, TooLong, UnknownSlot
from memstore.memory import Slots
from memstore.placement import Part, holders, homes
from memstore.rpc import codec, columns
from memstore.rpc.exporting import BATCH_BYTES, FIRST_ROWS, MOST_ROWS
from memstore.rpc.parts import to_part
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.spread.fan import Fan, all_of
from memstore.store import Store

CHECKED = 1 << 16
"""Slots of which it is asked at a time whether they were there."""


class Moments(Protocol):
    """What makes the cut, and asks the servers for rows of it."""

    @property
    def part(self) -> Part: ...

    @property
    def fan(self) -> Fan: ...

    def make_cut(self) -> str: ...

    def drop_cut(self, cut: str) -> None: ...

    def rows_of(self, number: int, asked: pb.RowsRequest) -> pb.RowsReply: ...


class SpreadExport:
    """Reads batch after batch; one thread at a time calls."""

    def __init__(
        self,
        moments: Moments,
        config: MemoryConfig,
        within: Callable[[Callable[[], Any]], Any],
        asked: pb.ExportRequest,
        most_bytes: int,
    ) -> None:
        """within: does some work in the time of the call.  most_bytes: that a batch may have.

        Raises `InvalidArgument` on an unknown column, `UnknownSlot` on a slot that is not there.
        """
        self._moments, self._config, self._within = moments, config, within
        self._most, self._name = most_bytes, asked.memory
        unknown = sorted({*asked.columns} - {*config.records})
        if unknown:
            raise InvalidArgument(
                "no such columns", got=unknown, expected=f"among {sorted(config.records)}"
            )
        self._asked = pb.RowsRequest(
            memory=asked.memory,
            without_vectors=asked.without_vectors,
            columns=[] if asked.without_records else [*asked.columns] or config.schema.names,
        )
        self._slots: Slots | None = None
        if asked.HasField("slots"):
            self._slots = checks.slots(codec.to_array("slots", asked.slots))
        self.rows = 0
        """Of the last batch."""
        self._at, self._rows, self._end, self._cut = 0, FIRST_ROWS, 0, ""

    def begin(self) -> None:
        """Makes the cut."""
        self._within(self._begin)

    def _begin(self) -> None:
        self._cut = self._moments.make_cut()
        if self._slots is None:
            self._end = self._next_slot()
            return
        self._end = len(self._slots)
        for first in range(0, len(self._slots), CHECKED):
            some = self._slots[first : first + CHECKED]
            there = self._read(some, pb.RowsRequest(memory=self._name, without_vectors=True))
            if len(there) < len(some):
                missing = np.setdiff1d(some, there.column(columns.SLOT).to_numpy())
                raise UnknownSlot(
                    f"memory {self._name!r} has no such slots", got=missing[:5].tolist()
                )

    def next(self) -> bytes | None:
        """The next batch; None behind the last. An export has one at least, if an empty one."""
        data: bytes | None = self._within(self._next)
        return data

    def end(self) -> None:
        """Lets go of the cut; where part 0 does not hear of it, it does so by itself."""
        if self._cut:
            cut, self._cut = self._cut, ""
            with contextlib.suppress(MemstoreError):
                self._moments.drop_cut(cut)

    def _next(self) -> bytes | None:
        while self._at < self._end or not self._at:
            last = min(self._at + self._rows, self._end)
            try:
                table = self._read(self._range(self._at, last), self._asked)
            except TooLong:
                if self._rows == 1:
                    raise
                self._rows = max(1, self._rows // 2)
                continue
            data = columns.to_batch(table)
            if len(data) > self._most and self._rows > 1:
                self._rows = max(1, self._rows // 2)
                continue
            if len(data) > self._most:
                raise InvalidArgument(
                    "a row is longer than a message may be",
                    got=f"{len(data)} bytes in slot {table.column(columns.SLOT)[0]}",
                    expected=f"≤ {self._most}",
                    hint="leave columns out",
                )
            self._at = max(1, last)
            fitting = int(self._rows * BATCH_BYTES / max(len(data), 1))
            self._rows = max(1, min(fitting, 4 * self._rows, MOST_ROWS))
            if len(table) or self._at >= self._end:
                self.rows = len(table)
                return data
        return None

    def _range(self, first: int, last: int) -> Slots:
        return np.arange(first, last) if self._slots is None else self._slots[first:last]

    def _next_slot(self) -> int:
        asked = pb.RowsRequest(memory=self._name, without_vectors=True)
        return int(self._one(0, np.empty(0, np.int64), asked).next_slot)

    def _read(self, slots_B: Slots, asked: pb.RowsRequest) -> pa.Table:
        """The rows of some slots that were there, in their order."""
        shards, of = self._config.shards, self._moments.part.of
        home_B = homes(slots_B, shards, of)
        split = [(i, np.flatnonzero(home_B == i)) for i in range(holders(shards, of))]
        split = [(i, at) for i, at in split if len(at)] or [(0, np.empty(0, np.int64))]
        calls = [partial(self._one, i, slots_B[at], asked) for i, at in split]
        replies: list[pb.RowsReply] = all_of(self._moments.fan(calls))
        tables = [columns.from_batch(reply.batch) for reply in replies]
        # Each gives its own in the order in which they were asked for: those that were there.
        there = [table.column(columns.SLOT).to_numpy() for table in tables]
        places = [
            _kept(at, slots_B[at], found) for (_, at), found in zip(split, there, strict=True)
        ]
        whole = pa.concat_tables(tables)
        return whole.take(np.argsort(np.concatenate(places), kind="stable")).combine_chunks()

    def _one(self, number: int, slots_B: Slots, asked: pb.RowsRequest) -> pb.RowsReply:
        message = pb.RowsRequest(
            part=to_part(Part(number, self._moments.part.of)),
            cut=self._cut,
            slots=codec.to_tensor(slots_B),
        )
        message.MergeFrom(asked)
        return self._moments.rows_of(number, message)


def _kept(at: Slots, slots_B: Slots, found: Slots) -> Slots:
    """Where those slots stand that were found, of slots that may repeat."""
    return at[np.isin(slots_B, found)]


def still_rows(store: Store, asked: pb.RowsRequest) -> pb.RowsReply:
    """What a part has of some rows at a cut."""
    base_of(store.memory(asked.memory))  # type: ignore[arg-type]  # or there is no such memory
    still = store.cuts.still(asked.cut, asked.memory)
    slots_B = checks.slots(codec.to_array("slots", asked.slots))
    rows = still.gather(slots_B, vectors=not asked.without_vectors, columns=[*asked.columns])
    return pb.RowsReply(batch=columns.to_batch(columns.exported(rows)), next_slot=still.next_slot)
