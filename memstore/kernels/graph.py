"""Walks a graph over encoded rows towards the highest inner products, and grows it row by row.

A row stands at a place 0 … N − 1 of the graph: it is about scale · codes, int8, and its links are
places. A query is about its scale · codes, int16. A walk keeps the best places that it met, as
many as its window is wide, and goes on from the best whose links it did not follow yet (Malkov &
Yashunin 2016, arXiv 1603.09320, algorithm 2). Nothing here must be right: it proposes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.kernels.codes import MOST, code_product, encode
from memstore.kernels.compiling import compiled
from memstore.kernels.fetch import fetch, fetch_row
from memstore.memory import NO_SLOT, Array, Slots

Places = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]

BEGIN = 4
"""Places that a walk begins at, the best of those where it may."""

MET = 1 << 12
"""Places whose meeting a walk remembers, in 16 KiB; one that it forgets is scored again."""


NEXT, LINE = 4, 16
"""Links of the places that come in so high, which are followed soon, are asked for; two lines of
so many, which is what most have."""


@compiled()
def walk(
    queries_QD: Array,
    codes_ND: npt.NDArray[np.int8],
    scale_N: Array,
    links_NL: Places,
    degree_N: Places,
    rows_N: Slots,
    valid: Bits,
    entries_E: Slots,
    window: int,
    spare: int,
    count: int,
    enough: int,
) -> tuple[Slots, Array, Slots]:
    """Finds rows int64 `[Q, count]`, best first and `NO_SLOT` padded, and their scores.

    rows_N: the row of each place.  valid: a bit a row, set where it may be found; others are
    walked through, up to `spare` of them beside the window. To ask about every place that comes
    into view costs an eighth: first it is walked without, unless `enough` is 0, and again for a
    query that finds fewer than `enough`.  entries_E: places among whose best the walk begins.
    Returns also how many places were scored for each, int64 `[Q]`.
    """
    rows_QC = np.full((len(queries_QD), count), NO_SLOT, np.int64)
    scores_QC = np.full((len(queries_QD), count), -np.inf, np.float32)
    met, todo = np.empty(MET, np.int32), _todo(links_NL, entries_E)
    view = _view(window + spare)
    query_D = np.zeros(codes_ND.shape[1], np.int16)
    # In 32 bits no sum of products with codes of rows runs over.
    most = min(MOST, (1 << 31) // (128 * len(query_D)) - 1)
    scored_Q = np.zeros(len(queries_QD), np.int64)
    for q in range(len(queries_QD)):
        scale = encode(queries_QD[q], most, query_D)
        for attempt in range(0 if enough else 1, 2):
            asked = valid if attempt else valid[:0]
            rows_QC[q], found = NO_SLOT, 0
            scored_Q[q] += _walk(
                query_D,
                codes_ND,
                scale_N,
                links_NL,
                degree_N,
                rows_N,
                asked,
                entries_E,
                window,
                met,
                todo,
                view,
            )
            best, at, _, _, sizes = view
            for p in range(sizes[0]):
                row = rows_N[at[p]]
                if found < count and (valid[row >> 3] >> (row & 7)) & 1:
                    rows_QC[q, found], scores_QC[q, found] = row, best[p] * scale
                    found += 1
            if found >= enough:
                break
    return rows_QC, scores_QC, scored_Q


@compiled()
def choose(
    codes_ND: npt.NDArray[np.int8],
    scale_N: Array,
    length_N: Array,
    links_NL: Places,
    degree_N: Places,
    new_B: Slots,
    entries_E: Slots,
    window: int,
    share: float,
    chosen_BL: Places,
) -> None:
    """Chooses links of places among the best that a walk finds, as many as fit, −1 padded.

    The graph is not changed, so that several threads may choose.  length_N, share: of `_prune`.
    """
    met, todo = np.empty(MET, np.int32), _todo(links_NL, entries_E)
    view = _view(window)
    best, at, _, _, sizes = view
    dropped = np.empty(window, np.bool_)
    query_D = np.empty(codes_ND.shape[1], np.int16)
    other_D = np.empty(codes_ND.shape[1], np.int16)
    rows_N, valid = np.empty(0, np.int64), np.empty(0, np.uint8)
    tables, most = (codes_ND, scale_N, length_N), chosen_BL.shape[1]
    for b in range(len(new_B)):
        query_D[:] = codes_ND[new_B[b]]
        _walk(
            query_D,
            codes_ND,
            scale_N,
            links_NL,
            degree_N,
            rows_N,
            valid,
            entries_E,
            window,
            met,
            todo,
            view,
        )
        kept = _prune(
            tables, new_B[b], at[: sizes[0]], best, chosen_BL[b], most, share, other_D, dropped
        )
        chosen_BL[b, kept:] = -1


@compiled()
def link(
    codes_ND: npt.NDArray[np.int8],
    scale_N: Array,
    length_N: Array,
    links_NL: Places,
    degree_N: Places,
    new_B: Slots,
    chosen_BL: Places,
    share: float,
) -> None:
    """Links places as chosen, and those that they are linked to back to them.

    Lists of links that are full are pruned to as many as may be chosen.
    """
    room, most = links_NL.shape[1], chosen_BL.shape[1]
    near_P, score_P = np.empty(room + 1, np.int32), np.empty(room + 1, np.float32)
    dropped = np.empty(room + 1, np.bool_)
    own_D = np.empty(codes_ND.shape[1], np.int16)
    other_D = np.empty(codes_ND.shape[1], np.int16)
    tables = codes_ND, scale_N, length_N
    for b in range(len(new_B)):
        degree_N[new_B[b]] = (chosen_BL[b] >= 0).sum()
        links_NL[new_B[b], :most] = chosen_BL[b]
    for b in range(len(new_B)):
        place = new_B[b]
        for other in chosen_BL[b]:
            if other < 0:
                break
            degree = degree_N[other]
            known = False
            for p in range(degree):
                known = known or links_NL[other, p] == place
            if known:
                continue
            if degree < room:
                links_NL[other, degree] = place
                degree_N[other] = degree + 1
                continue
            own_D[:] = codes_ND[other]
            for p in range(room):
                fetch_row(codes_ND, links_NL[other, p])
            for p in range(room + 1):
                near = place if p == room else links_NL[other, p]
                score = np.float32(code_product(own_D, codes_ND, near)) * scale_N[near]
                behind = p
                while behind > 0 and score_P[behind - 1] < score:
                    near_P[behind], score_P[behind] = near_P[behind - 1], score_P[behind - 1]
                    behind -= 1
                near_P[behind], score_P[behind] = near, score
            degree_N[other] = _prune(
                tables, other, near_P, score_P, links_NL[other], most, share, other_D, dropped
            )


@compiled()
def _prune(
    tables: tuple[Array, Array, Array],
    place: int,
    near_P: Places,
    score_P: Array,
    links_L: Places,
    most: int,
    share: float,
    other_D: npt.NDArray[np.int16],
    dropped: Flags,
) -> int:
    """Writes the links of a place, of those near to it, best first; returns how many.

    One is left out where another, linked already, leads to it: where its product with that one
    is nearly as high, `share` of it, as that with the place, both over the lengths of the two.
    score_P: products with the codes of the place, not times its scale.
    (As in Subramanya et al. 2019, DiskANN, algorithm 2, for distances.)
    """
    codes_ND, scale_N, length_N = tables
    kept = 0
    for p in range(len(near_P)):
        dropped[p] = near_P[p] == place
    for p in range(len(near_P)):
        if dropped[p]:
            continue
        one = near_P[p]
        links_L[kept] = one
        kept += 1
        if kept == most:
            break
        other_D[:] = codes_ND[one]
        near = share * length_N[place] * scale_N[one]
        far = length_N[one] * scale_N[place]
        for rest in range(p + 1, len(near_P)):
            if not dropped[rest]:
                other = near_P[rest]
                product = np.float32(code_product(other_D, codes_ND, other)) * scale_N[other]
                if near * product >= far * score_P[rest]:
                    dropped[rest] = True
    return kept


@compiled()
def _todo(links_NL: Places, entries_E: Slots) -> Places:
    """Room for the places that are scored next."""
    return np.empty(max(links_NL.shape[1], len(entries_E)), np.int32)


@compiled()
def _view(room: int) -> tuple[Array, Places, Flags, Flags, Slots]:
    """What a walk keeps in view, best first: scores, places, whether their links were followed,
    whether they may not be found; and how many of all and of those that may be found there are."""
    return (
        np.empty(room, np.float32),
        np.empty(room, np.int32),
        np.empty(room, np.bool_),
        np.empty(room, np.bool_),
        np.zeros(2, np.int64),
    )


@compiled()
def _walk(
    query_D: npt.NDArray[np.int16],
    codes_ND: npt.NDArray[np.int8],
    scale_N: Array,
    links_NL: Places,
    degree_N: Places,
    rows_N: Slots,
    valid: Bits,
    entries_E: Slots,
    window: int,
    met: Places,
    todo: Places,
    view: tuple[Array, Places, Flags, Flags, Slots],
) -> int:
    """Fills the view; returns how many places were scored."""
    best, at, done, dead, sizes = view
    met[:] = -1
    sizes[:] = 0
    scored, first, waiting = 0, 0, len(entries_E)
    for e in range(waiting):
        todo[e] = entries_E[e]
        met[entries_E[e] & (MET - 1)] = entries_E[e]
    while True:
        for t in range(waiting):
            place = todo[t]
            score = np.float32(code_product(query_D, codes_ND, place)) * scale_N[place]
            full = sizes[1] == window or sizes[0] == len(best)
            if not full or score > best[sizes[0] - 1]:
                hidden = False
                if len(valid):
                    row = rows_N[place]
                    hidden = (valid[row >> 3] >> (row & 7)) & 1 == 0
                to = _insert(view, window, score, place, hidden)
                if to < NEXT:
                    fetch(degree_N, place)
                    fetch(links_NL, place * links_NL.shape[1])
                    fetch(links_NL, place * links_NL.shape[1] + LINE)
                first = min(first, to)
        scored += waiting
        if scored == len(entries_E):
            # Of the places to begin with, a few lead on as well as all.
            sizes[0] = min(sizes[0], BEGIN)
            sizes[1] = sizes[0] - dead[: sizes[0]].sum()
        # All before stand there with their links followed.
        while first < sizes[0] and done[first]:
            first += 1
        if first == sizes[0]:
            return scored
        waiting = _follow(at[first], codes_ND, scale_N, links_NL, degree_N, met, todo)
        done[first] = True


@compiled()
def _follow(
    place: int,
    codes_ND: npt.NDArray[np.int8],
    scale_N: Array,
    links_NL: Places,
    degree_N: Places,
    met: Places,
    todo: Places,
) -> int:
    """Puts what a place is linked to and was not met into `todo`; returns how many."""
    waiting = 0
    for link in range(degree_N[place]):
        other = links_NL[place, link]
        slot = other & (MET - 1)
        # No branch: which were met, nobody can foretell.
        todo[waiting] = other
        waiting += met[slot] != other
        met[slot] = other
    for t in range(waiting):
        fetch_row(codes_ND, todo[t])
        fetch(scale_N, todo[t])
    return waiting


@compiled()
def _insert(
    view: tuple[Array, Places, Flags, Flags, Slots],
    window: int,
    score: float,
    place: int,
    hidden: bool,
) -> int:
    """Puts a place into the view, unless it stands there; returns where it stands now."""
    best, at, done, dead, sizes = view
    size = sizes[0]
    to = size
    while to > 0 and best[to - 1] < score:
        to -= 1
    same = to - 1
    while same >= 0 and best[same] == score:
        if at[same] == place:
            return len(best)
        same -= 1
    if size == len(best):
        size -= 1
        sizes[1] -= not dead[size]  # the worst makes room
    for p in range(size, to, -1):
        best[p], at[p], done[p], dead[p] = best[p - 1], at[p - 1], done[p - 1], dead[p - 1]
    best[to], at[to], done[to], dead[to] = score, place, False, hidden
    sizes[1] += not hidden
    size += 1
    if sizes[1] > window:
        size -= 1
        sizes[1] -= 1
    if sizes[1] == window:
        # The last of them is the one to beat.
        while dead[size - 1]:
            size -= 1
    sizes[0] = size
    return to  # type: ignore[no-any-return]
