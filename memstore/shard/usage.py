"""Usage: when each row was last used, or how much, and which tenant it is at.

One number a row orders all rows, the least used first, for either definition:

    last_step    the last step that used it (Rae et al. 2016, arXiv 1610.09027, section 3.2, U²)
    discounted   u_t = Σ_s γ^(t−s) w_s, the weights of its uses, each step worth γ less (U¹)

log u_t = log Σ_s w_s γ^(−s) + t·log γ, and t is the same for all: what is kept is the sum, as its
logarithm, and nothing decays by itself. The paper evicts where U² is *minimal* and means the
longest unused, the row whose last step is smallest: so it is here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.config import UsageConfig
from memstore.memory import Slots
from memstore.shard.region import Region

NEVER = -np.inf


class Usage:
    """priority_N float64: small is little used. generation_N int64: counts the tenants."""

    def __init__(self, config: UsageConfig) -> None:
        self.config = config
        self.regions = (Region((), np.float64), Region((), np.int64))
        self.priority_N, self.generation_N = (region.view(0) for region in self.regions)

    def grow(self, size: int) -> None:
        """Makes room; new rows were never used and are at their first tenant."""
        before = len(self.priority_N)
        for region in self.regions:
            region.grow(size)
        self.priority_N, self.generation_N = (region.view(size) for region in self.regions)
        self.priority_N[before:] = NEVER

    def touch(self, rows_B: Slots, step: int, weights_B: npt.NDArray[np.float64] | None) -> None:
        """Notes one use a row at `step`; a row named twice was used twice."""
        if self.config.kind == "last_step":
            np.maximum.at(self.priority_N, rows_B, float(step))
            return
        with np.errstate(divide="ignore"):  # a weight of 0 is no use: its logarithm is −∞
            log_weights = 0.0 if weights_B is None else np.log(weights_B)
        added = log_weights - step * np.log(self.config.discount)
        np.logaddexp.at(self.priority_N, rows_B, np.broadcast_to(added, rows_B.shape))

    def renew(self, rows_B: Slots) -> None:
        """Forgets how rows were used: their tenant is new."""
        self.priority_N[rows_B] = NEVER

    def least(self, rows_R: Slots, count: int) -> Slots:
        """The `count` of rows_R (rising) with the smallest (priority, row)."""
        if count < len(rows_R):
            priority_R = self.priority_N[rows_R]
            bound = np.partition(priority_R, count - 1)[count - 1]
            rows_R = rows_R[priority_R <= bound]
        order = np.lexsort((rows_R, self.priority_N[rows_R]))
        return rows_R[order[:count]]
