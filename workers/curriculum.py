"""A curriculum of doubling levels, after Rae et al. 2016, arXiv 1610.09027, section 4.3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class Curriculum:
    """The level is doubled once the mean loss of the last `window` steps at it is below `bound`.

    The longest is the last level. A level h is of episodes as long as drawn from 1 to h: the paper
    draws from U(0, h), and does not give its bound.
    """

    def __init__(self, level: int, longest: int, *, bound: float, window: int) -> None:
        self.level, self.longest, self.bound, self.window = level, longest, bound, window
        self._losses: list[float] = []

    def length(self, rng: np.random.Generator) -> int:
        """Of the episodes of a step."""
        return int(rng.integers(1, self.level + 1))

    def took(self, loss: float) -> None:
        """Is told the loss of each step."""
        self._losses = [*self._losses, loss][-self.window :]
        full = len(self._losses) == self.window
        if full and self.level < self.longest and np.mean(self._losses) < self.bound:
            self.level, self._losses = min(2 * self.level, self.longest), []

    def position(self) -> dict[str, Any]:
        """Where it is, as JSON can have it."""
        return {"level": self.level, "losses": self._losses}

    def go_on(self, position: Mapping[str, Any]) -> None:
        """Goes on from what `position` gave."""
        self.level, self._losses = position["level"], list(position["losses"])
