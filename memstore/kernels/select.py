"""Scores the candidates of both tiers from the rows as they are and keeps the best, in one pass."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from memstore.kernels.score import LANES, inner_product, score_again
from memstore.kernels.sequence import Marks, is_whole, mark_of
from memstore.memory import NO_SLOT, Array, Proposal, Slots

SEALED, FRESH = int(Proposal.SEALED), int(Proposal.FRESH)


@numba.njit(nogil=True, cache=True)
def best_rows(
    queries_QD: Array,
    keys_ND: Array,
    marks: Marks,
    alive_N: npt.NDArray[np.bool_],
    sealed_QC: Slots,
    fresh_F: Slots,
    near_QF: Array,
    slack_Q: Array,
    k: int,
) -> tuple[Slots, Array, npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Returns rows_QK, scores_QK, proposal_QK, best first, equal scores by row, and scored_Q.

    sealed_QC: candidates in any order, repeats and `NO_SLOT` among them; sorted in place.
    fresh_F: further candidates of every query, none of them in sealed_QC; near_QF: their scores
    by matrix product, at most slack_Q from what the scoring kernel gives. A fresh row is scored
    only where it can still be among the best. Dead rows are left out, the others read whole:
    marks are their sequence numbers.
    scored_Q: sealed candidates scored, and the fresh rows.
    """
    count = queries_QD.shape[0]
    rows_QK = np.full((count, k), NO_SLOT, np.int64)
    scores_QK = np.full((count, k), -np.inf, queries_QD.dtype)
    proposal_QK = np.zeros((count, k), np.uint8)
    scored_Q = np.zeros(count, np.int64)
    lanes = np.zeros(LANES, queries_QD.dtype)
    for q in range(count):
        rows, scores, tiers = rows_QK[q], scores_QK[q], proposal_QK[q]
        size = 0
        candidates = sealed_QC[q]
        candidates.sort()
        before = np.int64(NO_SLOT)
        for row in candidates:
            if row == before or row < 0 or row >= alive_N.shape[0] or not alive_N[row]:
                continue
            before = row
            scored_Q[q] += 1
            mark = mark_of(marks, row)
            score = inner_product(queries_QD[q], keys_ND[row], lanes)
            if not is_whole(marks, row, mark):
                score = score_again(queries_QD, q, keys_ND, marks, row, lanes)
            size = _keep(rows, scores, tiers, size, row, score, SEALED)
        scored_Q[q] += fresh_F.shape[0]
        slack = slack_Q[q]
        for f in range(fresh_F.shape[0]):
            if size == k and near_QF[q, f] + slack < scores[0]:
                continue
            row = fresh_F[f]
            if row < alive_N.shape[0] and alive_N[row]:
                mark = mark_of(marks, row)
                score = inner_product(queries_QD[q], keys_ND[row], lanes)
                if not is_whole(marks, row, mark):
                    score = score_again(queries_QD, q, keys_ND, marks, row, lanes)
                size = _keep(rows, scores, tiers, size, row, score, FRESH)
        # What is left is a heap with the worst on top: it goes behind the others, one by one.
        for end in range(size - 1, 0, -1):
            row, score, tier = rows[end], scores[end], tiers[end]
            rows[end], scores[end], tiers[end] = rows[0], scores[0], tiers[0]
            _sink(rows, scores, tiers, end, row, score, tier)
    return rows_QK, scores_QK, proposal_QK, scored_Q


@numba.njit(nogil=True, cache=True)
def _worse(score: Array, row: int, other_score: Array, other_row: int) -> bool:
    if score == other_score:
        return row > other_row
    return bool(score < other_score)


@numba.njit(nogil=True, cache=True)
def _keep(
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


@numba.njit(nogil=True, cache=True)
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


@numba.njit(nogil=True, cache=True)
def best_columns(scores_QC: Array, count: int) -> tuple[Slots, Array]:
    """The `count` columns of highest score of each row, in no order, and their scores.

    Equal scores go to the smaller column. count: at most the number of columns.
    """
    columns_QP = np.empty((scores_QC.shape[0], count), np.int64)
    scores_QP = np.empty((scores_QC.shape[0], count), scores_QC.dtype)
    tiers = np.empty(count, np.uint8)
    for q in range(scores_QC.shape[0]):
        columns, scores = columns_QP[q], scores_QP[q]
        size = 0
        for c in range(scores_QC.shape[1]):
            if size < count or scores_QC[q, c] > scores[0]:
                size = _keep(columns, scores, tiers, size, c, scores_QC[q, c], 0)
    return columns_QP, scores_QP
