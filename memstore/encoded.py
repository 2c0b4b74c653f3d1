"""Encoded memories: keys that are sums of rows of other memories, and their refresh.

The stored keys serve searching and are as old as their last encoding. How old is known by part:
the way a part row has gone since then bounds how far every key made of it is off, so drift is
kept once a part row and never once a slot.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from memstore import checks
from memstore.batches import Found, Pieces, worst
from memstore.changes import NOTHING
from memstore.deadline import Deadline
from memstore.dtypes import storage
from memstore.embedded import EmbeddedMemory
from memstore.kernels.half import narrow, wide
from memstore.memory import Applied, Array, Description, Refreshed, RequestId, Slots
from memstore.meter import Meter, metered
from memstore.part_uses import PartUses
from memstore.retries import Asked
from memstore.sums import SummedMemory

BLOCK = 131_072
"""Slots encoded at a time."""

WHOLE_SHARE = 0.25
"""With more than this share of the slots drifted, the index is built anew, not mended."""

NEGLIGIBLE_DRIFT = 1e-6
"""Relative drift below which a part row counts as unmoved: float32 holds seven digits."""


@metered
class EncodedMemory(SummedMemory):
    """The memory of sums in this process."""

    base: EmbeddedMemory
    _parts: Mapping[str, EmbeddedMemory]

    def __init__(self, base: EmbeddedMemory, memories: Mapping[str, EmbeddedMemory]) -> None:
        super().__init__(base, memories)
        self.encoded_at: dict[str, Array] = {column: np.zeros(0) for column in self._parts}
        """For each key column, the travel of the part rows at their last encoding."""
        self.refreshed = 0
        self._uses: tuple[tuple[int, ...], PartUses] | None = None
        """And what the versions of the records were that it was made of."""
        self._pieces, self._refreshing = Pieces(), threading.Lock()
        self.meter = Meter()

    def loaded(self, encoded_at: dict[str, Array], refreshed: int) -> None:
        """Goes on from a checkpoint."""
        self.encoded_at, self.refreshed = encoded_at, refreshed
        self._pieces = Pieces()

    @property
    def _encodes(self) -> bool:
        """Whether anything is as old as an encoding."""
        return True

    def refresh(self, limit: int | None = None) -> Refreshed:
        if limit is not None:
            checks.positive("limit", limit)
        if self.base.refusal is not None:
            raise self.base.refusal
        if not self._encodes:
            return Refreshed(encoded=0, drift_before=0.0, drift_after=0.0)
        with self._refreshing:
            return self._refresh(limit)

    def _refresh(self, limit: int | None) -> Refreshed:
        # Travel is read before the rows are: a step in between is encoded and still counted.
        travel = {column: part.travel() for column, part in self._parts.items()}
        drift = {column: self._drift(column, travel[column]) for column in self._parts}
        before = _largest(drift)
        chosen = self._most_drifted(drift, limit)
        gone = {column: travel[column][rows] for column, rows in chosen.items()}
        many = WHOLE_SHARE * max(self.base.live, 1)
        batch = self._pieces.next(chosen, gone, limit, self._of, many)
        encoded = self._encode_again(batch.found[0], drifts=batch.anew)
        if batch.rest is None:
            if batch.anew and self.config.index_config.kind not in ("none", "exact"):
                self.base.reindex()
            for column, rows in chosen.items():
                self._note(column, rows, batch.travel[column], len(travel[column]))
                drift[column][rows] = 0.0
                if (batch.travel[column] < travel[column][rows]).any():
                    drift[column] = self._drift(column, travel[column])
        self._pieces.done(chosen, batch)
        self.refreshed += 1
        return Refreshed(encoded=encoded, drift_before=before, drift_after=_largest(drift))

    def _of(self, chosen: Mapping[str, Slots]) -> Found:
        """The slots that any of some part rows is a part of."""
        return (self.uses.slots(chosen) if any(map(len, chosen.values())) else NOTHING,)

    def _note(self, column: str, rows: Slots, travel_R: Array, parts: int) -> None:
        """Part rows, of so many, are encoded as they were when they had gone so far."""
        at_P = fitted(self.encoded_at[column], parts)
        at_P[rows] = travel_R
        self.encoded_at[column] = at_P

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
        if not self._encodes:
            return 0.0
        return _largest({c: self._drift(c, part.travel()) for c, part in self._parts.items()})

    def _drift(self, column: str, travel_P: Array) -> Array:
        moved_P = travel_P - fitted(self.encoded_at[column], len(travel_P))
        moved = np.flatnonzero(moved_P > 0.0)
        drift_P = np.zeros(len(travel_P))
        part = self._parts[column]
        live = moved[part.alive(moved)]
        for start in range(0, len(live), BLOCK):
            rows_B = live[start : start + BLOCK]
            keys_BD = part.gather(rows_B).keys_BD
            assert keys_BD is not None
            keys_BD = wide(keys_BD)
            norms_B = np.sqrt(np.einsum("bd,bd->b", keys_BD, keys_BD))
            drift_P[rows_B] = moved_P[rows_B] / np.maximum(norms_B, np.finfo(np.float32).tiny)
        drift_P[drift_P < NEGLIGIBLE_DRIFT] = 0.0
        return drift_P

    def _most_drifted(self, drift: Mapping[str, Array], limit: int | None) -> dict[str, Slots]:
        """The part rows to encode again, by key column; with a limit the worst, at least one."""
        rows = {column: np.flatnonzero(drift_P) for column, drift_P in drift.items()}
        if limit is None or not any(map(len, rows.values())):
            return rows
        of_rows = {column: drift[column][rows[column]] for column in drift}
        begun = self._pieces.going_on(rows, of_rows, limit)
        return begun or worst(rows, of_rows, self.uses.counts(rows), limit)

    @property
    def uses(self) -> PartUses:
        """Which slots each part row is a part of; those that were erased since, too."""
        # Read first: records that come meanwhile have it made anew the next time.
        version = tuple(shard.records.version for shard in self.base.shards)
        if self._uses is None or self._uses[0] != version:
            blocks = self._blocks(self.base.live_slots())
            self._uses = version, PartUses(blocks, list(self._encoding.key))
        return self._uses[1]

    def _live(self, slots: Slots) -> Iterator[Slots]:
        """Slots that still are there, block by block; no mutation comes in between."""
        for start in range(0, len(slots), BLOCK):
            with self.base.frozen():
                slots_B = slots[start : start + BLOCK]
                yield slots_B[self.base.alive(slots_B)]

    def _blocks(self, slots: Slots) -> Iterator[tuple[Slots, pa.Table]]:
        """Slots that still are there and what their parts are; no mutation comes in between."""
        for slots_B in self._live(slots):
            columns = list(self._encoding.key)
            records = self.base.gather(slots_B, vectors=False, columns=columns).records
            assert records is not None
            yield slots_B, records

    def _encode_again(self, slots: Slots, *, drifts: bool) -> int:
        """Has slots be as of now; returns how many.  drifts: the index is made anew behind it."""
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
            # What a crash takes of these it takes of `encoded_at` too: then they count as drifted.
            vectors = kept_BD, None, None
            self.base.put(slots_B[whole_B], *vectors, drifts=drifts, logs=not drifts)
            encoded += len(keys_BD)
        return encoded

    def _first_encoding(self, records: pa.Table) -> Array:
        """What rows keep of records that are to be appended."""
        self._check_values(records)
        if self.base.next_slot == 0:
            # Before the rows are read: a step in between is encoded and still counted.
            self.encoded_at = {column: part.travel() for column, part in self._parts.items()}
        return self._kept(records)

    def _checked_encoding(self, records: pa.Table) -> Array:
        """What rows keep of records."""
        self._check_values(records)
        return self._kept(records)

    def _kept(self, records: pa.Table) -> Array:
        """The keys of records."""
        return self._encode(records)

    def _put_new(
        self,
        records: pa.Table,
        step: int | None,
        request_id: RequestId | None,
        deadline_s: float | None,
    ) -> Slots:
        asked = Asked.of(request_id, "append", records, step)
        rows = len(records), self._first_encoding, None, records
        return self.base.put_new(*rows, step, asked, Deadline(deadline_s))

    def _put_over(
        self,
        slots_B: Slots,
        records: pa.Table,
        step: int | None,
        request_id: RequestId | None,
        deadline_s: float | None,
    ) -> Applied:
        asked = Asked.of(request_id, "write", slots_B, records, step)
        rows = slots_B, self._checked_encoding, None, records
        return self.base.put_over(*rows, step, asked, Deadline(deadline_s))


def _largest(drift: Mapping[str, Array]) -> float:
    return max((float(drift_P.max(initial=0.0)) for drift_P in drift.values()), default=0.0)


def fitted(array: Array, length: int) -> Array:
    """`array` as one of `length`, zeros behind its end."""
    fitted = np.zeros(length)
    fitted[: len(array)] = array[:length]
    return fitted
