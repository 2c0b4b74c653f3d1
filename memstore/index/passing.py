"""Passing: the rows that a search may propose, as a set that both tiers can test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from memstore.memory import Slots

SPARSE = 16
"""Rows are kept as numbers too where at most one in SPARSE passes: half a byte a row."""


@dataclass(frozen=True, eq=False)
class Passing:
    """Rows by number. bits: a bit a row, the lowest first, set where it passes; count of them."""

    bits: npt.NDArray[np.uint8]
    count: int
    sparse: Slots | None
    _kept: WeakKeyDictionary[object, Slots] = field(default_factory=WeakKeyDictionary)

    @classmethod
    def of(cls, mask_N: npt.NDArray[np.bool_]) -> Passing:
        count = int(np.count_nonzero(mask_N))
        sparse = np.flatnonzero(mask_N) if count * SPARSE <= len(mask_N) else None
        return cls(np.packbits(mask_N, bitorder="little"), count, sparse)

    def rows(self) -> Slots:
        """The rows that pass, rising."""
        if self.sparse is not None:
            return self.sparse
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little"))

    def among(self, rows_R: Slots) -> Slots:
        """Those of `rows_R`, all of them known here, that pass."""
        bit_R = self.bits[rows_R >> 3] >> (rows_R & 7).astype(np.uint8)
        found: Slots = rows_R[bit_R & 1 == 1]
        return found

    def kept(self, by: object, find: Callable[[], Slots]) -> Slots:
        """What somebody found with these rows; kept for as long as both are there."""
        found = self._kept.get(by)
        if found is None:
            found = self._kept[by] = find()
        return found
