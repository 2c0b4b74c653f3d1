"""Fits integers and probabilities to published totals: Zipf's law with the totals met exactly.

The law is Mandelbrot's, f(k) ∝ 1 / (k + q)^a (Mandelbrot 1953, "An informational theory of the
statistical structure of language"); q = 0 is Zipf's.

Shapes: K ranks, C classes of a count, D counts of a subject, R relations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.tasks.knowledge import Int64s, TaskDataError

Floats = NDArray[np.float64]


def falling(ranks: int, most: int, least: int, total: int) -> Int64s:
    """Integers that fall from `most` to `least` by Mandelbrot's law and add up to `total`, [K].

    f(k) = least · ((K + q) / (k + q))^a, with a such that f(1) = most and q > −1 such that the sum
    is right; what rounding leaves is the first one's. Raises `TaskDataError` where no q does it.
    """
    if ranks < 1:
        return np.zeros(0, np.int64)
    rank = np.arange(1, ranks + 1, dtype=np.float64)

    def law(q: float) -> Floats:
        exponent = np.log(most / least) / np.log((ranks + q) / (1 + q))
        return np.asarray(least * ((ranks + q) / (rank + q)) ** exponent)

    counts = np.rint(law(_root(lambda q: law(q).sum() - total, -1.0))).astype(np.int64)
    counts = np.maximum(counts, least)
    counts[0] += total - counts.sum()
    _check(counts[0] >= least, f"{ranks} counts from {most} to {least} with the sum {total}")
    return counts


def classes(first: int, last: int, things: int, total: int, exponent: float | None) -> Int64s:
    """How many of so many things have a count of 0, 1, …, `last`, int64 [last + 1].

    Counts are from `first` on, at least one thing has `last`, and the sum of all counts is `total`.
    exponent: the a of Mandelbrot's law, whose q is fitted; None fits a, with q = 0.
    Raises `TaskDataError` where there are no such counts.
    """
    count = np.arange(first, last + 1, dtype=np.float64)

    def shares(free: float) -> Floats:
        weight = count**-free if exponent is None else (count + free) ** -exponent
        return np.asarray(weight / weight.sum())

    found = np.zeros(last + 1, np.int64)
    if things > 0:
        mean, sign = total / things, -1 if exponent is None else 1
        bottom = 0.0 if exponent is None else -float(first)
        free = _root(lambda value: sign * float(shares(value) @ count - mean), bottom)
        found[first:] = np.diff(np.rint(np.cumsum(shares(free)) * things), prepend=0)
        if not found[last]:
            found[last], found[first] = 1, found[first] - 1
    # Moving a thing to the next class changes the sum by one, and hardly the law.
    missing = total - int(found @ np.arange(last + 1))
    at = first if missing > 0 else first + 1
    step = 1 if missing > 0 else -1
    found[at] -= abs(missing)
    found[at + step] += abs(missing)
    whole = found.min() >= 0 and found.sum() == max(things, 0)
    _check(bool(whole), f"{things} counts from {first} to {last} with the sum {total}")
    return found


def inclusions(subjects_D: Floats, lines_R: Int64s, rounds: int = 200) -> Floats:
    """The probability that a subject of d lines has relation r, float64 [D, R]; row d adds up to d.

    π[d, r] = 1 − exp(−a_d w_r), where a and w are fitted in turn: Σ_r π[d, r] = d for each d, and
    Σ_d subjects[d] π[d, r] = lines[r] for each r, to a thousandth.

    subjects_D: how many subjects have d lines, d = 0, 1, …, D − 1 < R.  lines_R: of each relation,
    with the sum Σ d · subjects[d].
    """
    lines_D = np.arange(len(subjects_D), dtype=np.float64)
    wanted_R = lines_R.astype(np.float64)
    w_R = wanted_R / wanted_R.sum()
    a_D = lines_D.copy()
    for _ in range(rounds):
        a_D = _rates(a_D, w_R, np.ones_like(w_R), lines_D)
        missed = subjects_D @ -np.expm1(-a_D[:, None] * w_R) / wanted_R - 1
        if np.abs(missed).max() < 1e-3:
            break
        w_R = _rates(w_R, a_D, subjects_D, wanted_R)
    shares_DR = -np.expm1(-a_D[:, None] * w_R)
    sums_D = shares_DR.sum(axis=1)
    return np.asarray(shares_DR * (lines_D / np.where(sums_D > 0, sums_D, 1))[:, None])


def _rates(rates: Floats, others: Floats, weights: Floats, wanted: Floats) -> Floats:
    """The rates x with Σ_j weights_j (1 − exp(−x others_j)) = wanted, each by Newton's method.

    The sum is concave in x, so each step from the left stays left of the root.
    """
    for _ in range(6):
        gone = np.exp(-rates[:, None] * others)
        value, slope = (1 - gone) @ weights, gone @ (weights * others)
        rates = np.maximum(rates + (wanted - value) / np.maximum(slope, 1e-300), 0)
    return rates


def _root(function: Callable[[float], float], bottom: float) -> float:
    """Where a rising function is zero above `bottom`, by halving the logarithm of the distance."""
    low, high = -40.0, 40.0
    for _ in range(200):
        middle = (low + high) / 2
        if function(bottom + float(np.exp(middle))) < 0:
            low = middle
        else:
            high = middle
    return bottom + float(np.exp(high))


def _check(sound: bool, got: str) -> None:
    if not sound:
        raise TaskDataError(got, "counts that can be", "take other statistics, or more facts")
