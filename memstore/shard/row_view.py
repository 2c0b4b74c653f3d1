"""What a reader holds of a row table: the rows that there were, as they are now, read whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memstore.kernels.half import packed, wide
from memstore.kernels.sequence import Marks
from memstore.kernels.whole import copies, take_tenants
from memstore.memory import Array, Slots
from memstore.shard.residency import Residency

Sums = Callable[[Slots], Array]
"""Gives keys `[B, D]`, of the part rows `[B, P]` that they are sums of, as these are now."""


@dataclass(frozen=True)
class RowView:
    """The rows that there were at one moment, as they are now: arrays that go on being written.

    Who holds it finds of a row that was there since what it was at last, though it is gone by now.

    values_NV has no columns where the key is the value.  marks: the rows' sequence numbers.
    sums: what makes keys; then keys_ND, int64 `[N, P]`, is what they are made of. None where they
    are stored.
    residency: of rows that are kept within a budget; who reads them in another way than by the
    methods here wants them first.
    """

    keys_ND: Array
    values_NV: Array
    alive_N: npt.NDArray[np.bool_]
    generation_N: npt.NDArray[np.int64]
    marks: Marks
    sums: Sums | None = None
    residency: Residency | None = None

    def is_alive(self, rows_B: Slots) -> npt.NDArray[np.bool_]:
        """Tells which rows are there; a number out of range is not."""
        inside_B = (rows_B >= 0) & (rows_B < len(self.alive_N))
        alive_B = np.zeros(rows_B.shape, bool)
        alive_B[inside_B] = self.alive_N[rows_B[inside_B]]
        return alive_B

    def live_rows(self) -> Slots:
        # numpy counts, then fills: on an array that changes it would give what was never a row.
        return np.flatnonzero(self.alive_N.copy())

    def keys(self, rows_B: Slots) -> Array:
        """Copies of keys `[B, D]`."""
        if self.residency is None:
            kept_BX = copies(self.keys_ND, self.marks, rows_B)
        else:
            pieces = self.residency.pieces(rows_B, "keys")
            kept = [copies(self.keys_ND, self.marks, rows_B[piece]) for piece in pieces]
            kept_BX = np.concatenate(kept)
        return kept_BX if self.sums is None else self.sums(kept_BX)

    def numbers(self, rows_B: Slots) -> Array:
        """Copies of keys to count with: of narrow ones as float32."""
        return wide(self.keys(rows_B))

    def tenants(self, rows_B: Slots) -> tuple[Array, Array, npt.NDArray[np.int64]]:
        """Copies of keys, values and generations; the three of a row are of one moment."""
        tables = packed(self.keys_ND), packed(self.values_NV), self.generation_N, self.marks
        if self.residency is None:
            keys_BD, values_BV, generations_B = take_tenants(*tables, rows_B)
        else:
            pieces = self.residency.pieces(rows_B, "keys", "values")
            taken = [take_tenants(*tables, rows_B[piece]) for piece in pieces]
            keys_BD, values_BV, generations_B = map(np.concatenate, zip(*taken, strict=True))
        keys_BD, values_BV = keys_BD.view(self.keys_ND.dtype), values_BV.view(self.values_NV.dtype)
        return keys_BD if self.sums is None else self.sums(keys_BD), values_BV, generations_B

    def want(self, rows_B: Slots, *names: str) -> None:
        """Has the pages of rows come in that are about to be read; of rows in memory nothing."""
        if self.residency is not None:
            self.residency.want(rows_B, *names)
