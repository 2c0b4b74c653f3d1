"""The rows of smallest (priority, row), by a heap that learns of risen priorities when it must.

A priority rises often and is asked for seldom. So the heap is ordered by the priority that a row
had when the heap last looked, which is never above its priority now; a row that reaches the top
with an old one goes back to where it belongs. Each rise costs at most one such move, O(log N).

heap_H: rows, the least on top.  key_H: what the heap takes for their priority.  place_N: where in
the heap a row stands, −1 if nowhere. Rows that are dead leave the heap when they reach the top.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.memory import Slots

Keys = npt.NDArray[np.float64]


@compiled()
def add_rows(
    heap_H: Slots, key_H: Keys, place_N: Slots, size: int, rows_R: Slots, priority_N: Keys
) -> int:
    """Adds rows that are not in the heap; returns its size."""
    for row in rows_R:
        _rise(heap_H, key_H, place_N, size, row, priority_N[row])
        size += 1
    return size


@compiled()
def lower_rows(heap_H: Slots, key_H: Keys, place_N: Slots, rows_R: Slots, priority_N: Keys) -> None:
    """Moves rows up whose priority has sunk; those not in the heap are left out."""
    for row in rows_R:
        at = place_N[row]
        if at >= 0 and priority_N[row] < key_H[at]:
            _rise(heap_H, key_H, place_N, at, row, priority_N[row])


@compiled()
def least_rows(
    heap_H: Slots,
    key_H: Keys,
    place_N: Slots,
    size: int,
    priority_N: Keys,
    alive_N: npt.NDArray[np.bool_],
    count: int,
) -> tuple[Slots, int]:
    """Up to `count` live rows of smallest (priority, row), in that order, and the heap's size."""
    found = np.empty(min(count, size), np.int64)
    taken = 0
    while size > 0 and taken < len(found):
        row = heap_H[0]
        if alive_N[row] and key_H[0] < priority_N[row]:
            _sink(heap_H, key_H, place_N, size, row, priority_N[row])
            continue
        if alive_N[row]:
            found[taken] = row
            taken += 1
        place_N[row] = -1
        size -= 1
        if size > 0:
            _sink(heap_H, key_H, place_N, size, heap_H[size], key_H[size])
    # They were only looked at.
    size = add_rows(heap_H, key_H, place_N, size, found[:taken], priority_N)
    return found[:taken], size


@compiled()
def _before(key: float, row: int, other_key: float, other_row: int) -> bool:
    return key < other_key or (key == other_key and row < other_row)


@compiled()
def _rise(heap_H: Slots, key_H: Keys, place_N: Slots, at: int, row: int, key: float) -> None:
    """Puts a row in at a place, or above it."""
    while at > 0:
        above = (at - 1) // 2
        if not _before(key, row, key_H[above], heap_H[above]):
            break
        heap_H[at], key_H[at] = heap_H[above], key_H[above]
        place_N[heap_H[at]] = at
        at = above
    heap_H[at], key_H[at] = row, key
    place_N[row] = at


@compiled()
def _sink(heap_H: Slots, key_H: Keys, place_N: Slots, size: int, row: int, key: float) -> None:
    """Puts a row in place of the top of a heap of `size`, or below it."""
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _before(
            key_H[below + 1], heap_H[below + 1], key_H[below], heap_H[below]
        ):
            below += 1
        if not _before(key_H[below], heap_H[below], key, row):
            break
        heap_H[at], key_H[at] = heap_H[below], key_H[below]
        place_N[heap_H[at]] = at
        at = below
    heap_H[at], key_H[at] = row, key
    place_N[row] = at
