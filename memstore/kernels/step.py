"""Row-wise optimizer steps in place, with gradients of equal rows summed in order first."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from memstore.memory import Array, Slots


def sum_equal(rows_B: Slots, grads_BD: Array) -> tuple[Slots, Array]:
    """Returns the distinct rows, rising, and the sum of the gradients of each in call order."""
    order_B = np.argsort(rows_B, kind="stable")
    sorted_B = rows_B[order_B]
    first_B = np.ones(len(rows_B), bool)
    first_B[1:] = sorted_B[1:] != sorted_B[:-1]
    rows_U = sorted_B[first_B]
    sums_UD = np.empty((len(rows_U), grads_BD.shape[1]), grads_BD.dtype)
    _sum_runs(order_B, first_B, grads_BD, sums_UD)
    return rows_U, sums_UD


@numba.njit(nogil=True, cache=True)
def _sum_runs(
    order_B: Slots, first_B: npt.NDArray[np.bool_], grads_BD: Array, sums_UD: Array
) -> None:
    u = -1
    for b in range(order_B.shape[0]):
        source = order_B[b]
        if first_B[b]:
            u += 1
            for d in range(grads_BD.shape[1]):
                sums_UD[u, d] = grads_BD[source, d]
        else:
            for d in range(grads_BD.shape[1]):
                sums_UD[u, d] += grads_BD[source, d]


@numba.njit(nogil=True, cache=True)
def sgd(table_ND: Array, rows_U: Slots, grads_UD: Array, lr: float) -> npt.NDArray[np.float64]:
    """x ← x − lr·g; returns the length of each step."""
    moved_U = np.empty(len(rows_U))
    for u in range(len(rows_U)):
        row = rows_U[u]
        total = 0.0
        for d in range(table_ND.shape[1]):
            before = table_ND[row, d]
            table_ND[row, d] = before - lr * grads_UD[u, d]
            total += (table_ND[row, d] - before) ** 2
        moved_U[u] = np.sqrt(total)
    return moved_U


@numba.njit(nogil=True, cache=True)
def adagrad(
    table_ND: Array, state_ND: Array, rows_U: Slots, grads_UD: Array, lr: float, eps: float
) -> npt.NDArray[np.float64]:
    """s ← s + g²; x ← x − lr·g / (√s + eps); returns the length of each step."""
    moved_U = np.empty(len(rows_U))
    for u in range(len(rows_U)):
        row = rows_U[u]
        total = 0.0
        for d in range(table_ND.shape[1]):
            grad = grads_UD[u, d]
            state_ND[row, d] += grad * grad
            before = table_ND[row, d]
            table_ND[row, d] = before - lr * grad / (np.sqrt(state_ND[row, d]) + eps)
            total += (table_ND[row, d] - before) ** 2
        moved_U[u] = np.sqrt(total)
    return moved_U


@numba.njit(nogil=True, cache=True)
def rowwise_adagrad(
    table_ND: Array, state_N1: Array, rows_U: Slots, grads_UD: Array, lr: float, eps: float
) -> npt.NDArray[np.float64]:
    """s ← s + mean(g²); x ← x − lr·g / (√s + eps); returns the length of each step."""
    moved_U = np.empty(len(rows_U))
    width = table_ND.shape[1]
    for u in range(len(rows_U)):
        row = rows_U[u]
        squares = 0.0
        for d in range(width):
            squares += grads_UD[u, d] * grads_UD[u, d]
        state_N1[row, 0] += squares / width
        scale = lr / (np.sqrt(state_N1[row, 0]) + eps)
        total = 0.0
        for d in range(width):
            before = table_ND[row, d]
            table_ND[row, d] = before - scale * grads_UD[u, d]
            total += (table_ND[row, d] - before) ** 2
        moved_U[u] = np.sqrt(total)
    return moved_U
