"""Where texts stand among sorted ones, by their bytes."""

from __future__ import annotations

from memstore.kernels.compiling import compiled
from memstore.memory import Array, Slots


@compiled()
def ranges(
    ends_N: Slots, bytes_N: Array, ends_Q: Slots, bytes_Q: Array, low_Q: Slots, high_Q: Slots
) -> None:
    """Where each text that is asked begins among others, and where it ends; both rise.

    Text i is `bytes[ends[i] : ends[i + 1]]`, uint8. Each is looked for from the place of the one
    before it on, in steps that double, so that many read those asked of one behind the other.
    """
    count, begin = len(ends_N) - 1, 0
    for q in range(len(ends_Q) - 1):
        begin = _first(ends_N, bytes_N, ends_Q, bytes_Q, q, begin, 0)
        low_Q[q] = high_Q[q] = begin
        # Most are there once, as names are.
        if begin < count and _order(ends_N, bytes_N, begin, ends_Q, bytes_Q, q) == 0:
            high_Q[q] = _first(ends_N, bytes_N, ends_Q, bytes_Q, q, begin + 1, 1)


@compiled()
def _first(
    ends_N: Slots, bytes_N: Array, ends_Q: Slots, bytes_Q: Array, q: int, begin: int, least: int
) -> int:
    """The first text from `begin` on whose order beside that asked is `least` or more."""
    low, step, end = begin, 1, len(ends_N) - 1
    while low < end:
        probe = min(low + step, end) - 1
        if _order(ends_N, bytes_N, probe, ends_Q, bytes_Q, q) >= least:
            end = probe
            break
        low, step = probe + 1, 2 * step
    while low < end:
        middle = (low + end) // 2
        if _order(ends_N, bytes_N, middle, ends_Q, bytes_Q, q) >= least:
            end = middle
        else:
            low = middle + 1
    return low


@compiled()
def _order(ends_N: Slots, bytes_N: Array, n: int, ends_Q: Slots, bytes_Q: Array, q: int) -> int:
    """−1 where text n comes before text q, 0 where they are equal, 1 where it comes behind it."""
    at, other = ends_N[n], ends_Q[q]
    length, others = ends_N[n + 1] - at, ends_Q[q + 1] - other
    for i in range(min(length, others)):
        mine, its = bytes_N[at + i], bytes_Q[other + i]
        if mine != its:
            return -1 if mine < its else 1
    if length == others:
        return 0
    return -1 if length < others else 1
