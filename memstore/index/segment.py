"""Segment: an immutable part of the sealed tier, and which of its rows still stand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import faiss
import numpy as np

from memstore.index.devices import Copy, Room
from memstore.index.graph import Graph
from memstore.index.packing import packed, unpacked
from memstore.index.passing import Passing
from memstore.index.scanning import Bits, Found, Scanner, are_set, scanner
from memstore.kernels.bits import cleared
from memstore.memory import Array, Slots

FEW = 10
"""While fewer than one row in so many is stale, what was found is looked through for them."""


@dataclass(frozen=True)
class Segment:
    """Encoded rows in inverted lists.

    valid: a bit a row number, set where this copy may be proposed. A row that was rewritten or
    erased since has none; nor has it where a younger segment holds it. stale: how many lost it.
    beyond: how many rows were longer than the reach of the reduction.
    room: where copies of it are made for searching.  copy: the one of this segment.
    graph: laid over the same rows; None in all but the oldest segment at most.
    scanner: reads the lists.
    """

    lists: faiss.IndexIVF
    valid: Bits
    stale: int = 0
    beyond: int = 0
    room: Room | None = None
    copy: Copy | None = None
    graph: Graph | None = None
    scanner: Scanner = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.scanner is None:
            object.__setattr__(self, "scanner", scanner(self.lists))

    @staticmethod
    def add(lists: faiss.IndexIVF, keys_RD: Array, rows_R: Slots, lists_R: Slots) -> None:
        """Encodes rows, float32 `[R, D]`, under their numbers into the lists named."""
        pointer = faiss.swig_ptr
        lists.add_core(len(keys_RD), pointer(keys_RD), pointer(rows_R), pointer(lists_R), None)

    @staticmethod
    def reserve(lists: faiss.IndexIVF, counts_C: Slots) -> None:
        """Makes room for so many rows in each list, all of them empty yet, and for no more."""
        held = faiss.downcast_InvertedLists(lists.invlists)
        for number in np.flatnonzero(counts_C).tolist():
            held.resize(number, int(counts_C[number]))
            held.resize(number, 0)

    @classmethod
    def over(cls, lists: faiss.IndexIVF, rows_R: Slots, beyond: int = 0) -> Segment:
        """Takes over lists that hold these rows."""
        held_N = np.zeros(int(rows_R.max(initial=-1)) + 1, bool)
        held_N[rows_R] = True
        return cls(packed(lists), np.packbits(held_N, bitorder="little"), beyond=beyond)

    def on(self, room: Room | None) -> Segment:
        """The same, searched where there is room; raises `DeviceError`."""
        return self if room is None else replace(self, room=room, copy=room.copy(self.lists))

    def __len__(self) -> int:
        """Rows held, stale ones included."""
        return int(self.lists.ntotal)

    @property
    def rows(self) -> Slots:
        """The rows that still stand, rising."""
        return np.flatnonzero(np.unpackbits(self.valid, bitorder="little"))

    def without(self, rows_B: Slots) -> Segment:
        """The same lists, from which these rows are proposed no more."""
        valid, lost = cleared(self.valid, rows_B)
        return replace(self, valid=valid, stale=self.stale + lost) if lost else self

    def joined(self, *others: Segment) -> Segment:
        """All in one, without what is stale; lists are joined, nothing is assigned again."""
        lists, parts = self._cleaned(), (self, *others)
        valid = np.zeros(max(len(part.valid) for part in parts), np.uint8)
        for part in parts:
            valid[: len(part.valid)] |= part.valid
        for other in others:
            lists.merge_from(other._cleaned(), 0)
        lists = faiss.clone_index(lists)  # grown lists hold room for half as much again
        return Segment(packed(lists), valid, beyond=sum(part.beyond for part in parts)).on(
            self.room
        )

    def walk(self, queries_QD: Array, k: int, window: int) -> Found:
        """Rows for the k best of each query, by its graph; fewer where most are stale."""
        assert self.graph is not None
        return self.graph.search(queries_QD, k, window, self.valid, self.stale)

    def search(
        self,
        queries_QD: Array,
        count: int,
        lists_QP: Array,
        scores_QP: Array,
        passing: Passing | None = None,
    ) -> Found:
        """About `count` rows a query out of its assigned lists, `[Q, C]`; −1 is no list.

        passing: propose no other rows.
        """
        count = min(count, len(self))
        if self.copy is not None and passing is None:
            return self._search_copy(self.copy, queries_QD, count, lists_QP, scores_QP)
        bits, few = self._standing, self.stale * FEW <= len(self)
        if passing is not None:
            known = min(len(self.valid), len(passing.bits))
            bits, few = np.zeros_like(self.valid), False
            np.bitwise_and(self.valid[:known], passing.bits[:known], out=bits[:known])
        return self.scanner.find(queries_QD, count, lists_QP, scores_QP, bits, few=few)

    @property
    def sizes_C(self) -> Slots:
        """Rows in each list, stale ones included."""
        return self.scanner.sizes_C

    def met(self, passing: Passing) -> Slots:
        """Rows in each list that pass, stale ones included, `[C]`."""
        return passing.kept(self.scanner, lambda: self.scanner.met(passing.bits))

    def _search_copy(
        self, copy: Copy, queries_QD: Array, count: int, lists_QP: Array, scores_QP: Array
    ) -> Found:
        """Asks the device, then the host about the queries that the device leaves owed."""
        holds = (lambda rows_QC: are_set(self.valid, rows_QC)) if self.stale else None
        rows_QC, scores_QC, owed_Q = copy.propose(queries_QD, count, lists_QP, scores_QP, holds)
        # Of the device, which compares all that its lists hold.
        compared_Q = self.scanner.held_in(lists_QP)
        if len(owed_Q):
            part = (array[owed_Q] for array in (queries_QD, lists_QP, scores_QP))
            queries_SD, lists_SP, scores_SP = map(np.ascontiguousarray, part)
            found = self.scanner.find(
                queries_SD, count, lists_SP, scores_SP, self._standing, few=False
            )
            rows_QC[owed_Q], scores_QC[owed_Q], more_Q = found
            compared_Q[owed_Q] += more_Q
        return Found(rows_QC, scores_QC, compared_Q)

    @property
    def _standing(self) -> Bits | None:
        """The rows that still stand; None for all."""
        return self.valid if self.stale else None

    def _cleaned(self) -> faiss.IndexIVF:
        lists = unpacked(self.lists)
        if self.stale:
            lists.remove_ids(faiss.IDSelectorNot(faiss.IDSelectorBitmap(self.valid)))
        return lists
