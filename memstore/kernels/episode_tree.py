"""Searches private memories: the best leaves of the best groups, and every loose row.

    cosine          q·x / (√(‖q‖² + ε) √(‖x‖² + ε))
    inner product   q·x

Rows are scored as they are now. Of sealed rows, and of fresh ones that are filed, only those of the
leaves whose means score highest are seen; empty rows are never found. The last bits of a score hang
on the order of its sum, which may differ between queries that go together and one alone, and
between rows that are filed and not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.kernels.episode import (
    FRESH,
    GROUPS,
    LOOSE,
    Fresh,
    Numbers,
    Sealed,
    Words,
)
from memstore.kernels.episode_fresh import SOFT
from memstore.kernels.fetch import fetch_row
from memstore.memory import Array

AHEAD = 12
"""Rows asked for before they are scored: far memory answers so many at once."""

TOGETHER = 4
"""Queries by which a row is scored while it is at hand."""


class Probe(NamedTuple):
    """How a search goes: by what score, in how many groups and leaves of either tree."""

    cosine: bool
    groups: int
    leaves: int


@compiled()
def find(
    words: Words,
    sealed: Sealed,
    fresh: Fresh,
    b: int,
    queries_HD: Array,
    probe: Probe,
    rows_HK: Numbers,
    scores_HK: Array,
) -> None:
    """Fills in the best rows of one memory for each query, best first, equal ones by row; −1 and
    −inf for none."""
    rows_HK[:], scores_HK[:] = -1, -np.inf
    norms_H = np.empty(len(queries_HD), queries_HD.dtype)
    for h in range(len(queries_HD)):
        norms_H[h] = _norm(queries_HD[h], probe)
        _find_filed(
            words, sealed, fresh, b, queries_HD[h], norms_H[h], probe, rows_HK[h], scores_HK[h]
        )
    rows_ND, loose = words.rows_BND[b], fresh.loose_BF[b, : fresh.counts_BC[b, LOOSE]]
    whole = len(queries_HD) // TOGETHER * TOGETHER
    for h in range(0, whole, TOGETHER):
        _scan_four(queries_HD, norms_H, h, rows_ND, loose, probe.cosine, rows_HK, scores_HK)
    for h in range(whole, len(queries_HD)):
        _scan(queries_HD[h], norms_H[h], rows_ND, loose, probe.cosine, rows_HK[h], scores_HK[h])


@compiled()
def _find_filed(
    words: Words,
    sealed: Sealed,
    fresh: Fresh,
    b: int,
    query_D: Array,
    norm: Array,
    probe: Probe,
    rows_K: Numbers,
    scores_K: Array,
) -> None:
    """Finds the best rows of the leaves that are probed."""
    leaves_P, scores_P = np.empty(probe.leaves, np.int32), np.empty(probe.leaves, query_D.dtype)
    groups = sealed.group_centre_BGD.shape[1]
    if groups > 0:
        leaves_P[:], scores_P[:] = -1, -np.inf
        for group in _best(query_D, sealed.group_centre_BGD[b], groups, probe.groups):
            if group >= 0:
                leaves = np.arange(sealed.firsts_BG[b, group], sealed.firsts_BG[b, group + 1])
                _score(query_D, sealed.centre_BLD[b], leaves, leaves_P, scores_P)
        for leaf in leaves_P:
            if leaf >= 0:
                start, stop = sealed.starts_BL[b, leaf], sealed.starts_BL[b, leaf + 1]
                _scan_run(query_D, norm, words, b, start, stop, probe.cosine, rows_K, scores_K)
    groups = fresh.counts_BC[b, GROUPS]
    if groups > 0:
        leaves_P[:], scores_P[:] = -1, -np.inf
        for group in _best(query_D, fresh.group_centre_BGD[b], groups, probe.groups):
            if group >= 0:
                leaves = fresh.leaves_BGM[b, group, : fresh.group_size_BG[b, group]]
                _score(query_D, fresh.centre_BLD[b], leaves, leaves_P, scores_P)
        for leaf in leaves_P:
            if leaf >= 0:
                members = fresh.members_BLM[b, leaf, : fresh.size_BL[b, leaf]]
                _scan(query_D, norm, words.rows_BND[b], members, probe.cosine, rows_K, scores_K)


@compiled()
def find_exactly(
    words: Words,
    sealed: Sealed,
    fresh: Fresh,
    b: int,
    query_D: Array,
    probe: Probe,
    rows_K: Numbers,
    scores_K: Array,
) -> None:
    """`find` among all rows that are not empty, by its scores."""
    rows_K[:], scores_K[:] = -1, -np.inf
    norm = _norm(query_D, probe)
    _scan_run(query_D, norm, words, b, 0, sealed.rows, probe.cosine, rows_K, scores_K)
    rows = fresh.row_BF[b, : fresh.counts_BC[b, FRESH]]
    _scan(query_D, norm, words.rows_BND[b], rows, probe.cosine, rows_K, scores_K)


@compiled(fastmath={"reassoc"})
def length(vector_D: Array) -> Array:
    """√(‖x‖² + ε)."""
    square = vector_D.dtype.type(SOFT)
    for d in range(len(vector_D)):
        square += vector_D[d] * vector_D[d]
    return np.sqrt(square)  # type: ignore[no-any-return]


@compiled()
def _norm(query_D: Array, probe: Probe) -> Array:
    return length(query_D) if probe.cosine else query_D.dtype.type(1)


@compiled()
def _best(query_D: Array, centres_GD: Array, count: int, probed: int) -> Numbers:
    """The groups of highest score; −1 for none."""
    groups_P, scores_P = np.full(probed, -1, np.int32), np.full(probed, -np.inf, query_D.dtype)
    _score(query_D, centres_GD, np.arange(count), groups_P, scores_P)
    return groups_P


@compiled(fastmath={"reassoc"})
def _score(
    query_D: Array, centres_LD: Array, leaves: npt.NDArray[Any], best_P: Numbers, scores_P: Array
) -> None:
    for leaf in leaves:
        score = query_D.dtype.type(0)
        for d in range(len(query_D)):
            score += query_D[d] * centres_LD[leaf, d]
        if score > scores_P[-1]:
            _keep(best_P, scores_P, leaf, score)


@compiled(fastmath={"reassoc"}, error_model="numpy")
def _scan_run(
    query_D: Array,
    norm: Array,
    words: Words,
    b: int,
    start: int,
    stop: int,
    cosine: bool,
    rows_K: Numbers,
    scores_K: Array,
) -> None:
    """Scores rows side by side, but for those that are fresh."""
    for row in range(start, stop):
        if words.fresh_BN[b, row] >= 0:
            continue
        score, square = query_D.dtype.type(0), query_D.dtype.type(SOFT)
        for d in range(len(query_D)):
            number = words.rows_BND[b, row, d]
            score += query_D[d] * number
            square += number * number
        if cosine:
            score /= norm * np.sqrt(square)
        if score > scores_K[-1] or (score == scores_K[-1] and row < rows_K[-1]):
            _keep(rows_K, scores_K, row, score)


@compiled(fastmath={"reassoc"}, error_model="numpy")
def _scan(
    query_D: Array,
    norm: Array,
    rows_ND: Array,
    rows: Numbers,
    cosine: bool,
    rows_K: Numbers,
    scores_K: Array,
) -> None:
    """Scores rows here and there."""
    for r in range(len(rows)):
        fetch_row(rows_ND, rows[min(r + AHEAD, len(rows) - 1)])
        row = rows[r]
        score, square = query_D.dtype.type(0), query_D.dtype.type(SOFT)
        for d in range(len(query_D)):
            number = rows_ND[row, d]
            score += query_D[d] * number
            square += number * number
        if cosine:
            score /= norm * np.sqrt(square)
        if score > scores_K[-1] or (score == scores_K[-1] and row < rows_K[-1]):
            _keep(rows_K, scores_K, row, score)


@compiled(fastmath={"reassoc"}, error_model="numpy")
def _scan_four(
    queries_HD: Array,
    norms_H: Array,
    first: int,
    rows_ND: Array,
    rows: Numbers,
    cosine: bool,
    rows_HK: Numbers,
    scores_HK: Array,
) -> None:
    """`_scan` by four queries: a row is read, and its length found, once."""
    queries_4D = queries_HD[first : first + TOGETHER]
    zero, soft = queries_4D.dtype.type(0), queries_4D.dtype.type(SOFT)
    for r in range(len(rows)):
        fetch_row(rows_ND, rows[min(r + AHEAD, len(rows) - 1)])
        row = rows[r]
        one, two, three, four, square = zero, zero, zero, zero, soft
        for d in range(rows_ND.shape[1]):
            number = rows_ND[row, d]
            one += queries_4D[0, d] * number
            two += queries_4D[1, d] * number
            three += queries_4D[2, d] * number
            four += queries_4D[3, d] * number
            square += number * number
        root = np.sqrt(square)
        for i, product in enumerate((one, two, three, four)):
            h = first + i
            score = product / (norms_H[h] * root) if cosine else product
            last, last_row = scores_HK[h, -1], rows_HK[h, -1]
            if score > last or (score == last and row < last_row):
                _keep(rows_HK[h], scores_HK[h], row, score)


@compiled()
def _keep(rows_K: Numbers, scores_K: Array, row: int, score: Array) -> None:
    """Puts in what belongs among the best, in place of the last."""
    at = len(rows_K) - 1
    while at > 0 and (
        score > scores_K[at - 1] or (score == scores_K[at - 1] and row < rows_K[at - 1])
    ):
        rows_K[at], scores_K[at] = rows_K[at - 1], scores_K[at - 1]
        at -= 1
    rows_K[at], scores_K[at] = row, score


@compiled()
def find_all(
    words: Words,
    sealed: Sealed,
    fresh: Fresh,
    queries_BQD: Array,
    probe: Probe,
    exact: bool,
    rows_BQK: Numbers,
    scores_BQK: Array,
) -> None:
    for b in range(queries_BQD.shape[0]):
        if not exact:
            find(words, sealed, fresh, b, queries_BQD[b], probe, rows_BQK[b], scores_BQK[b])
            continue
        for q in range(queries_BQD.shape[1]):
            query_D, rows_K, scores_K = queries_BQD[b, q], rows_BQK[b, q], scores_BQK[b, q]
            find_exactly(words, sealed, fresh, b, query_D, probe, rows_K, scores_K)
