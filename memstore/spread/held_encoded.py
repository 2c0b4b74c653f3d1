"""HeldEncodedMemory: what one of several servers has of an encoded memory, and is asked of it.

It keeps the sums of its own slots, and the drift of the part rows that are here. Whoever sums asks
the others for their rows; so that no sum is put that is older than what a refresh counts from,
each refresh begins a new `epoch`, and sums that were begun in another are refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory, fitted
from memstore.errors import UnknownSlot, Unsupported
from memstore.memory import Array, Description, Refreshed, Slots
from memstore.meter import metered
from memstore.spread.held import HeldMemory
from memstore.sums import keyless_spread

PAGE = 1 << 18
"""Rows of one answer."""


class Begun(NamedTuple):
    """epoch: what sums that are begun now are put under.  empty: no slot was given out yet, where
    slots are given out."""

    epoch: int
    empty: bool


class Drifted(NamedTuple):
    """Part rows of one key column that drifted, by how much, and how far they had gone."""

    slots_P: Slots
    drift_P: Array
    travel_P: Array


@metered
class HeldEncodedMemory(EncodedMemory):
    """The sums of some of the shards, and the drift of some of the part rows."""

    base: HeldMemory

    def __init__(self, base: HeldMemory, memories: Mapping[str, EmbeddedMemory]) -> None:
        """Raises `Unsupported` where keys are not stored: their parts lie elsewhere."""
        if not base.config.keeps_keys:
            raise keyless_spread(base.name)
        super().__init__(base, memories)
        base.epoch = self._epoch = secrets.randbits(48)
        base.drift = self.drift
        self._begun = False

    def loaded(self, encoded_at: dict[str, Array], refreshed: int) -> None:
        super().loaded(encoded_at, refreshed)
        # Others may have sums that are older than this.
        self._begun = True

    def replayed(self, slots: Slots) -> None:
        """Nothing: its keys are as they were logged, and what is lost is lost by parts."""

    def lost_steps(self) -> None:
        """Counts as drifted what may have lost steps in a crash, of which others keep the sums."""
        for column, part in self._parts.items():
            if part.config.updates != "logged":
                lost_P = np.zeros(part.next_slot)
                for number in part.part.shards(part.config.shards):
                    lost_P[number :: part.config.shards] = -np.inf
                self.encoded_at[column] = lost_P
                self.refreshed += 1

    def describe(self) -> Description:
        return self.base.describe()

    def refresh(self, limit: int | None = None) -> Refreshed:
        raise self._apart()

    def _put_new(self, *_: Any) -> NoReturn:
        raise self._apart()

    def _put_over(self, *_: Any) -> NoReturn:
        raise self._apart()

    def begin(self, first: bool) -> Begun:
        """Before part rows are read to be summed.  first: there are no sums yet, so that drift is
        counted from now on."""
        with self.base.frozen():
            if first and not self._begun:
                self.encoded_at = {column: part.travel() for column, part in self._parts.items()}
                self.refreshed += 1
                self._begun = True
            return Begun(self._epoch, self.base.next_slot == 0)

    def drifted(self, column: str, after: int) -> Drifted:
        """A page of its part rows that drifted, rising, behind a slot."""
        if column not in self._parts:
            return Drifted(np.empty(0, np.int64), np.empty(0), np.empty(0))
        travel_P = self._parts[column].travel()
        drift_P = self._drift(column, travel_P)
        rows = np.flatnonzero(drift_P)
        rows = rows[rows > after][:PAGE]
        return Drifted(rows, drift_P[rows], travel_P[rows])

    def renew(self) -> int:
        """Begins another epoch; returns it. No sum of the one before is put from now on."""
        if self.base.refusal is not None:
            raise self.base.refusal
        with self.base.frozen():
            self._epoch += 1
            self.base.epoch = self._epoch
            return self._epoch

    def used(self, column: str, rows_P: Slots) -> Slots:
        """Of how many of its slots each part row is a part."""
        return self.uses.counts({column: rows_P})[column]

    def naming(self, column: str, rows_P: Slots, after: int) -> tuple[Slots, Slots]:
        """A page of its slots that any of some rows is a part of, rising, behind a slot: the
        slots, and what they name in each key column, `[B, C]`."""
        slots = [np.empty(0, np.int64)]
        named = [np.empty((0, len(self._encoding.key)), np.int64)]
        using, found = self.uses.slots({column: rows_P}), 0
        for slots_B, records in self._blocks(using[using > after]):
            named_BC = np.stack([records[c].to_numpy() for c in self._encoding.key], axis=1)
            # What a slot names may be another part row by now.
            hit_B = np.isin(records[column].to_numpy(), rows_P)
            slots.append(slots_B[hit_B])
            named.append(named_BC[hit_B])
            found += len(slots[-1])
            if found >= PAGE:
                break
        return np.concatenate(slots)[:PAGE], np.concatenate(named)[:PAGE]

    def put_again(
        self, slots_B: Slots, keys_BD: Array, named_BC: Slots, epoch: int, drifts: bool
    ) -> int:
        """Puts new sums where slots still name what these were made of; returns how many.

        They are logged, drifting or not: that they were summed is noted on other servers, which a
        crash here takes nothing from.
        """
        with self.base.gate.doing(None, _unknown):
            return self._put_again(slots_B, keys_BD, named_BC, epoch, drifts)

    def _put_again(
        self, slots_B: Slots, keys_BD: Array, named_BC: Slots, epoch: int, drifts: bool
    ) -> int:
        if not drifts:
            self.base.admit()
        with self.base.frozen():
            self.base.check_epoch(epoch)
            alive = np.flatnonzero(self.base.alive(slots_B))
            columns = list(self._encoding.key)
            records = self.base.gather(slots_B[alive], vectors=False, columns=columns).records
            assert records is not None
            now_BC = np.stack([records[column].to_numpy() for column in columns], axis=1)
            same = alive[(now_BC == named_BC[alive]).all(axis=1)]
            self.base.put(slots_B[same], keys_BD[same], None, None, drifts=drifts)
        for shard in self.base.shards:
            if shard.journal is not None:
                shard.journal.log.sync()
        return len(same)

    def note(self, column: str, rows_P: Slots, travel_P: Array, epoch: int) -> None:
        """Part rows are summed anew, in an epoch, as they were when they had gone so far.

        In another one it is refused: what they had gone may be lost. Servers of before say 0.
        """
        if column not in self._parts or (rows_P >= self._parts[column].next_slot).any():
            raise UnknownSlot(f"no such part rows of column {column!r} are here")
        with self.base.gate.doing(None, _unknown), self.base.frozen():
            if epoch:
                self.base.check_epoch(epoch)
            encoded_at = self.encoded_at[column]
            length = max(len(encoded_at), int(rows_P.max(initial=-1)) + 1)
            encoded_at = fitted(encoded_at, length)
            encoded_at[rows_P] = np.maximum(encoded_at[rows_P], travel_P)
            self.encoded_at[column] = encoded_at
            self.refreshed += 1

    def _apart(self) -> Unsupported:
        return Unsupported(
            f"memory {self.name!r} is part {self.base.part} here: its parts lie on other servers",
            hint="ask a server",
        )


def _unknown() -> bool:
    """Of what has no number, so that nobody knows whether it was done."""
    return False
