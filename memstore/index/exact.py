"""Exact search: every row scored by matrix product, the best re-scored by the one kernel."""

from __future__ import annotations

import numpy as np

from memstore.memory import NO_SLOT, Array, Slots

BLOCK_ROWS = 65_536
"""Rows a product takes at a time: the scores of 64 queries with them fill 16 MiB."""


def propose(queries_QD: Array, keys_ND: Array, rows_R: Slots | None, k: int) -> Slots:
    """Proposes for each query a superset of its k best rows, int64 `[Q, C]`, `NO_SLOT` padded.

    A matrix product adds in another order than the scoring kernel, so all rows within twice the
    rounding bound of the k-th best are proposed, however many there are: a dot product of width
    D errs by at most γ = D·ε / (1 − D·ε) times ‖q‖·‖x‖ (Higham 2002, eq. 3.5).

    rows_R: the rows to score, rising, or None for all of keys_ND.
    """
    count = len(keys_ND) if rows_R is None else len(rows_R)
    best: list[tuple[Slots, Array]] = [
        (np.empty(0, np.int64), np.empty(0, queries_QD.dtype)) for _ in queries_QD
    ]
    largest = 0.0
    unit = queries_QD.shape[1] * np.finfo(queries_QD.dtype).eps
    norms_Q = np.linalg.norm(queries_QD, axis=1)
    for start in range(0, count, BLOCK_ROWS):
        rows = (
            np.arange(start, min(start + BLOCK_ROWS, count))
            if rows_R is None
            else rows_R[start : start + BLOCK_ROWS]
        )
        block_RD = keys_ND[rows[0] : rows[-1] + 1] if rows_R is None else keys_ND[rows]
        largest = max(largest, float(np.linalg.norm(block_RD, axis=1).max(initial=0.0)))
        slack_Q = 2.0 * unit / (1.0 - unit) * norms_Q * largest
        scores_QR = queries_QD @ block_RD.T
        for q in range(len(queries_QD)):
            best[q] = _merge(best[q], rows, scores_QR[q], k, float(slack_Q[q]))
    width = max((len(rows) for rows, _ in best), default=0)
    rows_QC = np.full((len(queries_QD), width), NO_SLOT, np.int64)
    for q, (rows, _) in enumerate(best):
        rows_QC[q, : len(rows)] = rows
    return rows_QC


def _merge(
    best: tuple[Slots, Array], rows: Slots, scores: Array, k: int, slack: float
) -> tuple[Slots, Array]:
    kept_rows, kept_scores = best
    if len(kept_scores) >= k:
        floor = np.partition(kept_scores, -k)[-k] - slack
        keep = scores >= floor
        rows, scores = rows[keep], scores[keep]
    rows, scores = np.concatenate([kept_rows, rows]), np.concatenate([kept_scores, scores])
    if len(scores) > k:
        keep = scores >= np.partition(scores, -k)[-k] - slack
        rows, scores = rows[keep], scores[keep]
    return rows, scores
