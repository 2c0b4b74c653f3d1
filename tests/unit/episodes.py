"""A plain episodic memory, the oracle of the real one: it copies everything at each step; and how
gradients are held against those of a dense twin."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from memstore.memory import Array


@dataclass
class PlainMemory:
    """One private memory of N words. order: rows, longest unused first; usage: log Σ λ^(−t) w."""

    rows_ND: Array
    written_N: Array
    order: list[int]
    usage_N: Array
    discount: float | None = None
    before: list[Any] = field(default_factory=list)

    @classmethod
    def begin(cls, words: int, width: int, filled: Array | None, discount: float | None) -> Any:
        rows_ND, count = np.zeros((words, width), np.float32), 0
        if filled is not None:
            count = len(filled)
            rows_ND[:count] = filled
        order = [*range(count, words), *range(count)]
        usage_N = np.where(np.arange(words) < count, -1e300, -np.inf)
        return cls(rows_ND, np.arange(words) < count, order, usage_N, discount)

    def advance(self) -> None:
        state = self.rows_ND, self.written_N, self.order, self.usage_N
        self.before.append(copy.deepcopy(state))

    def rollback(self, step: int) -> None:
        if step < len(self.before):
            self.rows_ND, self.written_N, self.order, self.usage_N = self.before[step]
            del self.before[step:]

    def blend(self, row: int, weight: Array, erase_D: Array, add_D: Array) -> None:
        self.rows_ND[row] = self.rows_ND[row] * (1 - weight * erase_D) + weight * add_D
        self.written_N[row] = True

    def touch(self, row: int, weight: float, threshold: float) -> None:
        if self.discount is not None:
            if weight > 0:
                more = np.log(weight) - len(self.before) * np.log(self.discount)
                self.usage_N[row] = np.logaddexp(self.usage_N[row], more)
        elif weight > threshold:
            self.order.remove(row)
            self.order.append(row)

    def least(self, count: int) -> list[int]:
        if self.discount is None:
            return self.order[:count]
        return np.lexsort((np.arange(len(self.order)), self.usage_N))[:count].tolist()

    def scores(self, query_D: Array, cosine: bool) -> Array:
        """Of every word; −inf for empty ones."""
        rows_ND, query_D = self.rows_ND.astype(np.float64), query_D.astype(np.float64)
        scores_N = rows_ND @ query_D
        if cosine:
            scores_N /= np.sqrt((rows_ND**2).sum(1) + 1e-6) * np.sqrt((query_D**2).sum() + 1e-6)
        return np.where(self.written_N, scores_N, -np.inf)


def same_gradients(network: nn.Module, twin: nn.Module) -> None:
    """Asserts that the weights of a network got the gradients that its twin's got in float64, all
    of which have one."""
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        largest = float(theirs.grad.abs().max())
        assert largest > 0
        np.testing.assert_allclose(ours.grad, theirs.grad, rtol=2e-3, atol=2e-4 * largest)
