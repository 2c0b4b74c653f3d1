"""Exact search: every row multiplied with the queries, the best re-scored by the one kernel."""

from __future__ import annotations

import numpy as np

from memstore.kernels.half import wide
from memstore.kernels.near import Operand, peaks
from memstore.kernels.select import collect, prune_all
from memstore.kernels.sequence import Marks, quiet
from memstore.kernels.whole import are_whole, copies, marks_of
from memstore.memory import NO_SLOT, Array, Slots

BLOCK_QUERIES = 1_024
"""Queries multiplied at a time."""

BLOCK_ROWS = 8_192
"""Rows multiplied at a time: they and their products with 256 queries stay in the cache."""


def propose(
    queries_QD: Array, keys_ND: Array, rows_R: Slots | None, k: int, marks: Marks | None = None
) -> Slots:
    """Proposes for each query a superset of its k best rows, int64 `[Q, C]`, `NO_SLOT` padded.

    A product is a row's score but for a bound: what scores, at most, no less than the k-th best
    does at least is proposed, however many there are.

    rows_R: the rows to score, rising, or None for all of keys_ND.
    marks: the rows' sequence numbers; None where nobody writes them meanwhile.
    """
    marks = quiet(len(keys_ND)) if marks is None else marks
    count = len(keys_ND) if rows_R is None else len(rows_R)
    width = min(k, count)
    # To a query of zeros all rows are equal, and the smaller slots win.
    given_Q = queries_QD.any(axis=1)
    parts: list[tuple[Slots, Slots]] = []
    asked = np.flatnonzero(given_Q)
    for start in range(0, len(asked) if width else 0, BLOCK_QUERIES):
        some = asked[start : start + BLOCK_QUERIES]
        parts.append((some, _propose(queries_QD[some], keys_ND, rows_R, width, marks)))
    widest = max((part.shape[1] for _, part in parts), default=0)
    proposed_QC = np.full((len(queries_QD), max(widest, width)), NO_SLOT, np.int64)
    for some, part in parts:
        proposed_QC[some, : part.shape[1]] = part
    proposed_QC[~given_Q, :width] = np.arange(width) if rows_R is None else rows_R[:width]
    return proposed_QC


def _propose(
    queries_QD: Array, keys_ND: Array, rows_R: Slots | None, k: int, marks: Marks
) -> Slots:
    queries = len(queries_QD)
    floors_QK = np.full((queries, k), -np.inf, queries_QD.dtype)
    found_QC = np.empty((queries, 4 * k + 64), np.int64)
    most_QC = np.empty(found_QC.shape, queries_QD.dtype)
    count_Q = np.zeros(queries, np.int64)
    count = len(keys_ND) if rows_R is None else len(rows_R)
    for start in range(0, count, BLOCK_ROWS):
        end = min(start + BLOCK_ROWS, count)
        block_R = np.arange(start, end) if rows_R is None else rows_R[start:end]
        before = marks_of(marks, start, end)
        rows = Operand(
            wide(keys_ND[start:end] if rows_R is None else copies(keys_ND, marks, block_R))
        )
        near_RQ, slack_Q = rows.products(queries_QD), rows.slack(queries_QD)
        if rows_R is None and not are_whole(marks, start, before):
            # Some rows changed under the product: copies of them do not.
            rows = Operand(wide(copies(keys_ND, marks, block_R)))
            near_RQ, slack_Q = rows.products(queries_QD), rows.slack(queries_QD)
        peaks_GQ = peaks(near_RQ)
        done = 0
        while True:
            done = collect(
                near_RQ, peaks_GQ, done, block_R, slack_Q, floors_QK, found_QC, most_QC, count_Q
            )
            if done == len(near_RQ):
                break
            wider = ((0, 0), (0, found_QC.shape[1]))
            found_QC, most_QC = np.pad(found_QC, wider), np.pad(most_QC, wider)
    prune_all(found_QC, most_QC, floors_QK, count_Q)
    return found_QC[:, : int(count_Q.max(initial=0))]
