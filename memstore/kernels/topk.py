"""Selects the best candidates: distinct slots, higher score first, equal scores by slot."""

from __future__ import annotations

import numpy as np

from memstore.memory import NO_SLOT, Array, Slots


def drop_repeats(slots_QC: Slots, *others_QC: Array) -> tuple[Array, ...]:
    """Sorts each row by slot and blanks all but the first of equal slots with `NO_SLOT`."""
    order_QC = np.argsort(slots_QC, axis=1, kind="stable")
    slots_QC, *sorted_QC = (np.take_along_axis(a, order_QC, 1) for a in (slots_QC, *others_QC))
    slots_QC[:, 1:][slots_QC[:, 1:] == slots_QC[:, :-1]] = NO_SLOT
    return (slots_QC, *sorted_QC)


def top_k(slots_QC: Slots, scores_QC: Array, k: int, *others_QC: Array) -> tuple[Array, ...]:
    """The k best columns of each row, padded to k with (`NO_SLOT`, −inf, 0).

    Columns with `NO_SLOT` never count, whatever their score.
    """
    scores_QC = np.where(slots_QC == NO_SLOT, -np.inf, scores_QC)
    others_QC = tuple(np.where(slots_QC == NO_SLOT, 0, other_QC) for other_QC in others_QC)
    order_QC = np.lexsort((slots_QC, -scores_QC, slots_QC == NO_SLOT))[:, :k]
    fills = (NO_SLOT, -np.inf, *(0 for _ in others_QC))
    best = []
    for array_QC, fill in zip((slots_QC, scores_QC, *others_QC), fills, strict=True):
        best_QK = np.full((len(array_QC), k), fill, array_QC.dtype)
        best_QK[:, : order_QC.shape[1]] = np.take_along_axis(array_QC, order_QC, 1)
        best.append(best_QK)
    return tuple(best)
