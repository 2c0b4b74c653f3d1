"""Scores the candidates of both tiers from the rows as they are and keeps the best, in one pass."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.kernels.fetch import fetch_row
from memstore.kernels.half import widened
from memstore.kernels.near import GROUP, highest
from memstore.kernels.score import inner_product, score_again
from memstore.kernels.sequence import Marks, is_whole, mark_of
from memstore.memory import NO_SLOT, Array, Proposal, Slots

SEALED, FRESH = int(Proposal.SEALED), int(Proposal.FRESH)


@compiled()
def best_rows(
    queries_QD: Array,
    keys_ND: Array,
    marks: Marks,
    alive_N: npt.NDArray[np.bool_],
    sealed_QC: Slots,
    fresh_F: Slots,
    near_FQ: Array,
    peaks_GQ: Array,
    slack_Q: Array,
    k: int,
) -> tuple[Slots, Array, npt.NDArray[np.uint8]]:
    """Returns rows_QK, scores_QK and proposal_QK, best first, equal scores by row.

    sealed_QC: candidates in any order, repeats and `NO_SLOT` among them; sorted in place.
    fresh_F: further candidates of every query, none of them in sealed_QC, `NO_SLOT` for none;
    near_FQ, peaks_GQ: their products, of `kernels.near`, at most slack_Q from what the scoring
    kernel gives. A fresh row is scored only where it can still be among the best. Dead rows are
    left out, the others read whole: marks are their sequence numbers.
    """
    count = queries_QD.shape[0]
    rows_QK = np.full((count, k), NO_SLOT, np.int64)
    scores_QK = np.full((count, k), -np.inf, queries_QD.dtype)
    proposal_QK = np.zeros((count, k), np.uint8)
    for q in range(count):
        query_D = queries_QD[q]
        rows, scores, tiers = rows_QK[q], scores_QK[q], proposal_QK[q]
        size = 0
        candidates = sealed_QC[q]
        candidates.sort()
        for row in candidates:
            if 0 <= row < keys_ND.shape[0]:
                fetch_row(keys_ND, row)
        before = np.int64(NO_SLOT)
        for row in candidates:
            if row == before or row < 0 or row >= alive_N.shape[0] or not alive_N[row]:
                continue
            before = row
            mark = mark_of(marks, row)
            score = inner_product(query_D, keys_ND, row)
            if not is_whole(marks, row, mark):
                score = score_again(query_D, keys_ND, marks, row)
            size = push(rows, scores, tiers, size, row, score, SEALED)
        slack = slack_Q[q]
        for g in range(len(peaks_GQ)):
            if size == k and peaks_GQ[g, q] + slack < scores[0]:
                continue
            for f in range(g * GROUP, min(len(fresh_F), (g + 1) * GROUP)):
                row = fresh_F[f]
                if row < 0 or (size == k and widened(near_FQ[f, q]) + slack < scores[0]):
                    continue
                if row < alive_N.shape[0] and alive_N[row]:
                    mark = mark_of(marks, row)
                    score = inner_product(query_D, keys_ND, row)
                    if not is_whole(marks, row, mark):
                        score = score_again(query_D, keys_ND, marks, row)
                    size = push(rows, scores, tiers, size, row, score, FRESH)
        # What is left is a heap with the worst on top: it goes behind the others, one by one.
        for end in range(size - 1, 0, -1):
            row, score, tier = rows[end], scores[end], tiers[end]
            rows[end], scores[end], tiers[end] = rows[0], scores[0], tiers[0]
            _sink(rows, scores, tiers, end, row, score, tier)
    return rows_QK, scores_QK, proposal_QK


@compiled()
def _worse(score: Array, row: int, other_score: Array, other_row: int) -> bool:
    if score == other_score:
        return row > other_row
    return bool(score < other_score)


@compiled()
def push(
    rows: Slots, scores: Array, tiers: Array, size: int, row: int, score: Array, tier: int
) -> int:
    """Puts a candidate into the heap of the best, the worst of them on top; returns its size."""
    if size == rows.shape[0]:
        if _worse(scores[0], rows[0], score, row):
            _sink(rows, scores, tiers, size, row, score, tier)
        return size
    at = size
    while at > 0:
        above = (at - 1) // 2
        if not _worse(score, row, scores[above], rows[above]):
            break
        rows[at], scores[at], tiers[at] = rows[above], scores[above], tiers[above]
        at = above
    rows[at], scores[at], tiers[at] = row, score, tier
    return size + 1


@compiled()
def _sink(
    rows: Slots, scores: Array, tiers: Array, size: int, row: int, score: Array, tier: int
) -> None:
    """Puts a candidate in place of the top of a heap of `size`."""
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _worse(
            scores[below + 1], rows[below + 1], scores[below], rows[below]
        ):
            below += 1
        if not _worse(scores[below], rows[below], score, row):
            break
        rows[at], scores[at], tiers[at] = rows[below], scores[below], tiers[below]
        at = below
    rows[at], scores[at], tiers[at] = row, score, tier


@compiled()
def best_products(near_RQ: Array, peaks_GQ: Array, count: int) -> tuple[Slots, Array]:
    """For each query the `count` rows of highest product, int64 `[Q, count]`, in no order, and
    their products.

    near_RQ, peaks_GQ: of `kernels.near`.  count: at most R. Equal products go to the smaller row.
    """
    groups, queries = peaks_GQ.shape
    rows_QP = np.empty((queries, count), np.int64)
    scores_QP = np.empty((queries, count), peaks_GQ.dtype)
    tiers = np.empty(count, np.uint8)
    for q in range(queries):
        rows, scores = rows_QP[q], scores_QP[q]
        # As many rows as there are groups whose peaks are so high score no less than they.
        floor, size = peaks_GQ.dtype.type(-np.inf), 0
        if count < groups:
            for g in range(groups):
                if size < count or peaks_GQ[g, q] > scores[0]:
                    size = push(rows, scores, tiers, size, g, peaks_GQ[g, q], 0)
            floor, size = scores[0], 0
        for g in range(groups):
            if peaks_GQ[g, q] < floor:
                continue
            for r in range(g * GROUP, min(len(near_RQ), (g + 1) * GROUP)):
                score = widened(near_RQ[r, q])
                if score >= floor and (size < count or score > scores[0]):
                    size = push(rows, scores, tiers, size, r, score, 0)
    return rows_QP, scores_QP


@compiled()
def nearest(near_CR: Array, keys_RE: Array, centroids_CE: Array, likely: int) -> Slots:
    """For each row the centroid of highest score among the `likely` of highest product, the
    smallest of equal ones.

    near_CR: products of `kernels.near`. One kernel, so that a job lets go of the GIL but once.
    """
    dtype = centroids_CE.dtype
    peaks_GR = np.empty((-(-len(near_CR) // GROUP), near_CR.shape[1]), dtype)
    highest(near_CR, peaks_GR)
    likely_RP, _ = best_products(near_CR, peaks_GR, likely)
    lists_R = np.empty(len(keys_RE), np.int64)
    for r in range(len(keys_RE)):
        best = dtype.type(-np.inf)
        lists_R[r] = NO_SLOT
        for c in likely_RP[r]:
            score = inner_product(keys_RE[r], centroids_CE, c)
            if lists_R[r] < 0 or score > best or (score == best and c < lists_R[r]):
                best, lists_R[r] = score, c
    return lists_R


@compiled()
def best_found(rows_QC: Slots, scores_QC: Array, count: int) -> tuple[Slots, Array]:
    """The `count` rows of highest score of each query, int64 `[Q, count]`, in no order, `NO_SLOT`
    padded, and their scores.

    rows_QC: `NO_SLOT` for none, whatever its score. Equal scores go to the smaller row.
    """
    best_QC = np.full((len(rows_QC), count), NO_SLOT, np.int64)
    best_scores_QC = np.full(best_QC.shape, -np.inf, scores_QC.dtype)
    tiers = np.empty(count, np.uint8)
    for q in range(len(rows_QC)):
        rows, scores, size = best_QC[q], best_scores_QC[q], 0
        for c in range(rows_QC.shape[1]):
            if rows_QC[q, c] >= 0 and (size < count or scores_QC[q, c] >= scores[0]):
                size = push(rows, scores, tiers, size, rows_QC[q, c], scores_QC[q, c], 0)
    return best_QC, best_scores_QC


@compiled()
def collect(
    near_RQ: Array,
    peaks_GQ: Array,
    start: int,
    rows_R: Slots,
    slack_Q: Array,
    floors_QK: Array,
    found_QC: Slots,
    most_QC: Array,
    count_Q: Slots,
) -> int:
    """Adds to each query's candidates the rows that may be among its best K; exact search.

    From row `start` of near_RQ on; rows_R are the numbers of these rows. A row scores within
    slack_Q of its product. floors_QK: the K highest least scores so far, the smallest first.
    found_QC, most_QC, count_Q: the candidates so far and their highest scores. Returns the row to
    go on from with more columns C, or R.
    """
    kept = floors_QK.shape[1]
    rows, tiers = np.zeros(kept, np.int64), np.zeros(kept, np.uint8)
    for g in range(start // GROUP, len(peaks_GQ)):
        first = g * GROUP
        for q in range(near_RQ.shape[1]):
            promising = peaks_GQ[g, q] + slack_Q[q] >= floors_QK[q, 0]
            if promising and count_Q[q] + GROUP > found_QC.shape[1]:
                count_Q[q] = prune(found_QC[q], most_QC[q], count_Q[q], floors_QK[q, 0])
                if count_Q[q] + 2 * GROUP > found_QC.shape[1]:
                    return first
        for q in range(near_RQ.shape[1]):
            floors, slack = floors_QK[q], slack_Q[q]
            if peaks_GQ[g, q] + slack < floors[0]:
                continue
            for r in range(first, min(len(near_RQ), first + GROUP)):
                score = widened(near_RQ[r, q])
                if score + slack >= floors[0]:
                    found_QC[q, count_Q[q]], most_QC[q, count_Q[q]] = rows_R[r], score + slack
                    count_Q[q] += 1
                    if score - slack > floors[0]:
                        _sink(rows, floors, tiers, kept, 0, score - slack, 0)
    return len(near_RQ)


@compiled()
def prune(found: Slots, most: Array, count: int, floor: Array) -> int:
    """Leaves out, in order, the candidates that score below `floor`; returns how many are left."""
    kept = 0
    for c in range(count):
        if most[c] >= floor:
            found[kept], most[kept] = found[c], most[c]
            kept += 1
    return kept


@compiled()
def prune_all(found_QC: Slots, most_QC: Array, floors_QK: Array, count_Q: Slots) -> None:
    """Prunes the candidates of every query by its floor; behind what is left stands `NO_SLOT`."""
    for q in range(len(count_Q)):
        count_Q[q] = prune(found_QC[q], most_QC[q], count_Q[q], floors_QK[q, 0])
        found_QC[q, count_Q[q] :] = NO_SLOT
