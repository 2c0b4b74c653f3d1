"""Sets of rows, a bit a row, the lowest first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.memory import Slots

Bits = npt.NDArray[np.uint8]


@compiled()
def cleared(bits: Bits, rows_B: Slots) -> tuple[Bits, int]:
    """The bits without those of some rows, and how many of them were set; themselves if none."""
    after, lost = bits, 0
    for row in rows_B:
        if row < 8 * len(bits):
            mask = np.uint8(1 << (row & 7))
            if after[row >> 3] & mask:
                if not lost:
                    after = bits.copy()
                after[row >> 3] &= ~mask
                lost += 1
    return after, lost
