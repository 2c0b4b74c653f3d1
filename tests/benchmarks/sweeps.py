"""Recall against rate of any engine that has one knob; no benchmark itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from memstore.memory import Array, Slots

Ask = Callable[[int], tuple[Slots, float]]
"""Asks all queries at an effort: gives row numbers `[Q, K]`, and the seconds that it took."""


@dataclass(frozen=True)
class Truth:
    """Queries `[Q, D]`, the rows searched `[N, D]`, and the true K-th score of each query `[Q]`."""

    queries_QD: Array
    keys_ND: Array
    floor_Q: Array

    def recall(self, rows_QK: Slots) -> float:
        """The share of K found whose score is no less than the true K-th; −1 was not found."""
        scores_QK = np.einsum("qd,qkd->qk", self.queries_QD, self.keys_ND[rows_QK])
        # Engines add up in another order than the scores that the floor comes from.
        enough_Q1 = (self.floor_Q - 1e-6 * np.abs(self.floor_Q))[:, None]
        return float(((scores_QK >= enough_Q1) & (rows_QK >= 0)).mean())


@dataclass
class Sweep:
    """Tries one engine at several efforts, from `least` to `most`, and remembers each.

    tried: effort → (recall, queries/s).
    """

    name: str
    ask: Ask
    truth: Truth
    least: int
    most: int
    tried: dict[int, tuple[float, float]] = field(default_factory=dict)

    def at(self, effort: int) -> tuple[float, float]:
        if effort not in self.tried:
            rows_QK, seconds = self.ask(effort)
            self.tried[effort] = self.truth.recall(rows_QK), len(rows_QK) / seconds
        return self.tried[effort]

    def rate(self, effort: int, times: int = 3) -> float:
        """The best rate of asking so many times more: what noise there is only slows."""
        recall, rate = self.at(effort)
        for _ in range(times):
            rows_QK, seconds = self.ask(effort)
            rate = max(rate, len(rows_QK) / seconds)
        self.tried[effort] = recall, rate
        return rate

    def reaching(self, level: float) -> int | None:
        """The least effort, to 6 %, whose recall is `level`; None where none reaches it."""
        low, high = self.least - 1, self.least
        while self.at(high)[0] < level:
            if high >= self.most:
                return None
            low, high = high, min(2 * high, self.most)
        while high - low > max(1, low // 16):
            middle = (low + high) // 2
            if self.at(middle)[0] < level:
                low = middle
            else:
                high = middle
        return high

    @property
    def points(self) -> list[tuple[float, float]]:
        """(recall, queries/s) of each effort tried, in order of effort."""
        return [self.tried[effort] for effort in sorted(self.tried)]


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (recall, rate) that no other beats in both, by rising recall."""
    best: list[tuple[float, float]] = []
    for recall, rate in sorted(points, reverse=True):
        if not best or rate > best[-1][1]:
            best.append((recall, rate))
    return best[::-1]
