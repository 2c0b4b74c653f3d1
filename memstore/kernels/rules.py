"""The rules of the optimizers: what a step makes of each element of a row.

A rule is its rates; the state of the rows stands beside it, in up to three arrays, None where a
rule has none. For each row `begin` steps what the row has one number of, and gives what all its
elements share; then `stepped` gives each element as it is after the step. The state of a row that
was never named is zeros.

| rule | mean | square | steps |
|---|---|---|---|
| `Sgd` | | | |
| `Adagrad` | | `[N, D]` the sum of g² | |
| `RowwiseAdagrad` | | `[N]` the sum of mean(g²) | |
| `Adam` | `[N, D]` m | `[N, D]` v | int64 `[N]` t |
| `RowwiseAdam` | `[N, D]` m | `[N]` v | int64 `[N]` t |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.extending import overload

from memstore.kernels.compiling import compiled
from memstore.kernels.fetch import fetch, fetch_row
from memstore.memory import Array

# A check for division by zero would keep a loop from being vectorised: numpy's has none.
compiled_rule = compiled(error_model="numpy")
# Nor is a sum over a row vectorised whose order is fixed: it takes four times as long.
compiled_with_free_sums = compiled(error_model="numpy", fastmath={"reassoc"})


class Sgd(NamedTuple):
    """x ← x − lr·g."""

    lr: Any


class Adagrad(NamedTuple):
    """s ← s + g²; x ← x − lr·g / (√s + eps)."""

    lr: Any
    eps: Any


class RowwiseAdagrad(NamedTuple):
    """s ← s + mean(g²); x ← x − lr·g / (√s + eps)."""

    lr: Any
    eps: Any


class Adam(NamedTuple):
    """t ← t + 1; m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²;
    x ← rest·x − lr / (1 − β₁ᵗ) · m / (√(v / (1 − β₂ᵗ)) + eps).

    t counts the updates of the row. rest: 1 − lr·λ for the decoupled decay of AdamW, else 1.
    """

    lr: float
    eps: Any
    betas: tuple[float, float]
    rest: Any


class RowwiseAdam(NamedTuple):
    """As `Adam`, with v ← β₂v + (1 − β₂)·mean(g²)."""

    lr: float
    eps: Any
    betas: tuple[float, float]


Rule = Sgd | Adagrad | RowwiseAdagrad | Adam | RowwiseAdam


def ask(state: Any, row: Any) -> Any:
    """Asks for the state of a row that will be stepped soon."""
    raise NotImplementedError("only in kernels")


def begin(rule: Any, square: Any, steps_N: Any, row: Any, grad_D: Any) -> Any:
    """Steps what there is one of in a row; returns what its elements share."""
    raise NotImplementedError("only in kernels")


def stepped(
    rule: Any, mean: Any, square: Any, row: Any, d: Any, before: Any, grad: Any, shared: Any
) -> Any:
    """Steps the state of an element; returns what becomes of it."""
    raise NotImplementedError("only in kernels")


@compiled_with_free_sums
def sum_of_squares(vector_D: Array) -> Any:
    total = vector_D.dtype.type(0)
    for d in range(len(vector_D)):
        total += vector_D[d] * vector_D[d]
    return total


@compiled_with_free_sums
def _mean_square(vector_D: Array) -> Any:
    return sum_of_squares(vector_D) / vector_D.dtype.type(len(vector_D))


def _begin_with_lr(rule: Any, square: Any, steps_N: Any, row: Any, grad_D: Any) -> Any:
    return rule.lr


def _begin_rowwise_adagrad(rule: Any, square: Any, steps_N: Any, row: Any, grad_D: Any) -> Any:
    square[row] += _mean_square(grad_D)
    return rule.lr / (np.sqrt(square[row]) + rule.eps)


def _begin_adam(rule: Any, square: Any, steps_N: Any, row: Any, grad_D: Any) -> Any:
    number, (beta1, beta2) = grad_D.dtype.type, rule.betas
    steps_N[row] += 1
    rate = number(rule.lr / (1 - beta1 ** steps_N[row]))
    unbias = number(1 / np.sqrt(1 - beta2 ** steps_N[row]))
    return rate, unbias, number(1 - beta1), number(1 - beta2), number(beta2)


def _begin_rowwise_adam(rule: Any, square: Any, steps_N: Any, row: Any, grad_D: Any) -> Any:
    number, (beta1, beta2) = grad_D.dtype.type, rule.betas
    steps_N[row] += 1
    square[row] = number(beta2) * square[row] + number(1 - beta2) * _mean_square(grad_D)
    root = np.sqrt(square[row] / (1 - beta2 ** steps_N[row]))
    scale = number(rule.lr / (1 - beta1 ** steps_N[row]) / (root + rule.eps))
    return scale, number(1 - beta1)


def _sgd(
    rule: Any, mean: Any, square: Any, row: Any, d: Any, before: Any, grad: Any, shared: Any
) -> Any:
    return before - shared * grad


def _adagrad(
    rule: Any, mean: Any, square: Any, row: Any, d: Any, before: Any, grad: Any, shared: Any
) -> Any:
    total = square[row, d] + grad * grad
    square[row, d] = total
    return before - shared * grad / (np.sqrt(total) + rule.eps)


def _adam(
    rule: Any, mean: Any, square: Any, row: Any, d: Any, before: Any, grad: Any, shared: Any
) -> Any:
    rate, unbias, new1, new2, beta2 = shared
    new_mean = mean[row, d] + new1 * (grad - mean[row, d])
    new_square = beta2 * square[row, d] + new2 * grad * grad
    mean[row, d] = new_mean
    square[row, d] = new_square
    return rule.rest * before - rate * new_mean / (np.sqrt(new_square) * unbias + rule.eps)


def _rowwise_adam(
    rule: Any, mean: Any, square: Any, row: Any, d: Any, before: Any, grad: Any, shared: Any
) -> Any:
    scale, new1 = shared
    new_mean = mean[row, d] + new1 * (grad - mean[row, d])
    mean[row, d] = new_mean
    return before - scale * new_mean


_RULES: Mapping[type, tuple[Callable[..., Any], Callable[..., Any]]] = {
    Sgd: (_begin_with_lr, _sgd),
    Adagrad: (_begin_with_lr, _adagrad),
    RowwiseAdagrad: (_begin_rowwise_adagrad, _sgd),
    Adam: (_begin_adam, _adam),
    RowwiseAdam: (_begin_rowwise_adam, _rowwise_adam),
}


@overload(begin, jit_options={"error_model": "numpy", "fastmath": {"reassoc"}})
def _begin(rule: Any, square: Any, steps_N: Any, row: Any, grad_D: Any) -> Any:
    return _RULES[rule.instance_class][0]


@overload(stepped, jit_options={"error_model": "numpy", "fastmath": {"reassoc"}})
def _stepped(
    rule: Any, mean: Any, square: Any, row: Any, d: Any, before: Any, grad: Any, shared: Any
) -> Any:
    return _RULES[rule.instance_class][1]


def _ask_nothing(state: Any, row: Any) -> Any:
    pass


def _ask_number(state: Any, row: Any) -> Any:
    fetch(state, row)


def _ask_row(state: Any, row: Any) -> Any:
    fetch_row(state, row)


@overload(ask)
def _ask(state: Any, row: Any) -> Any:
    if state == types.none:
        return _ask_nothing
    return _ask_number if state.ndim == 1 else _ask_row
