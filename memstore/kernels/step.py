"""Optimizer steps of rows in place: gradients of equal rows are summed in order, then stepped once.

Each kernel takes every distinct row x of a call once, with one pass over memory:

    g ← the sum of the gradients of the row, in the order of the call
    g ← g · min(1, clip / ‖g‖)      unless clip is 0
    g ← g + decay·x                 unless decay is 0
    x ← the step of the optimizer
    x ← x · min(1, bound / ‖x‖)     unless bound is 0

and returns the length of the way from x before to x after. Numbers come in the dtype of the
table and the maths stays in it, as in torch.optim. The state of a row that was never named is
zeros. Sums of gradients have the order of the call; norms and means over a row have the order
that the compiler gives them, which is the same in every call on one kind of processor.

marks: the sequence numbers of the table's rows; readers see each row before its step or after.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.kernels.fetch import AHEAD, fetch, fetch_row
from memstore.kernels.group import Groups
from memstore.kernels.sequence import Marks, close_row, open_row
from memstore.memory import Array, Slots

Lengths = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class Limits(NamedTuple):
    """What bounds a step, in the dtype of the table; 0 is off.

    clip: largest ‖g‖ of a summed gradient.  decay: λ of g ← g + λ·x.  bound: largest ‖x‖.
    """

    clip: Any
    decay: Any
    bound: Any


# A check for division by zero would keep a loop from being vectorised: numpy's has none.
_compiled = compiled(error_model="numpy")
# Nor is a sum over a row vectorised whose order is fixed: it takes four times as long.
_compiled_with_free_sums = compiled(error_model="numpy", fastmath={"reassoc"})


@_compiled_with_free_sums
def sgd(
    table_ND: Array, marks: Marks, groups: Groups, grads_BD: Array, limits: Limits, lr: Any
) -> Lengths:
    """x ← x − lr·g. A row has no state."""
    rows_U, starts, order_B = groups
    lengths_U, grad_D, before_D = _buffers(table_ND, len(rows_U))
    for u in range(len(rows_U)):
        if u + AHEAD < len(rows_U):
            fetch_row(table_ND, rows_U[u + AHEAD])
            fetch_row(grads_BD, order_B[starts[u + AHEAD]])
        row = rows_U[u]
        _prepare(
            table_ND, row, grads_BD, order_B, starts[u], starts[u + 1], limits, grad_D, before_D
        )
        open_row(marks, row)
        moved = table_ND.dtype.type(0)
        for d in range(table_ND.shape[1]):
            before = table_ND[row, d]
            after = before - lr * grad_D[d]
            table_ND[row, d] = after
            moved += (after - before) * (after - before)
        lengths_U[u] = _finish(table_ND, marks, row, moved, limits, before_D)
    return lengths_U


@_compiled_with_free_sums
def adagrad(
    table_ND: Array,
    marks: Marks,
    sum_ND: Array,
    groups: Groups,
    grads_BD: Array,
    limits: Limits,
    lr: Any,
    eps: Any,
) -> Lengths:
    """s ← s + g²; x ← x − lr·g / (√s + eps). State of a row: sum_ND, the D numbers s."""
    rows_U, starts, order_B = groups
    lengths_U, grad_D, before_D = _buffers(table_ND, len(rows_U))
    for u in range(len(rows_U)):
        if u + AHEAD < len(rows_U):
            fetch_row(table_ND, rows_U[u + AHEAD])
            fetch_row(sum_ND, rows_U[u + AHEAD])
            fetch_row(grads_BD, order_B[starts[u + AHEAD]])
        row = rows_U[u]
        _prepare(
            table_ND, row, grads_BD, order_B, starts[u], starts[u + 1], limits, grad_D, before_D
        )
        open_row(marks, row)
        moved = table_ND.dtype.type(0)
        for d in range(table_ND.shape[1]):
            before = table_ND[row, d]
            total = sum_ND[row, d] + grad_D[d] * grad_D[d]
            after = before - lr * grad_D[d] / (np.sqrt(total) + eps)
            sum_ND[row, d] = total
            table_ND[row, d] = after
            moved += (after - before) * (after - before)
        lengths_U[u] = _finish(table_ND, marks, row, moved, limits, before_D)
    return lengths_U


@_compiled_with_free_sums
def rowwise_adagrad(
    table_ND: Array,
    marks: Marks,
    sum_N: Array,
    groups: Groups,
    grads_BD: Array,
    limits: Limits,
    lr: Any,
    eps: Any,
) -> Lengths:
    """s ← s + mean(g²); x ← x − lr·g / (√s + eps). State of a row: sum_N, the one number s."""
    rows_U, starts, order_B = groups
    lengths_U, grad_D, before_D = _buffers(table_ND, len(rows_U))
    for u in range(len(rows_U)):
        if u + AHEAD < len(rows_U):
            fetch_row(table_ND, rows_U[u + AHEAD])
            fetch(sum_N, rows_U[u + AHEAD])
            fetch_row(grads_BD, order_B[starts[u + AHEAD]])
        row = rows_U[u]
        _prepare(
            table_ND, row, grads_BD, order_B, starts[u], starts[u + 1], limits, grad_D, before_D
        )
        open_row(marks, row)
        sum_N[row] += _mean_square(grad_D)
        scale = lr / (np.sqrt(sum_N[row]) + eps)
        moved = table_ND.dtype.type(0)
        for d in range(table_ND.shape[1]):
            before = table_ND[row, d]
            after = before - scale * grad_D[d]
            table_ND[row, d] = after
            moved += (after - before) * (after - before)
        lengths_U[u] = _finish(table_ND, marks, row, moved, limits, before_D)
    return lengths_U


@_compiled_with_free_sums
def adam(
    table_ND: Array,
    marks: Marks,
    mean_ND: Array,
    square_ND: Array,
    steps_N: Counts,
    groups: Groups,
    grads_BD: Array,
    limits: Limits,
    lr: Any,
    eps: Any,
    betas: tuple[float, float],
    keep: Any,
) -> Lengths:
    """t ← t + 1; m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²;
    x ← keep·x − lr / (1 − β₁ᵗ) · m / (√(v / (1 − β₂ᵗ)) + eps).

    State of a row: mean_ND and square_ND, the D numbers m and v, and steps_N int64, the count t
    of its own updates. keep: 1 − lr·λ for the decoupled decay of AdamW, else 1.
    """
    rows_U, starts, order_B = groups
    lengths_U, grad_D, before_D = _buffers(table_ND, len(rows_U))
    number = table_ND.dtype.type
    new1, new2 = number(1 - betas[0]), number(1 - betas[1])
    beta2 = number(betas[1])
    for u in range(len(rows_U)):
        if u + AHEAD < len(rows_U):
            fetch_row(table_ND, rows_U[u + AHEAD])
            fetch_row(mean_ND, rows_U[u + AHEAD])
            fetch_row(square_ND, rows_U[u + AHEAD])
            fetch(steps_N, rows_U[u + AHEAD])
            fetch_row(grads_BD, order_B[starts[u + AHEAD]])
        row = rows_U[u]
        _prepare(
            table_ND, row, grads_BD, order_B, starts[u], starts[u + 1], limits, grad_D, before_D
        )
        open_row(marks, row)
        steps_N[row] += 1
        rate = number(lr / (1 - betas[0] ** steps_N[row]))
        unbias = number(1 / np.sqrt(1 - betas[1] ** steps_N[row]))
        moved = number(0)
        for d in range(table_ND.shape[1]):
            before = table_ND[row, d]
            mean = mean_ND[row, d] + new1 * (grad_D[d] - mean_ND[row, d])
            square = beta2 * square_ND[row, d] + new2 * grad_D[d] * grad_D[d]
            after = keep * before - rate * mean / (np.sqrt(square) * unbias + eps)
            mean_ND[row, d] = mean
            square_ND[row, d] = square
            table_ND[row, d] = after
            moved += (after - before) * (after - before)
        lengths_U[u] = _finish(table_ND, marks, row, moved, limits, before_D)
    return lengths_U


@_compiled_with_free_sums
def rowwise_adam(
    table_ND: Array,
    marks: Marks,
    mean_ND: Array,
    square_N: Array,
    steps_N: Counts,
    groups: Groups,
    grads_BD: Array,
    limits: Limits,
    lr: Any,
    eps: Any,
    betas: tuple[float, float],
) -> Lengths:
    """As `adam`, with v ← β₂v + (1 − β₂)·mean(g²).

    State of a row: mean_ND, the D numbers m; square_N, the one number v; steps_N int64, t.
    """
    rows_U, starts, order_B = groups
    lengths_U, grad_D, before_D = _buffers(table_ND, len(rows_U))
    number = table_ND.dtype.type
    new1, new2 = number(1 - betas[0]), number(1 - betas[1])
    beta2 = number(betas[1])
    for u in range(len(rows_U)):
        if u + AHEAD < len(rows_U):
            fetch_row(table_ND, rows_U[u + AHEAD])
            fetch_row(mean_ND, rows_U[u + AHEAD])
            fetch(square_N, rows_U[u + AHEAD])
            fetch(steps_N, rows_U[u + AHEAD])
            fetch_row(grads_BD, order_B[starts[u + AHEAD]])
        row = rows_U[u]
        _prepare(
            table_ND, row, grads_BD, order_B, starts[u], starts[u + 1], limits, grad_D, before_D
        )
        open_row(marks, row)
        steps_N[row] += 1
        square_N[row] = beta2 * square_N[row] + new2 * _mean_square(grad_D)
        root = np.sqrt(square_N[row] / (1 - betas[1] ** steps_N[row]))
        scale = number(lr / (1 - betas[0] ** steps_N[row]) / (root + eps))
        moved = number(0)
        for d in range(table_ND.shape[1]):
            before = table_ND[row, d]
            mean = mean_ND[row, d] + new1 * (grad_D[d] - mean_ND[row, d])
            after = before - scale * mean
            mean_ND[row, d] = mean
            table_ND[row, d] = after
            moved += (after - before) * (after - before)
        lengths_U[u] = _finish(table_ND, marks, row, moved, limits, before_D)
    return lengths_U


@_compiled
def _buffers(table_ND: Array, distinct: int) -> tuple[Lengths, Array, Array]:
    width = table_ND.shape[1]
    return np.empty(distinct), np.empty(width, table_ND.dtype), np.empty(width, table_ND.dtype)


@_compiled
def _prepare(
    table_ND: Array,
    row: int,
    grads_BD: Array,
    order_B: Slots,
    start: int,
    stop: int,
    limits: Limits,
    grad_D: Array,
    before_D: Array,
) -> None:
    """Leaves the gradient of the row in grad_D: summed, clipped, with decay.

    Keeps the row in before_D where `_finish` will need it.
    """
    width = table_ND.shape[1]
    first = order_B[start]
    for d in range(width):
        grad_D[d] = grads_BD[first, d]
    for place in order_B[start + 1 : stop]:
        for d in range(width):
            grad_D[d] += grads_BD[place, d]
    if limits.clip > 0:
        norm = np.sqrt(_square(grad_D))
        if norm > limits.clip:
            scale = limits.clip / norm
            for d in range(width):
                grad_D[d] *= scale
    if limits.decay > 0:
        for d in range(width):
            grad_D[d] += limits.decay * table_ND[row, d]
    if limits.bound > 0:
        for d in range(width):
            before_D[d] = table_ND[row, d]


@_compiled_with_free_sums
def _finish(
    table_ND: Array, marks: Marks, row: int, moved: Any, limits: Limits, before_D: Array
) -> Any:
    """Projects the row onto the ball of radius `bound` and hands it to readers; returns the
    length of its whole way.

    moved: the square of that length before the projection.
    """
    if limits.bound > 0:
        square = table_ND.dtype.type(0)
        for d in range(table_ND.shape[1]):
            square += table_ND[row, d] * table_ND[row, d]
        if square > limits.bound * limits.bound:
            scale = limits.bound / np.sqrt(square)
            moved = table_ND.dtype.type(0)
            for d in range(table_ND.shape[1]):
                after = table_ND[row, d] * scale
                table_ND[row, d] = after
                moved += (after - before_D[d]) * (after - before_D[d])
    close_row(marks, row)
    return np.sqrt(moved)


@_compiled_with_free_sums
def _square(vector_D: Array) -> Any:
    """‖vector‖²."""
    total = vector_D.dtype.type(0)
    for d in range(len(vector_D)):
        total += vector_D[d] * vector_D[d]
    return total


@_compiled
def _mean_square(vector_D: Array) -> Any:
    return _square(vector_D) / vector_D.dtype.type(len(vector_D))
