"""Sparse writes in place: each row fades where it is told to, and takes on what is added."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.kernels.half import widened
from memstore.kernels.keep import Keeper, draw, keep, read
from memstore.kernels.sequence import Marks, close_row, open_row
from memstore.memory import Array, Slots


@compiled()
def blend_rows(
    table_ND: Array,
    marks: Marks,
    keeper: Keeper,
    rows_B: Slots,
    weights_B: Array,
    erase_BD: Array,
    add_BD: Array,
) -> npt.NDArray[np.float64]:
    """x ← x·(1 − w·e) + w·a, in call order; returns how far each one moved its row."""
    moved_B = np.empty(len(rows_B))
    for b in range(len(rows_B)):
        row, weight = rows_B[b], weights_B[b]
        drawn = draw(keeper, row)
        total = 0.0
        open_row(marks, row)
        for d in range(table_ND.shape[1]):
            held = widened(table_ND[row, d])
            before = read(table_ND, row, d, keeper)
            after = before * (1 - weight * erase_BD[b, d]) + weight * add_BD[b, d]
            total += (keep(table_ND, row, d, after, keeper, drawn) - held) ** 2
        close_row(marks, row)
        moved_B[b] = np.sqrt(total)
    return moved_B
