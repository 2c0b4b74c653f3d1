"""Samples clusters that a query would not visit, the likelier the higher their centroid scores."""

from __future__ import annotations

import numpy as np

from memstore.index.clustered import Codebook, best_of, overfetched
from memstore.index.passing import Passing
from memstore.index.scanning import Found
from memstore.index.segment import Segment
from memstore.kernels.near import peaks
from memstore.kernels.select import best_products
from memstore.memory import Array, Slots

TINY = np.float32(np.finfo(np.float32).tiny)


def draw(scores_QC: Array, visited_QP: Slots, count: int, rng: np.random.Generator) -> Slots:
    """Draws `count` clusters a query, or all there are, beyond the visited; int64 `[Q, c]`.

    They are drawn one by one without replacement, each time with chances exp s_c / Σ exp s over
    those that are left. That is the law of the `count` largest of s_c − log e_c with e_c from the
    exponential distribution of mean 1 (Gumbel top-k: Kool et al. 2019, arXiv 1903.06059, section
    2.3; −log e is a Gumbel variable).

    scores_QC: float32, of the centroids.  visited_QP: −1 is none.
    """
    # The last place is that of none.
    visited_QC = np.zeros((len(scores_QC), scores_QC.shape[1] + 1), bool)
    np.put_along_axis(visited_QC, visited_QP, True, 1)
    visited_QC = visited_QC[:, :-1]
    count = min(count, int((~visited_QC).sum(axis=1).min(initial=scores_QC.shape[1])))
    if count <= 0:
        return np.empty((len(scores_QC), 0), np.int64)
    chances_QC = rng.standard_exponential(scores_QC.shape, np.float32)
    chances_QC = scores_QC - np.log(np.maximum(chances_QC, TINY))
    chances_QC[visited_QC] = -np.inf
    chances_CQ = np.ascontiguousarray(chances_QC.T)
    drawn_QP: Slots = best_products(chances_CQ, peaks(chances_CQ), count)[0]
    return drawn_QP


def propose(
    codebook: Codebook,
    segments: tuple[Segment, ...],
    queries_QD: Array,
    k: int,
    visited_QP: Slots,
    count: int,
    rng: np.random.Generator,
    passing: Passing | None = None,
) -> Found:
    """Proposes rows for the k best of `count` clusters drawn beyond those visited, padded.

    Centroids are counted by the search that this joins. passing: propose no other rows.
    """
    scores_QC = queries_QD @ codebook.centroids_CE[:, : queries_QD.shape[1]].T
    lists_QP = draw(scores_QC, visited_QP, count, rng)
    if not lists_QP.shape[1]:
        segments = ()
    scores_QP = np.take_along_axis(scores_QC, lists_QP, 1)
    return best_of(segments, queries_QD, overfetched(codebook, k), lists_QP, scores_QP, passing)
