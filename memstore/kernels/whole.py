"""Rows copied whole: out of the table beside a writer, and into it beside readers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.kernels.half import packed, widened
from memstore.kernels.sequence import BLOCK_BITS, Marks, close_row, is_whole, mark_of, open_row
from memstore.memory import Array, Slots

Alive = npt.NDArray[np.bool_]


@compiled()
def marks_of(marks: Marks, start: int, end: int) -> Marks:
    """The marks of the rows from `start` to `end`, before all of them are read."""
    first = start >> BLOCK_BITS
    copy = np.empty(((end - 1) >> BLOCK_BITS) + 1 - first, np.uint32)
    for i in range(len(copy)):
        copy[i] = mark_of(marks, (first + i) << BLOCK_BITS)
    return copy


@compiled()
def are_whole(marks: Marks, start: int, before: Marks) -> bool:
    """Whether what was read of these rows since `marks_of` gave `before` is whole."""
    first = start >> BLOCK_BITS
    for i in range(len(before)):  # noqa: SIM110
        if not is_whole(marks, (first + i) << BLOCK_BITS, before[i]):
            return False
    return True


def copies(table_ND: Array, marks: Marks, rows_B: Slots) -> Array:
    """Copies of rows of a table of any dtype, `[B, D]`, each as it was at one moment."""
    copy_BD: Array = take_rows(packed(table_ND), marks, rows_B).view(table_ND.dtype)
    return copy_BD


@compiled()
def take_rows(table_ND: Array, marks: Marks, rows_B: Slots) -> Array:
    """Copies of rows, `[B, D]`, each as it was at one moment."""
    copy_BD = np.empty((len(rows_B), table_ND.shape[1]), table_ND.dtype)
    for b in range(len(rows_B)):
        row = rows_B[b]
        while True:
            mark = mark_of(marks, row)
            for d in range(table_ND.shape[1]):
                copy_BD[b, d] = table_ND[row, d]
            if is_whole(marks, row, mark):
                break
    return copy_BD


@compiled()
def take_tenants(
    keys_ND: Array,
    values_NV: Array,
    generation_N: npt.NDArray[np.int64],
    marks: Marks,
    rows_B: Slots,
) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Copies of keys `[B, D]`, values `[B, V]` and generations `[B]`, all three of one moment."""
    keys_BD = np.empty((len(rows_B), keys_ND.shape[1]), keys_ND.dtype)
    values_BV = np.empty((len(rows_B), values_NV.shape[1]), values_NV.dtype)
    generations_B = np.empty(len(rows_B), np.int64)
    for b in range(len(rows_B)):
        row = rows_B[b]
        while True:
            mark = mark_of(marks, row)
            for d in range(keys_ND.shape[1]):
                keys_BD[b, d] = keys_ND[row, d]
            for d in range(values_NV.shape[1]):
                values_BV[b, d] = values_NV[row, d]
            generations_B[b] = generation_N[row]
            if is_whole(marks, row, mark):
                break
    return keys_BD, values_BV, generations_B


@compiled()
def put_rows(
    keys_ND: Array,
    values_NV: Array,
    generation_N: npt.NDArray[np.int64],
    alive_N: Alive,
    travel_N: npt.NDArray[np.float64],
    marks: Marks,
    rows_B: Slots,
    keys_BD: Array,
    values_BV: Array,
    tenants: int,
) -> int:
    """Writes rows, raises their generation by `tenants`, and lets them live; returns how many
    came alive.

    keys_BD, values_BV: without columns, that part of a row stays as it is. travel_N grows by the
    length of the way of each key that was there. What stays zero is not written: pages of it take
    no memory.
    """
    born = 0
    for b in range(len(rows_B)):
        row = rows_B[b]
        total = 0.0
        born += not alive_N[row]
        if alive_N[row]:
            for d in range(keys_BD.shape[1]):
                change = np.float64(widened(keys_BD[b, d])) - np.float64(widened(keys_ND[row, d]))
                total += change * change
        open_row(marks, row)
        for d in range(keys_BD.shape[1]):
            keys_ND[row, d] = keys_BD[b, d]
        for d in range(values_BV.shape[1]):
            values_NV[row, d] = values_BV[b, d]
        if tenants > 0:
            generation_N[row] += tenants
        alive_N[row] = True
        close_row(marks, row)
        if total > 0.0:
            travel_N[row] += np.sqrt(total)
    return born
