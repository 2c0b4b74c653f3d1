"""Which rows of private memories were used least, after Rae et al. 2016, section 3.2:

    U¹_T(i) = Σ_t λ^(T−t) (w^W_t(i) + w^R_t(i))             discounted
    U²_T(i) = T − max {t : w^W_t(i) + w^R_t(i) > δ}          longest unused

The paper evicts argmin_i U(i). For U¹ that is the row used least. For U², the time since the last
access, it would be the row used *last*: what is meant, and done here, is argmax_i U²(i).

U² needs no numbers: rows stand in a list, longest unused first, and a touch moves a row to its end.
U¹ has a heap of log Σ_t λ^(−t) (w^W_t + w^R_t): the same order, and no row changes but by a touch.

next_BN, prev_BN: the list; row N stands before the first and behind the last.  heap_BN, place_BN,
key_BN: the heap, least (key, row) on top; without columns where the list is in use.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.kernels.episode import TOUCHES, Journal, Numbers
from memstore.memory import Array

Keys = npt.NDArray[np.float64]


class Usage(NamedTuple):
    next_BN: Numbers
    prev_BN: Numbers
    heap_BN: Numbers
    place_BN: Numbers
    key_BN: Keys


class Rule(NamedTuple):
    """threshold: δ, above which a weight is an access.  decay: −log λ."""

    threshold: float
    decay: float


@compiled()
def touch_row(
    usage: Usage, journal: Journal, b: int, row: int, weight: float, step: int, rule: Rule
) -> None:
    """Counts an access of one row, if it is one."""
    listed = usage.heap_BN.shape[1] == 0
    if weight <= (rule.threshold if listed else 0.0):
        return
    end = journal.ends_B2[b, TOUCHES]
    journal.touched_BT[b, end] = row
    journal.ends_B2[b, TOUCHES] = end + 1
    if listed:
        next_N, prev_N = usage.next_BN[b], usage.prev_BN[b]
        journal.before_BT[b, end] = prev_N[row]
        _move_behind(next_N, prev_N, row, prev_N[len(prev_N) - 1])
    else:
        key = usage.key_BN[b, row]
        journal.key_BT[b, end] = key
        more = np.log(weight) + step * rule.decay
        high, low = max(key, more), min(key, more)
        usage.key_BN[b, row] = high + np.log1p(np.exp(low - high))
        _sink(usage.heap_BN[b], usage.place_BN[b], usage.key_BN[b], row)


@compiled()
def undo_touches(usage: Usage, journal: Journal, b: int, mark: int) -> None:
    """Takes back the touches behind a mark, the last first."""
    while journal.ends_B2[b, TOUCHES] > mark:
        end = journal.ends_B2[b, TOUCHES] - 1
        journal.ends_B2[b, TOUCHES] = end
        row = journal.touched_BT[b, end]
        if usage.heap_BN.shape[1] == 0:
            _move_behind(usage.next_BN[b], usage.prev_BN[b], row, journal.before_BT[b, end])
        else:
            usage.key_BN[b, row] = journal.key_BT[b, end]
            _rise(usage.heap_BN[b], usage.place_BN[b], usage.key_BN[b], row)


@compiled()
def least_used(usage: Usage, b: int, least_R: Numbers) -> None:
    """Fills in the rows used least, the least first; changes nothing."""
    if usage.heap_BN.shape[1] == 0:
        row = usage.next_BN.shape[1] - 1
        for r in range(len(least_R)):
            row = usage.next_BN[b, row]
            least_R[r] = row
        return
    heap_N, key_N = usage.heap_BN[b], usage.key_BN[b]
    # A frontier of places, best first: what comes next stands below one that was taken.
    frontier, size = np.zeros(len(least_R), np.int32), 1
    for r in range(len(least_R)):
        place = frontier[0]
        least_R[r] = heap_N[place]
        size -= 1
        for i in range(size):
            frontier[i] = frontier[i + 1]
        for below in range(2 * place + 1, min(2 * place + 3, len(heap_N))):
            row = heap_N[below]
            if size < len(frontier):
                size += 1
            elif not _before(key_N, row, heap_N[frontier[size - 1]]):
                continue
            at = size - 1
            while at > 0 and _before(key_N, row, heap_N[frontier[at - 1]]):
                frontier[at] = frontier[at - 1]
                at -= 1
            frontier[at] = below


@compiled()
def _move_behind(next_N: Numbers, prev_N: Numbers, row: int, before: int) -> None:
    """Moves a row behind another one; a row behind itself stays."""
    if before == row or prev_N[row] == before:
        return
    next_N[prev_N[row]], prev_N[next_N[row]] = next_N[row], prev_N[row]
    after = next_N[before]
    next_N[before], prev_N[row], next_N[row], prev_N[after] = row, before, after, row


@compiled()
def _before(key_N: Keys, row: int, other: int) -> bool:
    return bool(key_N[row] < key_N[other] or (key_N[row] == key_N[other] and row < other))


@compiled()
def _rise(heap_N: Numbers, place_N: Numbers, key_N: Keys, row: int) -> None:
    at = place_N[row]
    while at > 0:
        above = (at - 1) // 2
        if not _before(key_N, row, heap_N[above]):
            break
        heap_N[at] = heap_N[above]
        place_N[heap_N[at]] = at
        at = above
    heap_N[at] = row
    place_N[row] = at


@compiled()
def _sink(heap_N: Numbers, place_N: Numbers, key_N: Keys, row: int) -> None:
    at, size = place_N[row], len(heap_N)
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _before(key_N, heap_N[below + 1], heap_N[below]):
            below += 1
        if not _before(key_N, heap_N[below], row):
            break
        heap_N[at] = heap_N[below]
        place_N[heap_N[at]] = at
        at = below
    heap_N[at] = row
    place_N[row] = at


@compiled()
def touch_rows(
    usage: Usage,
    journal: Journal,
    rows_BR: Numbers,
    weights_BR: Array,
    step: int,
    rule: Rule,
) -> None:
    """Counts accesses in the order given; a row < 0 is none."""
    for b in range(rows_BR.shape[0]):
        for r in range(rows_BR.shape[1]):
            if rows_BR[b, r] >= 0:
                touch_row(usage, journal, b, rows_BR[b, r], weights_BR[b, r], step, rule)


@compiled()
def least_rows_of_all(usage: Usage, least_BR: Numbers) -> None:
    for b in range(least_BR.shape[0]):
        least_used(usage, b, least_BR[b])
