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
from memstore.kernels.least import add_rows, least_rows, lower_rows
from memstore.memory import Slots
from memstore.shard.region import Region

NEVER = -np.inf


class Usage:
    """priority_N float64: small is little used. generation_N int64: counts the tenants."""

    def __init__(self, config: UsageConfig) -> None:
        self.config = config
        self.regions = (Region((), np.float64), Region((), np.int64))
        self.priority_N, self.generation_N = (region.view(0) for region in self.regions)
        # The heap of `kernels.least`, made of rows below _known when somebody first asks.
        self.heaps = Region((), np.int64), Region((), np.float64), Region((), np.int64)
        self._size = self._known = 0

    def grow(self, size: int) -> None:
        """Makes room; new rows were never used and are at their first tenant."""
        before = len(self.priority_N)
        for region in self.regions:
            region.grow(size)
        self.priority_N, self.generation_N = (region.view(size) for region in self.regions)
        self.priority_N[before:] = NEVER

    def touch(self, rows_B: Slots, step: int, weights_B: npt.NDArray[np.float64] | None) -> None:
        """Notes one use a row at `step`; a row named twice was used twice."""
        note_use(self.config, self.priority_N, rows_B, step, weights_B)

    def touched(
        self, rows_B: Slots, step: int, weights_B: npt.NDArray[np.float64] | None
    ) -> tuple[Slots, npt.NDArray[np.float64]]:
        """The distinct rows, rising, and what their priorities would be after `touch`."""
        rows_U, local_B = np.unique(rows_B, return_inverse=True)
        priority_U = self.priority_N[rows_U]
        note_use(self.config, priority_U, local_B, step, weights_B)
        return rows_U, priority_U

    def renew(self, rows_B: Slots) -> None:
        """Forgets how rows were used: their tenant is new."""
        self.priority_N[rows_B] = NEVER
        known_B = rows_B[rows_B < self._known]
        lower_rows(*self._heap(), np.ascontiguousarray(known_B), self.priority_N)

    def least(self, alive_N: npt.NDArray[np.bool_], count: int) -> Slots:
        """Up to `count` rows alive of smallest (priority, row), in that order.

        Takes O(count·log N), and O(log N) once for each row appended or used since the last call.
        """
        size = len(alive_N)
        for region in self.heaps:
            region.grow(size)
        new_R = self._known + np.flatnonzero(alive_N[self._known :])
        heap = self._heap(size)
        heap[2][self._known :] = -1
        self._known = size
        self._size = add_rows(*heap, self._size, new_R, self.priority_N)
        rows, self._size = least_rows(*heap, self._size, self.priority_N, alive_N, count)
        return rows

    def _heap(self, size: int | None = None) -> tuple[Slots, npt.NDArray[np.float64], Slots]:
        size = self._known if size is None else size
        rows, keys, places = (region.view(size) for region in self.heaps)
        return rows, keys, places


def note_use(
    config: UsageConfig,
    priority_N: npt.NDArray[np.float64],
    rows_B: Slots,
    step: int,
    weights_B: npt.NDArray[np.float64] | None,
) -> None:
    """Notes one use a row at `step` in the priorities."""
    if config.kind == "last_step":
        np.maximum.at(priority_N, rows_B, float(step))
        return
    with np.errstate(divide="ignore"):  # a weight of 0 is no use: its logarithm is −∞
        log_weights = 0.0 if weights_B is None else np.log(weights_B)
    added = log_weights - step * np.log(config.discount)
    np.logaddexp.at(priority_N, rows_B, np.broadcast_to(added, rows_B.shape))
