"""Reaching: which lists a search by a filter visits.

Where few rows pass, the best of them lie in more lists than the best of all. Where a filter follows
the clusters, the lists near a query may hold none of them at all, and those further off many. So
lists are taken by their rank until they have as many rows that pass as so many lists have in the
mean; those that have none are passed over.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from memstore.index.clustered import Codebook, visited
from memstore.index.passing import Passing
from memstore.index.segment import Segment
from memstore.memory import NO_SLOT, Array, Slots

FARTHEST = 4
"""So many times as many lists as are wanted in the mean are visited at most."""

ODD = 0.05
"""A filter follows the clusters where so many lists have less than half of their share of rows."""


def lists_wanted(probe: int, passing: int, rows: int) -> int:
    """Lists in which the best of few rows are as likely found as those of all in `probe`."""
    share = min(1.0, passing / max(rows, 1))
    return math.ceil(probe / math.sqrt(share)) if share else probe


def reached(
    codebook: Codebook,
    segments: tuple[Segment, ...],
    queries_QD: Array,
    probe: int,
    wanted: int,
    passing: Passing,
) -> tuple[Slots, Array]:
    """Lists for each query, int64 `[Q, P]`, distinct, `NO_SLOT` padded anywhere, and their scores.

    probe: the lists nearest to it that it visits in any case.  wanted: the lists in the mean.
    """
    met_C, sizes_C = _met(codebook, segments, passing)
    total = max(int(sizes_C.sum()), 1)
    if (2 * met_C * total < met_C.sum() * sizes_C).mean() < ODD:
        return visited(codebook, queries_QD, wanted)
    lists_QP, scores_QP = visited(codebook, queries_QD, FARTHEST * wanted)
    order_QP = np.argsort(-scores_QP, axis=1, kind="stable")
    lists_QP = np.take_along_axis(lists_QP, order_QP, 1)
    scores_QP = np.take_along_axis(scores_QP, order_QP, 1)
    met_QP = met_C[lists_QP]
    before_QP = np.cumsum(met_QP, axis=1) - met_QP
    taken_QP = before_QP < wanted * met_C.mean()
    taken_QP[:, :probe] = True
    taken_QP &= met_QP > 0
    lists_QP[~taken_QP] = NO_SLOT
    last = int(np.flatnonzero(taken_QP.any(axis=0)).max(initial=0)) + 1
    return np.ascontiguousarray(lists_QP[:, :last]), np.ascontiguousarray(scores_QP[:, :last])


def _met(
    codebook: Codebook, segments: tuple[Segment, ...], passing: Passing
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows that pass, stale ones too, in each list of all segments, and all rows, `[C]`."""
    met_C, sizes_C = np.zeros((2, codebook.clusters), np.int64)
    for segment in segments:
        met_C += segment.met(passing)
        sizes_C += segment.sizes_C
    return met_C, sizes_C
