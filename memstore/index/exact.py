"""Exact search: every row scored by matrix product, the best re-scored by the one kernel."""

from __future__ import annotations

import numpy as np

from memstore.kernels.half import wide
from memstore.memory import NO_SLOT, Array, Slots

BLOCK_QUERIES = 1_024
"""Queries scored at a time: their scores with a block of rows fill 256 MiB."""

BLOCK_ROWS = 65_536
"""Rows a product takes at a time: the scores of 64 queries with them fill 16 MiB."""


def propose(queries_QD: Array, keys_ND: Array, rows_R: Slots | None, k: int) -> Slots:
    """Proposes for each query a superset of its k best rows, int64 `[Q, C]`, `NO_SLOT` padded.

    A matrix product adds in another order than the scoring kernel, so all rows within twice the
    rounding bound of the k-th best are proposed, however many there are: a dot product of width
    D errs by at most γ = D·ε / (1 − D·ε) times ‖q‖·‖x‖ (Higham 2002, eq. 3.5).

    rows_R: the rows to score, rising, or None for all of keys_ND.
    """
    if len(queries_QD) > BLOCK_QUERIES:
        starts = range(0, len(queries_QD), BLOCK_QUERIES)
        parts = [propose(queries_QD[s : s + BLOCK_QUERIES], keys_ND, rows_R, k) for s in starts]
        widest = max(part.shape[1] for part in parts)
        pads = [((0, 0), (0, widest - part.shape[1])) for part in parts]
        padded = zip(parts, pads, strict=True)
        return np.concatenate([np.pad(p, pad, constant_values=NO_SLOT) for p, pad in padded])
    count = len(keys_ND) if rows_R is None else len(rows_R)
    error_Q = error(queries_QD)
    zero_Q = ~queries_QD.any(axis=1)
    largest = 0.0
    best_QK = np.full((len(queries_QD), min(k, count)), -np.inf, queries_QD.dtype)
    # What may be among the best so far: which query, which row, what score.
    of, rows, scores = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [best_QK[:0, 0:0].ravel()]
    for start in range(0, count, BLOCK_ROWS):
        span = slice(start, min(start + BLOCK_ROWS, count))
        block_RD = wide(keys_ND[span] if rows_R is None else keys_ND[rows_R[span]])
        largest = max(largest, float(np.linalg.norm(block_RD, axis=1).max()))
        scores_QR = queries_QD @ block_RD.T
        if zero_Q.any():
            # To a query of zeros all rows are equal, and the smaller slots win.
            scores_QR[zero_Q] = -np.arange(span.start, span.stop)
        if start == 0:
            best_QK = _best(scores_QR, best_QK.shape[1])
        floor_Q = best_QK.min(axis=1, initial=np.inf) - error_Q * largest
        query, at = np.nonzero(scores_QR >= floor_Q[:, None])
        of.append(query)
        rows.append(start + at if rows_R is None else rows_R[start + at])
        scores.append(scores_QR[query, at])
        if start:
            new_QM = _padded(query, scores[-1], len(queries_QD), -np.inf)
            best_QK = _best(np.concatenate([best_QK, new_QM], axis=1), best_QK.shape[1])
    floor_Q = best_QK.min(axis=1, initial=np.inf) - error_Q * largest
    query, row = np.concatenate(of), np.concatenate(rows)
    kept = np.concatenate(scores) >= floor_Q[query]
    order = np.argsort(query[kept], kind="stable")
    return _padded(query[kept][order], row[kept][order], len(queries_QD), NO_SLOT)


def error(queries_QD: Array) -> Array:
    """How far two orders of summation can be apart on rows of length 1: 2·γ·‖q‖, `[Q]`."""
    unit = queries_QD.shape[1] * np.finfo(queries_QD.dtype).eps
    bound_Q: Array = 2.0 * unit / (1.0 - unit) * np.linalg.norm(queries_QD, axis=1)
    return bound_Q


def _best(scores_QR: Array, k: int) -> Array:
    """The k highest scores of each query, −inf where there are fewer, in no order."""
    if scores_QR.shape[1] <= k:
        best_QK = np.full((len(scores_QR), k), -np.inf, scores_QR.dtype)
        best_QK[:, : scores_QR.shape[1]] = scores_QR
        return best_QK
    return np.partition(scores_QR, -k, axis=1)[:, -k:]


def _padded(query: Slots, values: Array, queries: int, fill: float) -> Array:
    """Lays values, sorted by query, out as `[Q, M]`."""
    counts_Q = np.bincount(query, minlength=queries)
    padded_QM = np.full((queries, int(counts_Q.max(initial=0))), fill, values.dtype)
    padded_QM[np.arange(padded_QM.shape[1]) < counts_Q[:, None]] = values
    return padded_QM
