"""Puts rows into another order where they are, with room for one row beside them."""

from __future__ import annotations

from memstore.kernels.compiling import compiled
from memstore.memory import Array, Slots


@compiled()
def permute(rows_ND: Array, order_R: Slots) -> None:
    """row r ← row order_R[r] as it was, cycle by cycle. order_R is used up: it ends as ~order_R."""
    for first in range(len(order_R)):
        if order_R[first] < 0:
            continue
        held_D = rows_ND[first].copy()
        row = first
        while True:
            source = order_R[row]
            order_R[row] = ~source
            if source == first:
                rows_ND[row] = held_D
                break
            rows_ND[row] = rows_ND[source]
            row = source
