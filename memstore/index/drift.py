"""Drift: how far each row has gone since it was sealed, and which rows have gone too far.

The drift of a row is ‖now − as sealed‖ / ‖as sealed‖. What is kept is a bound of it: the length
of the whole way since then, which the optimizer steps return anyway, over the length as sealed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from memstore.index.clustered import Reader
from memstore.index.reductions import lengths
from memstore.kernels.group import distinct
from memstore.memory import Array, Slots


@dataclass
class Sealing:
    """Reads rows to be encoded, each once, and notes how long it is and how far it had gone.

    12 bytes a row, at a time when two indexes stand side by side. The travel is read before the
    row: a step in between is in the row and counted all the same, so that the bound stays one.
    """

    read: Reader
    travel: Reader
    rows: list[Slots] = field(default_factory=list)
    travels: list[Array] = field(default_factory=list)
    norms: list[Array] = field(default_factory=list)

    def __call__(self, rows_R: Slots) -> Array:
        self.rows.append(rows_R)
        self.travels.append(self.travel(rows_R))
        keys_RD = self.read(rows_R)
        self.norms.append(lengths(keys_RD).astype(np.float32))
        return keys_RD


class Drift:
    """The bounds of all sealed rows of a shard.

    limit: drift at which a row becomes fresh by itself; None is never.
    sealed_N float64: the travel of a row when it was sealed, +inf while it is fresh or gone.
    norm_N float32: its length then.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.sealed_N = np.empty(0, np.float64)
        self.norm_N = np.empty(0, np.float32)

    @property
    def counts(self) -> bool:
        """Whether any row may be past its bound."""
        return self.limit is not None and len(self.sealed_N) > 0

    def sealed(self, sealing: Sealing) -> None:
        """Counts from here on for the rows that were read."""
        for rows_B, travel_B, norm_B in zip(
            sealing.rows, sealing.travels, sealing.norms, strict=True
        ):
            self._grow(rows_B)
            self.sealed_N[rows_B], self.norm_N[rows_B] = travel_B, norm_B

    def anew(self, sealing: Sealing) -> None:
        """Counts for the rows that were read, and for no others."""
        self.sealed_N.fill(np.inf)
        self.sealed(sealing)

    def forget(self, rows_B: Slots) -> None:
        """Counts no more for rows that are fresh or gone."""
        self.sealed_N[rows_B[rows_B < len(self.sealed_N)]] = np.inf

    def past(self, rows_B: Slots, travel_B: Array) -> Slots:
        """Those of some rows that have gone too far, distinct and rising."""
        if self.limit is None:
            return rows_B[:0]
        known_B = rows_B < len(self.sealed_N)
        if not known_B.all():
            rows_B, travel_B = rows_B[known_B], travel_B[known_B]
        gone_B = travel_B - self.sealed_N[rows_B]
        return distinct(rows_B[gone_B > self.limit * self.norm_N[rows_B]])

    def bounds(self, travel_N: Array) -> Array:
        """The bound of each row that is sealed, float64, in order of row."""
        sealed_N = self.sealed_N[: len(travel_N)]
        rows = np.flatnonzero(np.isfinite(sealed_N))
        gone = travel_N[rows] - sealed_N[rows]
        norms = np.maximum(self.norm_N[rows], np.finfo(np.float32).tiny)
        bounds: Array = gone / norms
        return bounds

    def _grow(self, rows_B: Slots) -> None:
        size = int(rows_B.max(initial=-1)) + 1
        if size > len(self.sealed_N):
            # Of ten million rows, twice as many as before would be more than the row numbers.
            more = max(size, len(self.sealed_N) * 9 // 8) - len(self.sealed_N)
            # In this order: who reads beside it finds a length wherever a row is sealed.
            self.norm_N = np.append(self.norm_N, np.zeros(more, np.float32))
            self.sealed_N = np.append(self.sealed_N, np.full(more, np.inf))
