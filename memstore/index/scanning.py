"""Scanning: how inverted lists are read for the rows whose codes score highest.

Codes of 8 bits and more by our kernel, which reads a list once for a batch and leaves out the
rows that may not be proposed; packed ones, of 4 bits, by faiss.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from memstore.index.packing import lifted, widest
from memstore.kernels.codes import encode_all
from memstore.kernels.lists import met, scan
from memstore.kernels.select import best_found
from memstore.memory import NO_SLOT, Array, Slots

Bits = npt.NDArray[np.uint8]

SHARED_ROWS = 1 << 18
"""Rows met, by the mean size of a list, that are worth a thread: some 3 ms."""

STEPS = 255
"""A number is one of so many steps from the least to the largest of its dimension, as a byte."""


class Found(NamedTuple):
    """Rows int64 `[Q, C]`, −1 padded, and what their codes score, float32; of a padding no matter
    what. compared_Q int64: rows and centroids that each query was compared with for them."""

    rows_QC: Slots
    scores_QC: Array
    compared_Q: Slots


class Scanner(Protocol):
    """Reads the lists of one segment."""

    def find(
        self,
        queries_QD: Array,
        count: int,
        lists_QP: Slots,
        scores_QP: Array,
        bits: Bits | None,
        *,
        few: bool,
    ) -> Found:
        """About `count` rows a query out of its assigned lists, `[Q, C]`; −1 is no list.

        bits: a bit a row, set where it may be proposed; None for all.  few: most are set.
        """
        ...

    @property
    def sizes_C(self) -> Slots:
        """Rows in each list."""
        ...

    def held_in(self, lists_QP: Slots) -> Slots:
        """Rows in all lists of each query, int64 `[Q]`; −1 is no list."""
        ...

    def met(self, bits: Bits) -> Slots:
        """Rows in each list whose bit is set; rows beyond the bits have none."""
        ...


def scanner(lists: faiss.IndexIVF) -> Scanner:
    return Blocks(lists) if isinstance(lists, faiss.IndexIVFPQFastScan) else Codes(lists)


class Held:
    """Where the rows of each list are, and how many."""

    def __init__(self, lists: faiss.IndexIVF) -> None:
        held = faiss.downcast_InvertedLists(lists.invlists)
        numbers = range(lists.nlist)
        # They stay where they are while these are there, for no list of a segment is changed.
        self._lists, self._held = lists, held
        self.sizes_C = np.array([held.list_size(n) for n in numbers], np.int64)
        self._rows_C = np.array([int(held.get_ids(n) or 0) for n in numbers], np.int64)

    def held_in(self, lists_QP: Slots) -> Slots:
        held_Q: Slots = np.where(lists_QP >= 0, self.sizes_C[lists_QP], 0).sum(axis=1)
        return held_Q

    def met(self, bits: Bits) -> Slots:
        found: Slots = met(self._rows_C, self.sizes_C, bits)
        return found


class Codes(Held):
    """Lists of floats, halves or bytes."""

    def __init__(self, lists: faiss.IndexIVF) -> None:
        super().__init__(lists)
        codes = (int(self._held.get_codes(n) or 0) for n in range(lists.nlist))
        self._codes_C = np.fromiter(codes, np.int64, lists.nlist)
        self._size = lists.ntotal / lists.nlist
        self._least_D = self._step_D = np.empty(0, np.float32)
        dtype: type = np.float32
        if isinstance(lists, faiss.IndexIVFScalarQuantizer):
            dtype = np.uint16
            if lists.sq.qtype == faiss.ScalarQuantizer.QT_8bit:
                dtype = np.uint8
                trained = faiss.vector_to_array(lists.sq.trained).reshape(2, lists.d)
                self._least_D, self._step_D = trained[0], trained[1] / np.float32(STEPS)
        self._none_0D = np.empty((0, lists.d), dtype)

    def find(
        self,
        queries_QD: Array,
        count: int,
        lists_QP: Slots,
        scores_QP: Array,
        bits: Bits | None,
        *,
        few: bool,
    ) -> Found:
        near_QD, base_Q = queries_QD, np.zeros(len(queries_QD), np.float32)
        scale_Q: Array = np.ones(len(queries_QD), np.float32)
        if len(self._step_D):
            # ⟨q, x⟩ where x is about least + (code + ½) · step.
            base_Q[:] = queries_QD @ (self._least_D + self._step_D / 2)
            near_QD, scale_Q = encode_all(queries_QD * self._step_D, STEPS)
        if bits is None:
            bits = np.empty(0, np.uint8)
        lists = (self._codes_C, self._rows_C, self.sizes_C, self._none_0D)
        threads = max(int((lists_QP >= 0).sum() * self._size) // SHARED_ROWS, 1)
        if threads > 1:
            threads = min(faiss.omp_get_max_threads(), threads)

        def some(part: int) -> Found:
            arguments = near_QD, scale_Q, base_Q, *lists, bits, lists_QP, count, part, threads
            return Found(*scan(*arguments))

        if threads == 1:
            return some(0)
        with ThreadPoolExecutor(threads - 1) as pool:
            others = [pool.submit(some, part) for part in range(1, threads)]
            found = [some(0), *(other.result() for other in others)]
        return best(found, len(queries_QD), count)


class Blocks(Held):
    """Lists of packed codes."""

    def __init__(self, lists: faiss.IndexIVFPQFastScan) -> None:
        super().__init__(lists)
        self._span = widest(lists)

    def find(
        self,
        queries_QD: Array,
        count: int,
        lists_QP: Slots,
        scores_QP: Array,
        bits: Bits | None,
        *,
        few: bool,
    ) -> Found:
        asked = lifted(self._lists, self._span, queries_QD, lists_QP, scores_QP)
        # A block of codes is compared whole, whichever of its rows may be proposed.
        compared_Q = self.held_in(lists_QP)
        if bits is None or not few:
            return Found(*self._visit(asked, count, bits), compared_Q)
        # To ask about each row visited costs more than to find a few too many, and then to ask
        # again for the queries that were left with too little.
        more = min(count + max(8, count // 4), int(self._lists.ntotal))
        rows_QC, scores_QC = self._visit(asked, more, None)
        full_Q = rows_QC[:, -1] >= 0
        rows_QC[~are_set(bits, rows_QC)] = -1
        short_Q = np.flatnonzero(full_Q & ((rows_QC >= 0).sum(axis=1) < count))
        if len(short_Q):
            rows_QC[short_Q] = -1
            queries_SD, lists_SP, scores_SP = (np.ascontiguousarray(a[short_Q]) for a in asked)
            found = self._visit((queries_SD, lists_SP, scores_SP), count, bits)
            rows_QC[short_Q, :count], scores_QC[short_Q, :count] = found
            compared_Q[short_Q] *= 2
        return Found(rows_QC, scores_QC, compared_Q)

    def _visit(
        self, asked: tuple[Array, Slots, Array], count: int, bits: Bits | None
    ) -> tuple[Slots, Array]:
        queries_QD, lists_QP, scores_QP = asked
        chosen = None if bits is None else faiss.IDSelectorBitmap(bits)
        parameters = faiss.IVFSearchParameters(nprobe=lists_QP.shape[1], sel=chosen)
        rows_QC = np.empty((len(queries_QD), count), np.int64)
        scores_QC = np.empty(rows_QC.shape, np.float32)
        pointer = faiss.swig_ptr
        # faiss's own wrapper of this method drops the parameters, and with them the selector.
        self._lists.search_preassigned_c(
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


def best(found: Sequence[Found], queries: int, count: int) -> Found:
    """The `count` rows that score highest of what was found in several places, in no order."""
    if len(found) == 1 and found[0].rows_QC.shape[1] <= count:
        return found[0]
    none = Found(
        np.full((queries, 0), NO_SLOT),
        np.empty((queries, 0), np.float32),
        np.zeros(queries, np.int64),
    )
    rows, scores, compared = zip(none, *found, strict=True)
    rows_QC, scores_QC = np.concatenate(rows, 1), np.concatenate(scores, 1)
    if rows_QC.shape[1] > count:
        rows_QC, scores_QC = best_found(rows_QC, scores_QC, count)
    return Found(rows_QC, scores_QC, sum(compared))


def are_set(bits: Bits, rows_QC: Slots) -> npt.NDArray[np.bool_]:
    """Which rows have their bit set; a padding −1 has none."""
    rows = np.maximum(rows_QC, 0)
    masks = (1 << (rows & 7)).astype(np.uint8)
    found: npt.NDArray[np.bool_] = (rows_QC >= 0) & ((bits[rows >> 3] & masks) != 0)
    return found
