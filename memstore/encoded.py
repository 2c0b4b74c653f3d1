"""Encoded memories: keys that are sums of rows of other memories, and their refresh.

The stored keys serve searching and are as old as their last encoding. How old is known by part:
the way a part row has gone since then bounds how far every key made of it is off, so drift is
kept once a part row and never once a slot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from memstore import checks
from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.dtypes import storage
from memstore.embedded import EmbeddedMemory
from memstore.errors import InvalidArgument, UnknownSlot, Unsupported
from memstore.kernels.half import narrow, wide
from memstore.memory import (
    Applied,
    Array,
    Description,
    LookupResult,
    Numbers,
    Records,
    Refreshed,
    RequestId,
    Rows,
    SearchOptions,
    SearchResult,
    Slots,
    SlotsLike,
)
from memstore.meter import Meter, metered
from memstore.retries import Asked

BLOCK = 131_072
"""Slots encoded at a time."""

WHOLE_SHARE = 0.25
"""With more than this share of the slots drifted, the index is built anew, not mended."""

NEGLIGIBLE_DRIFT = 1e-6
"""Relative drift below which a part row counts as unmoved: float32 holds seven digits."""


@metered
class EncodedMemory:
    """A `Memory` over record columns that name rows; it has no row of its own to train."""

    def __init__(self, base: EmbeddedMemory, memories: Mapping[str, EmbeddedMemory]) -> None:
        self.base = base
        self._encoding = base.config.encoding_config
        self._parts = {column: memories[name] for column, name in self._encoding.key.items()}
        self._values = {column: memories[name] for column, name in self._encoding.value.items()}
        for column, part in self._parts.items():
            if (part.config.dim, part.config.dtype) != (base.config.dim, base.config.dtype):
                raise InvalidArgument(
                    f"the rows of memory {part.name!r}, for key column {column!r}, do not fit",
                    got=f"{part.config.dtype} of width {part.config.dim}",
                    expected=f"{base.config.dtype} of width {base.config.dim}",
                )
        self.encoded_at: dict[str, Array] = {column: np.zeros(0) for column in self._parts}
        """For each key column, the travel of the part rows at their last encoding."""
        self.refreshed = 0
        self.meter = Meter()

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def config(self) -> MemoryConfig:
        return self.base.config

    def append(
        self,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        self._refuse_vectors(keys, values)
        if records is None:
            raise InvalidArgument("records are missing", expected=self.config.schema.names)
        table = checks.records(records, self.config.schema, None)
        assert table is not None
        step = checks.step_number(step)
        asked = Asked.of(request_id, "append", table, step)
        deadline = Deadline(deadline_s)
        return self.base.put_new(
            len(table), self._first_encoding, None, table, step, asked, deadline
        )

    def write(
        self,
        slots: SlotsLike,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        self._refuse_vectors(keys, values)
        slots_B = checks.slots(slots, unique=True)
        table = checks.records(records, self.config.schema, len(slots_B))
        assert table is not None
        step = checks.step_number(step)
        asked = Asked.of(request_id, "write", slots_B, table, step)
        deadline = Deadline(deadline_s)
        return self.base.put_over(
            slots_B, self._checked_encoding, None, table, step, asked, deadline
        )

    def update(
        self,
        slots: SlotsLike,
        key_grads: Array | None = None,
        value_grads: Array | None = None,
        lr: float | None = None,
        *,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        raise self._no_rows()

    def blend(
        self,
        slots: SlotsLike,
        weights: Numbers,
        erase: Array,
        add: Array,
        *,
        step: int | None = None,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        raise self._no_rows()

    def touch(
        self,
        slots: SlotsLike,
        step: int,
        weights: Numbers | None = None,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        return self.base.touch(slots, step, weights, request_id=request_id, deadline_s=deadline_s)

    def allocate(
        self,
        n: int,
        *,
        step: int | None = None,
        records: Records | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        raise self._no_rows()

    def erase(
        self,
        slots: SlotsLike,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        return self.base.erase(slots, request_id=request_id, deadline_s=deadline_s)

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> SearchResult:
        return self.base.search(queries, k, options)

    def gather(
        self,
        slots: SlotsLike,
        *,
        vectors: bool = True,
        columns: Sequence[str] = (),
        list_limit: int | None = None,
    ) -> Rows:
        return self.base.gather(slots, vectors=vectors, columns=columns, list_limit=list_limit)

    def lookup(
        self,
        column: str,
        values: Sequence[Any] | Array,
        limit: int,
        cursor: SlotsLike | None = None,
    ) -> LookupResult:
        return self.base.lookup(column, values, limit, cursor)

    def reindex(self) -> None:
        self.base.reindex()

    def refresh(self, limit: int | None = None) -> Refreshed:
        if limit is not None:
            checks.positive("limit", limit)
        if self.base.refusal is not None:
            raise self.base.refusal
        # Travel is read before the rows are: a step in between is encoded and still counted.
        travel = {column: part.travel() for column, part in self._parts.items()}
        drift = {column: self._drift(column, travel[column]) for column in self._parts}
        before = max((float(d.max(initial=0.0)) for d in drift.values()), default=0.0)
        chosen = self._most_drifted(drift, limit)
        slots = self._slots_of(chosen)
        if len(slots) > WHOLE_SHARE * max(self.base.describe().rows, 1):
            encoded = self._encode_again(slots, drifts=True)
            if self.config.index_config.kind not in ("none", "exact"):
                self.base.reindex()
        else:
            encoded = self._encode_again(slots, drifts=False)
        for column, rows in chosen.items():
            self.encoded_at[column] = _fitted(self.encoded_at[column], len(travel[column]))
            self.encoded_at[column][rows] = travel[column][rows]
        self.refreshed += 1
        return Refreshed(encoded=encoded, drift_before=before, drift_after=self.drift())

    def replayed(self, slots: Slots) -> None:
        """Encodes slots again whose keys came out of the log, after a crash.

        They were encoded from parts some of whose steps may not have been logged, and are lost.
        """
        if any(part.config.updates != "logged" for part in self._parts.values()):
            self._encode_again(slots, drifts=False)

    def describe(self) -> Description:
        return replace(self.base.describe(), drift=self.drift())

    def drift(self) -> float:
        """The largest bound of a part row's relative drift since it was last encoded."""
        drifts = (self._drift(column, part.travel()) for column, part in self._parts.items())
        return max((float(drift.max(initial=0.0)) for drift in drifts), default=0.0)

    def _drift(self, column: str, travel_P: Array) -> Array:
        moved_P = travel_P - _fitted(self.encoded_at[column], len(travel_P))
        moved = np.flatnonzero(moved_P > 0.0)
        drift_P = np.zeros(len(travel_P))
        part = self._parts[column]
        live = moved[part.alive(moved)]
        keys_BD = part.gather(live).keys_BD
        assert keys_BD is not None
        norms_B = np.linalg.norm(wide(keys_BD), axis=1)
        drift_P[live] = moved_P[live] / np.maximum(norms_B, np.finfo(np.float32).tiny)
        drift_P[drift_P < NEGLIGIBLE_DRIFT] = 0.0
        return drift_P

    def _most_drifted(self, drift: Mapping[str, Array], limit: int | None) -> dict[str, Slots]:
        """The part rows to encode again, by key column; with a limit the worst, at least one."""
        if limit is None:
            return {column: np.flatnonzero(drift_P) for column, drift_P in drift.items()}
        columns = list(drift)
        uses = {column: np.zeros(len(drift[column]), np.int64) for column in columns}
        for _, records in self._blocks(self.base.live_slots()):
            for column in columns:
                # Parts appended since the drift was read did not drift.
                named = records[column].to_numpy()
                counts = np.bincount(named, minlength=len(uses[column]))
                uses[column] += counts[: len(uses[column])]
        owner_P = np.repeat(np.arange(len(columns)), [len(drift[c]) for c in columns])
        row_P = np.concatenate([np.arange(len(drift[c])) for c in columns])
        drift_P = np.concatenate([drift[c] for c in columns])
        uses_P = np.concatenate([uses[c] for c in columns])
        worst = np.argsort(-drift_P, kind="stable")[: np.count_nonzero(drift_P)]
        fits = int(np.searchsorted(np.cumsum(uses_P[worst]), limit, side="right"))
        taken = worst[: max(1, fits)]
        return {c: np.sort(row_P[taken][owner_P[taken] == i]) for i, c in enumerate(columns)}

    def _slots_of(self, chosen: Mapping[str, Slots]) -> Slots:
        """The slots that any of the chosen part rows is a part of, rising."""
        found = [np.empty(0, np.int64)]
        if not any(map(len, chosen.values())):
            return found[0]
        for slots_B, records in self._blocks(self.base.live_slots()):
            hit_B = np.zeros(len(slots_B), bool)
            for column, rows in chosen.items():
                hit_B |= np.isin(records[column].to_numpy(), rows, kind="table")
            found.append(slots_B[hit_B])
        return np.concatenate(found)

    def _blocks(self, slots: Slots) -> Iterator[tuple[Slots, pa.Table]]:
        """Slots that still are there and what their parts are; no mutation comes in between."""
        for start in range(0, len(slots), BLOCK):
            with self.base.frozen():
                slots_B = slots[start : start + BLOCK]
                slots_B = slots_B[self.base.alive(slots_B)]
                columns = list(self._parts)
                records = self.base.gather(slots_B, vectors=False, columns=columns).records
                assert records is not None
                yield slots_B, records

    def _encode_again(self, slots: Slots, *, drifts: bool) -> int:
        encoded = 0
        for slots_B, records in self._blocks(slots):
            whole_B = np.ones(len(slots_B), bool)
            for column, part in self._parts.items():
                # A part erased under a fact leaves the fact as it was last encoded.
                whole_B &= part.alive(records[column].to_numpy())
            keys_BD = self._encode(records.filter(pa.array(whole_B)))
            if not drifts:
                self.base.admit()
            # A sum past the largest number of a narrow dtype is refused when it is appended;
            # parts that were trained that far since are no reason to refuse a refresh.
            kept_BD = narrow(keys_BD, storage(self.config.dtype))
            self.base.put(slots_B[whole_B], kept_BD, None, None, drifts=drifts)
            encoded += len(keys_BD)
        return encoded

    def _first_encoding(self, records: pa.Table) -> Array:
        """The keys of records that are to be appended."""
        self._check_values(records)
        if self.base.next_slot == 0:
            # Before the rows are read: a step in between is encoded and still counted.
            self.encoded_at = {column: part.travel() for column, part in self._parts.items()}
        return self._encode(records)

    def _checked_encoding(self, records: pa.Table) -> Array:
        self._check_values(records)
        return self._encode(records)

    def _encode(self, records: pa.Table) -> Array:
        """The keys of records: the sum of the rows that their key columns name, not yet rounded."""
        keys_BD: Array | None = None
        for column, part in self._parts.items():
            rows_BD = wide(self._part_rows(column, part, records[column].to_numpy()))
            keys_BD = rows_BD if keys_BD is None else keys_BD + rows_BD
        assert keys_BD is not None
        return keys_BD

    def _check_values(self, records: pa.Table) -> None:
        for column, part in self._values.items():
            named = records[column].combine_chunks()
            named = named.flatten() if pa.types.is_list(named.type) else named
            self._check_named(column, part, named.to_numpy())

    def _part_rows(self, column: str, part: EmbeddedMemory, slots_B: Slots) -> Array:
        self._check_named(column, part, slots_B)
        keys_BD = part.gather(slots_B).keys_BD
        assert keys_BD is not None
        return keys_BD

    def _check_named(self, column: str, part: EmbeddedMemory, slots_B: Slots) -> None:
        try:
            part.check_known(slots_B)
        except UnknownSlot as error:
            raise UnknownSlot(
                f"record column {column!r} names a slot that memory {part.name!r} has not",
                got=error.got,
                hint="append the parts first; nothing was changed",
            ) from error

    def _no_rows(self) -> Unsupported:
        return Unsupported(
            f"memory {self.name!r} is encoded and has no rows of its own",
            hint=f"change the memories of its parts: {sorted(self._encoding.memories)}",
        )

    def _refuse_vectors(self, keys: Array | None, values: Array | None) -> None:
        if keys is not None or values is not None:
            raise InvalidArgument(
                f"memory {self.name!r} is encoded: its keys are sums of parts",
                got="keys" if keys is not None else "values",
                hint=f"give records with {sorted(self._parts)} instead",
            )


def _fitted(array: Array, length: int) -> Array:
    """`array` as one of `length`, zeros behind its end."""
    fitted = np.zeros(length)
    fitted[: len(array)] = array[:length]
    return fitted
