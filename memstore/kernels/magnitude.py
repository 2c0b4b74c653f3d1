"""The largest magnitude in an array, in one pass that NaN and infinity do not escape."""

from __future__ import annotations

from typing import Any

import numpy as np

from memstore.kernels.compiling import compiled
from memstore.memory import Array

BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def magnitude(array: Array) -> float:
    """The largest |x|, 0 of nothing, NaN where there is one; of floats of any width but bfloat16.

    Without their sign the bits of floats are in the order of their magnitudes, NaN above all: so
    one loop over integers, which the compiler vectorises, finds what would take numpy four.
    """
    bits = np.ascontiguousarray(array).reshape(-1).view(BITS[array.itemsize])
    mask = np.iinfo(bits.dtype).max >> 1
    return float(np.array([_largest(bits, bits.dtype.type(mask))], bits.dtype).view(array.dtype)[0])


@compiled()
def _largest(bits: Array, mask: Any) -> Any:
    largest = mask ^ mask
    for i in range(len(bits)):
        largest = max(largest, bits[i] & mask)
    return largest
