"""Reductions of inner product to clustering: maps P of rows and Q of queries that keep the order.

E is the width of a mapped row. Rows are clustered as P(x); a query meets the clusters as Q(q).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memstore.memory import Array


@dataclass(frozen=True)
class Reduction:
    """The family P(x) = [x, α·√(M² − ‖x‖²)], Q(q) = [q, 0].

    ⟨Q(q), P(x)⟩ = ⟨q, x⟩ whatever α and M are. With α = 0 rows are clustered as they are. With
    α = 1 and M = max ‖x‖ every P(x) is as long as M, so that the row of highest inner product is
    the row of highest cosine: the exact reduction (Bachrach et al. 2014). With a smaller M, such
    as a percentile of the lengths, rows beyond it lie at [x, 0]: the root is clamped.

    alpha: 0 to 1.  reach: M, ≥ 0.
    """

    alpha: float = 0.0
    reach: float = 0.0

    def rows(self, keys_RD: Array) -> Array:
        """P of rows: float32 `[R, D + 1]`."""
        mapped_RE = np.empty((len(keys_RD), keys_RD.shape[1] + 1), np.float32)
        mapped_RE[:, :-1] = keys_RD
        mapped_RE[:, -1] = 0.0
        if self.alpha:
            room_R = np.maximum(self.reach**2 - lengths(keys_RD) ** 2, 0.0)
            mapped_RE[:, -1] = self.alpha * np.sqrt(room_R)
        return mapped_RE

    def queries(self, queries_QD: Array) -> Array:
        """Q of queries: float32 `[Q, D + 1]`."""
        return np.pad(queries_QD.astype(np.float32), [(0, 0), (0, 1)])

    def beyond(self, keys_RD: Array) -> int:
        """Counts the rows longer than M; without α none are, since M is not used."""
        return int((lengths(keys_RD) > self.reach).sum()) if self.alpha else 0


@dataclass(frozen=True)
class Terms:
    """The m-term map, for comparison: P(x) = [Ux, ½ − ‖Ux‖², ½ − ‖Ux‖⁴, … ½ − ‖Ux‖^(2^m)].

    Q(q) = [q/‖q‖, 0, …]. The rows are scaled so that the longest has length U < 1; then
    ‖P(x)‖² = m/4 + ‖Ux‖^(2^(m+1)), which tends to m/4 for all rows, so that the nearest P(x) by
    cosine is nearly the one of highest inner product (Shrivastava & Li 2014, sign variant;
    Chandar et al. 2016, arXiv 1605.07427, eq. 94-95).

    terms: m ≥ 1.  shrink: U, 0 to 1.  reach: max ‖x‖, > 0.
    """

    terms: int
    shrink: float
    reach: float

    def rows(self, keys_RD: Array) -> Array:
        """P of rows: float32 `[R, D + m]`."""
        scaled_RD = keys_RD * np.float32(self.shrink / self.reach)
        powers_RM = (lengths(scaled_RD) ** 2)[:, None] ** (2.0 ** np.arange(self.terms))
        return np.concatenate([scaled_RD, 0.5 - powers_RM], axis=1, dtype=np.float32)

    def queries(self, queries_QD: Array) -> Array:
        """Q of queries: float32 `[Q, D + m]`; a query of zeros stays one."""
        lengths_Q1 = lengths(queries_QD)[:, None]
        unit_QD = queries_QD / np.where(lengths_Q1 == 0.0, 1.0, lengths_Q1)
        return np.pad(unit_QD.astype(np.float32), [(0, 0), (0, self.terms)])


def lengths(keys_RD: Array) -> npt.NDArray[np.float64]:
    """‖x‖ of each row."""
    squares_R: Array = np.einsum("rd,rd->r", keys_RD, keys_RD)
    lengths_R: npt.NDArray[np.float64] = np.sqrt(squares_R.astype(np.float64))
    return lengths_R
