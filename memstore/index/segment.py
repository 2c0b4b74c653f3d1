"""Segment: an immutable part of the sealed tier, and which of its rows still stand."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import faiss
import numpy as np
import numpy.typing as npt

from memstore.index.devices import Copy, Room
from memstore.index.graph import Graph
from memstore.index.packing import lifted, packed, unpacked, widest
from memstore.index.passing import Passing
from memstore.kernels.bits import cleared
from memstore.memory import Array, Slots

Bits = npt.NDArray[np.uint8]
Found = tuple[Slots, Array]
"""Rows int64, −1 padded, and what their codes score, float32; of a padding no matter what."""

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
    """

    lists: faiss.IndexIVF
    valid: Bits
    stale: int = 0
    beyond: int = 0
    room: Room | None = None
    copy: Copy | None = None
    graph: Graph | None = None

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
        """About `count` rows a query out of its assigned lists, `[Q, C]`.

        passing: propose no other rows.
        """
        count = min(count, len(self))
        if self.copy is not None and passing is None:
            return self._search_copy(self.copy, queries_QD, count, lists_QP, scores_QP)
        if passing is not None:
            known = min(len(self.valid), len(passing.bits))
            bits = self.valid[:known] & passing.bits[:known]
            chosen = faiss.IDSelectorBitmap(bits)
            return self._visit(queries_QD, count, lists_QP, scores_QP, chosen)
        if not self.stale:
            return self._visit(queries_QD, count, lists_QP, scores_QP, None)
        chosen = faiss.IDSelectorBitmap(self.valid)
        if self.stale * FEW > len(self):
            return self._visit(queries_QD, count, lists_QP, scores_QP, chosen)
        # To ask about each row visited costs more than to find a few too many, and then to ask
        # again for the queries that were left with too little.
        more = min(count + max(8, count // 4), len(self))
        rows_QC, scores_QC = self._visit(queries_QD, more, lists_QP, scores_QP, None)
        full_Q = rows_QC[:, -1] >= 0
        rows_QC[~self._holds(rows_QC)] = -1
        short_Q = np.flatnonzero(full_Q & ((rows_QC >= 0).sum(axis=1) < count))
        if len(short_Q):
            rows_QC[short_Q] = -1
            rows_QC[short_Q, :count], scores_QC[short_Q, :count] = self._visit(
                *_of(short_Q, queries_QD, count, lists_QP, scores_QP), chosen
            )
        return rows_QC, scores_QC

    def _search_copy(
        self, copy: Copy, queries_QD: Array, count: int, lists_QP: Array, scores_QP: Array
    ) -> Found:
        """Asks the device, then the host about the queries that the device leaves owed."""
        holds = self._holds if self.stale else None
        rows_QC, scores_QC, owed_Q = copy.propose(queries_QD, count, lists_QP, scores_QP, holds)
        if len(owed_Q):
            chosen = faiss.IDSelectorBitmap(self.valid) if self.stale else None
            rows_QC[owed_Q], scores_QC[owed_Q] = self._visit(
                *_of(owed_Q, queries_QD, count, lists_QP, scores_QP), chosen
            )
        return rows_QC, scores_QC

    def _visit(
        self,
        queries_QD: Array,
        count: int,
        lists_QP: Array,
        scores_QP: Array,
        chosen: faiss.IDSelector | None,
    ) -> Found:
        if isinstance(self.lists, faiss.IndexIVFPQFastScan):
            asked = lifted(self.lists, self._span, queries_QD, lists_QP, scores_QP)
            queries_QD, lists_QP, scores_QP = asked
        parameters = faiss.IVFSearchParameters(nprobe=lists_QP.shape[1], sel=chosen)
        rows_QC = np.empty((len(queries_QD), count), np.int64)
        scores_QC = np.empty(rows_QC.shape, np.float32)
        pointer = faiss.swig_ptr
        # faiss's own wrapper of this method drops the parameters, and with them the selector.
        self.lists.search_preassigned_c(
            len(queries_QD),
            pointer(queries_QD),
            count,
            pointer(lists_QP),
            pointer(scores_QP),
            pointer(scores_QC),
            pointer(rows_QC),
            False,
            parameters,
        )
        return rows_QC, scores_QC

    @functools.cached_property
    def _span(self) -> float:
        return widest(self.lists)

    def _holds(self, rows_QC: Slots) -> npt.NDArray[np.bool_]:
        """Which rows may be proposed from here; a padding −1 may not."""
        rows = np.maximum(rows_QC, 0)
        held: npt.NDArray[np.bool_] = (rows_QC >= 0) & ((self.valid[rows >> 3] & _masks(rows)) != 0)
        return held

    def _cleaned(self) -> faiss.IndexIVF:
        lists = unpacked(self.lists)
        if self.stale:
            lists.remove_ids(faiss.IDSelectorNot(faiss.IDSelectorBitmap(self.valid)))
        return lists


def _of(
    some_Q: Slots, queries_QD: Array, count: int, lists_QP: Array, scores_QP: Array
) -> tuple[Array, int, Array, Array]:
    """The arguments of a search for some of its queries."""
    part = (array[some_Q] for array in (queries_QD, lists_QP, scores_QP))
    queries_SD, lists_SP, scores_SP = map(np.ascontiguousarray, part)
    return queries_SD, count, lists_SP, scores_SP


def _masks(rows_R: Slots) -> Bits:
    return (1 << (rows_R & 7)).astype(np.uint8)
