"""What assigning rows through a tree of centroids is made of, besides products."""

from __future__ import annotations

import numpy as np

from memstore.kernels.compiling import compiled
from memstore.memory import Array, Slots


@compiled()
def highest_columns(scores_RP: Array, count: int) -> Slots:
    """For each row the `count` columns of highest score, int64 `[R, count]`, the highest first, of
    equal scores the smaller one first.

    count: from 1 to P.
    """
    columns_RB = np.empty((len(scores_RP), count), np.int64)
    highest_B = np.empty(count, scores_RP.dtype)
    for r in range(len(scores_RP)):
        columns_B = columns_RB[r]
        for p in range(scores_RP.shape[1]):
            score = scores_RP[r, p]
            if p < count:
                at = p
            elif score > highest_B[count - 1]:
                at = count - 1
            else:
                continue
            while at > 0 and score > highest_B[at - 1]:
                highest_B[at], columns_B[at] = highest_B[at - 1], columns_B[at - 1]
                at -= 1
            highest_B[at], columns_B[at] = score, p
    return columns_RB


@compiled()
def keep_highest(
    scores_BC: Array, rows_B: Slots, names_C: Slots, highest_R: Array, named_R: Slots
) -> None:
    """Where a row scores higher than in `highest_R`, leaves that there, and in `named_R` the name
    of the column, the first of equal ones.

    rows_B: the row of R that each row of the scores is of.
    """
    for b in range(len(rows_B)):
        row = rows_B[b]
        for c in range(scores_BC.shape[1]):
            if scores_BC[b, c] > highest_R[row]:
                highest_R[row], named_R[row] = scores_BC[b, c], names_C[c]
