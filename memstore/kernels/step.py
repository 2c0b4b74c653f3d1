"""Optimizer steps of rows in place: gradients of equal rows are summed in order, then stepped once.

Every distinct row x of a call is taken once, with one pass over memory:

    g ← the sum of the gradients of the row, in the order of the call
    g ← g · min(1, clip / ‖g‖)      unless clip is 0
    g ← g + decay·x                 unless decay is 0
    x ← the step of the rule
    x ← x · min(1, bound / ‖x‖)     unless bound is 0

All of it in the dtype that the table is counted with, as in torch.optim; then the table keeps x as
it can. Sums of gradients have the order of the call; norms and means over a row have the order
that the compiler gives them, which is the same in every call on one kind of processor.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memstore.kernels.fetch import AHEAD, fetch_row
from memstore.kernels.group import Groups
from memstore.kernels.half import widened
from memstore.kernels.keep import Keeper, draw, keep, read
from memstore.kernels.rules import (
    Rule,
    ask,
    begin,
    compiled_rule,
    compiled_with_free_sums,
    stepped,
    sum_of_squares,
)
from memstore.kernels.sequence import Marks, close_row, open_row
from memstore.memory import Array, Slots

Lengths = npt.NDArray[np.float64]


class Limits(NamedTuple):
    """What bounds a step, in the dtype of the gradients; 0 is off.

    clip: largest ‖g‖ of a summed gradient.  decay: λ of g ← g + λ·x.  bound: largest ‖x‖.
    """

    clip: Any
    decay: Any
    bound: Any


@compiled_with_free_sums
def step_rows(
    table_ND: Array,
    marks: Marks,
    keeper: Keeper,
    groups: Groups,
    grads_BD: Array,
    limits: Limits,
    rule: Rule,
    mean: Array | None,
    square: Array | None,
    steps_N: Array | None,
) -> Lengths:
    """Steps the rows; returns the length of the way from x before to x after, as it is kept.

    marks: the sequence numbers of the rows; readers see each of them before its step or after.
    """
    rows_U, starts, order_B = groups
    width = table_ND.shape[1]
    lengths_U = np.empty(len(rows_U))
    grad_D, after_D = np.empty(width, grads_BD.dtype), np.empty(width, grads_BD.dtype)
    for u in range(len(rows_U)):
        if u + AHEAD < len(rows_U):
            fetch_row(table_ND, rows_U[u + AHEAD])
            ask(mean, rows_U[u + AHEAD])
            ask(square, rows_U[u + AHEAD])
            ask(steps_N, rows_U[u + AHEAD])
            fetch_row(grads_BD, order_B[starts[u + AHEAD]])
        row = rows_U[u]
        places = order_B[starts[u] : starts[u + 1]]
        _prepare(table_ND, row, keeper, grads_BD, places, limits, grad_D)
        shared = begin(rule, square, steps_N, row, grad_D)
        drawn = draw(keeper, row)
        moved = grad_D.dtype.type(0)
        open_row(marks, row)
        if limits.bound > 0:
            for d in range(width):
                before = read(table_ND, row, d, keeper)
                after_D[d] = stepped(rule, mean, square, row, d, before, grad_D[d], shared)
            _project(after_D, limits.bound)
            for d in range(width):
                held = widened(table_ND[row, d])
                change = keep(table_ND, row, d, after_D[d], keeper, drawn) - held
                moved += change * change
        else:
            for d in range(width):
                held = widened(table_ND[row, d])
                before = read(table_ND, row, d, keeper)
                after = stepped(rule, mean, square, row, d, before, grad_D[d], shared)
                change = keep(table_ND, row, d, after, keeper, drawn) - held
                moved += change * change
        close_row(marks, row)
        lengths_U[u] = np.sqrt(moved)
    return lengths_U


@compiled_rule
def _prepare(
    table_ND: Array,
    row: int,
    keeper: Keeper,
    grads_BD: Array,
    places: Slots,
    limits: Limits,
    grad_D: Array,
) -> None:
    """Leaves the gradient of the row in grad_D: summed, clipped, with decay."""
    width = table_ND.shape[1]
    first = places[0]
    for d in range(width):
        grad_D[d] = grads_BD[first, d]
    for place in places[1:]:
        for d in range(width):
            grad_D[d] += grads_BD[place, d]
    if limits.clip > 0:
        norm = np.sqrt(sum_of_squares(grad_D))
        if norm > limits.clip:
            scale = limits.clip / norm
            for d in range(width):
                grad_D[d] *= scale
    if limits.decay > 0:
        for d in range(width):
            grad_D[d] += limits.decay * read(table_ND, row, d, keeper)


@compiled_with_free_sums
def _project(row_D: Array, bound: Any) -> None:
    """Scales a row down onto the ball of radius `bound`, if it lies outside."""
    total = sum_of_squares(row_D)
    if total > bound * bound:
        scale = bound / np.sqrt(total)
        for d in range(len(row_D)):
            row_D[d] *= scale
