"""Cuts sorted runs at common places, so that ranges of all of them can be merged one by one."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import numpy as np

SAMPLES = 16
"""Of a run, for each range: the more, the more equal the ranges are."""


def bounds(
    count: int,
    run: Callable[[int], Any],
    most: int,
    at: Callable[[Any, int], Any],
    floor: Callable[[Any], Any] = lambda value: value,
) -> np.ndarray:
    """Where each range begins in each run, int64 [ranges + 1, runs].

    run: opens a run, which has a length, rises, and has `nbytes`; one is open at a time, since
    what was looked at of it is resident.  most: about the bytes of a range.  at: the value of a
    run at a place.  floor: the first value that must not be parted from one.
    """
    sizes = [run(number).nbytes for number in range(count)]
    lengths = [len(run(number)) for number in range(count)]
    ranges = max(1, -(-sum(sizes) // most))
    step = max(1, sum(sizes) // (ranges * SAMPLES))
    sample, before = list[Any](), 0
    for number, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
        # Steps go on from run to run: where runs are shorter than a step, not all are looked at.
        offsets = range((step // 2 - before) % step, size if length else 0, step)
        values = run(number)
        sample += [at(values, length * offset // size) for offset in offsets]
        before += size
    sample.sort()
    ends = [len(sample) * number // ranges for number in range(1, ranges)]
    splitters = sorted({floor(sample[end]) for end in ends}) if sample else []
    cut = np.empty((len(splitters) + 2, count), np.int64)
    cut[0], cut[-1] = 0, lengths
    for number in range(count):
        values, first = run(number), 0
        for place, splitter in enumerate(splitters, 1):
            # Splitters rise: what lies before the one before need not be looked at again.
            behind = range(first, lengths[number])
            first += bisect.bisect_left(behind, splitter, key=lambda i, v=values: at(v, i))  # type: ignore[misc]
            cut[place, number] = first
    return cut
