"""Inner products with a fixed order of summation: the one kernel behind every score."""

from __future__ import annotations

import numba
import numpy as np

from memstore.kernels.half import widened
from memstore.memory import Array, Slots

LANES = 16


@numba.njit(nogil=True, cache=True)
def inner_product(query_D: Array, key_D: Array, lanes: Array) -> Array:
    """⟨query_D, key_D⟩; lanes is room for `LANES` numbers of their dtype.

    Sixteen lanes are summed side by side, then folded in halves; no step may be reordered or
    fused, so a score depends on the two vectors alone. The elements of a packed float16 or
    bfloat16 key are taken as float32, exactly.
    """
    width = query_D.shape[0]
    whole = width - width % LANES
    lanes[:] = 0
    for d in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += query_D[d + lane] * widened(key_D[d + lane])
    for d in range(whole, width):
        lanes[d - whole] += query_D[d] * widened(key_D[d])
    half = LANES // 2
    while half > 0:
        for lane in range(half):
            lanes[lane] += lanes[lane + half]
        half //= 2
    return lanes[0]  # type: ignore[no-any-return]


@numba.njit(nogil=True, cache=True)
def score_rows(queries_QD: Array, keys_ND: Array, rows_QC: Slots, scores_QC: Array) -> None:
    """Fills scores_QC[q, c] = ⟨queries_QD[q], keys_ND[rows_QC[q, c]]⟩, −inf for a row < 0."""
    lanes = np.zeros(LANES, queries_QD.dtype)
    for q in range(rows_QC.shape[0]):
        for c in range(rows_QC.shape[1]):
            row = rows_QC[q, c]
            if row < 0:
                scores_QC[q, c] = -np.inf
            else:
                scores_QC[q, c] = inner_product(queries_QD[q], keys_ND[row], lanes)
