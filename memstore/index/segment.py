"""Segment: an immutable part of the sealed tier, and which of its rows still stand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import faiss
import numpy as np
import numpy.typing as npt

from memstore.index.passing import Passing
from memstore.memory import Array, Slots

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Segment:
    """Encoded rows in inverted lists.

    valid: a bit a row number, set where this copy may be proposed. A row that was rewritten or
    erased since has none; nor has it where a younger segment holds it. stale: how many lost it.
    """

    lists: faiss.IndexIVF
    valid: Bits
    stale: int = 0

    @classmethod
    def seal(cls, empty: faiss.IndexIVF, keys_RD: Array, rows_R: Slots) -> Segment:
        """Encodes rows, float32 `[R, D]`, under their numbers."""
        lists = faiss.clone_index(empty)
        lists.add_with_ids(keys_RD, rows_R)
        valid = np.zeros((int(rows_R.max(initial=-1)) >> 3) + 1, np.uint8)
        np.bitwise_or.at(valid, rows_R >> 3, _masks(rows_R))
        return cls(lists, valid)

    def __len__(self) -> int:
        """Rows held, stale ones included."""
        return int(self.lists.ntotal)

    def without(self, rows_B: Slots) -> Segment:
        """The same lists, from which these rows are proposed no more."""
        inside = rows_B[rows_B < 8 * len(self.valid)]
        held = inside[(self.valid[inside >> 3] & _masks(inside)) != 0]
        if not len(held):
            return self
        valid = self.valid.copy()
        np.bitwise_and.at(valid, held >> 3, ~_masks(held))
        return replace(self, valid=valid, stale=self.stale + len(np.unique(held)))

    def joined(self, other: Segment) -> Segment:
        """Both in one, without what is stale; lists are joined, nothing is assigned again."""
        lists, others = self._cleaned(), other._cleaned()
        lists.merge_from(others, 0)
        valid = np.zeros(max(len(self.valid), len(other.valid)), np.uint8)
        valid[: len(self.valid)] |= self.valid
        valid[: len(other.valid)] |= other.valid
        return Segment(lists, valid)

    def search(
        self,
        queries_QD: Array,
        count: int,
        lists_QP: Array,
        scores_QP: Array,
        probe: int,
        passing: Passing | None = None,
    ) -> Slots:
        """Up to `count` rows a query out of its assigned lists, int64 `[Q, C]`, −1 padded.

        passing: propose no other rows.
        """
        bits = self.valid if self.stale else None
        if passing is not None:
            known = min(len(self.valid), len(passing.bits))
            bits = self.valid[:known] & passing.bits[:known]
        chosen = None if bits is None else faiss.IDSelectorBitmap(bits)
        parameters = faiss.IVFSearchParameters(nprobe=probe, sel=chosen)
        count = min(count, len(self))
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
        return rows_QC

    def _cleaned(self) -> faiss.IndexIVF:
        lists = faiss.clone_index(self.lists)
        if self.stale:
            lists.remove_ids(faiss.IDSelectorNot(faiss.IDSelectorBitmap(self.valid)))
        return lists


def _masks(rows_R: Slots) -> Bits:
    return (1 << (rows_R & 7)).astype(np.uint8)
