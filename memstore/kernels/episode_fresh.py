"""Files fresh rows by leaf, so that a search need not scan all of them; a tree that grows.

A row goes to the group, then to the leaf, of nearest mean. A leaf or group that is full is halved
between two means, neither half smaller than a quarter (a tree of Geva 2000, "K-tree", of two
levels). Leaves, and groups of them, hold `FULL` at most, so 16 million rows have some 90,000 leaves
in 500 groups.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.kernels.episode import (
    GROUPS,
    LEAVES,
    LOOSE,
    SPARE_GROUPS,
    SPARE_LEAVES,
    Fresh,
    Words,
)
from memstore.memory import Array

FULL = 256

LEAST = FULL // 4
"""Of a half: so many rows at least are filed for each leaf that is added."""

ROUNDS = 4
"""Of moving the two means."""

SOFT = 1e-6
"""Added to ‖x‖² under the root, as in DeepMind's DNC: a word near zero is near nothing."""


@compiled()
def file_all(words: Words, fresh: Fresh, cosine: bool, most: int) -> None:
    """Files the loose rows of each memory that has more than `most` of them."""
    for b in range(len(fresh.counts_BC)):
        if fresh.counts_BC[b, LOOSE] > most:
            _file_loose(words, fresh, b, cosine)


@compiled()
def _file_loose(words: Words, fresh: Fresh, b: int, cosine: bool) -> None:
    """Files all loose rows of a memory; under `cosine` by their direction."""
    vector_D = np.empty(words.rows_BND.shape[2], words.rows_BND.dtype)
    for i in range(fresh.counts_BC[b, LOOSE]):
        row = fresh.loose_BF[b, i]
        _direct(words, b, row, cosine, vector_D)
        if fresh.counts_BC[b, GROUPS] == fresh.counts_BC[b, SPARE_GROUPS]:
            group = _new_group(fresh, b)
            _add_leaf(fresh, b, group, _new_leaf(fresh, b), vector_D)
            fresh.group_centre_BGD[b, group] = vector_D
            fresh.group_half_BG[b, group] = _half_square(vector_D)
        group = _nearest_group(fresh, b, vector_D)
        leaf = _nearest_leaf(fresh, b, group, vector_D)
        _file(words, fresh, b, leaf, row)
        _shift(fresh.centre_BLD[b, leaf], vector_D, fresh.size_BL[b, leaf])
        fresh.half_BL[b, leaf] = _half_square(fresh.centre_BLD[b, leaf])
        if fresh.size_BL[b, leaf] == FULL:
            _halve_leaf(words, fresh, b, leaf, cosine)
            if fresh.group_size_BG[b, group] == FULL:
                _halve_group(fresh, b, group)
    fresh.counts_BC[b, LOOSE] = 0


@compiled(fastmath={"reassoc"})
def _direct(words: Words, b: int, row: int, cosine: bool, vector_D: Array) -> None:
    """A row as it is compared: under `cosine` x / √(‖x‖² + ε)."""
    square = vector_D.dtype.type(0)
    for d in range(len(vector_D)):
        vector_D[d] = words.rows_BND[b, row, d]
        square += vector_D[d] * vector_D[d]
    if cosine:
        scale = vector_D.dtype.type(1 / np.sqrt(square + SOFT))
        for d in range(len(vector_D)):
            vector_D[d] *= scale


@compiled(fastmath={"reassoc"})
def _half_square(vector_D: Array) -> Array:
    square = vector_D.dtype.type(0)
    for d in range(len(vector_D)):
        square += vector_D[d] * vector_D[d]
    return square / 2  # type: ignore[no-any-return]


@compiled()
def _shift(mean_D: Array, vector_D: Array, count: int) -> None:
    """Takes the last of `count` vectors into their mean."""
    for d in range(len(mean_D)):
        mean_D[d] += (vector_D[d] - mean_D[d]) / count


@compiled(fastmath={"reassoc"})
def _nearest_group(fresh: Fresh, b: int, vector_D: Array) -> int:
    best, nearest = -np.inf, 0
    for group in range(fresh.counts_BC[b, GROUPS]):
        score = vector_D.dtype.type(0)
        for d in range(len(vector_D)):
            score += vector_D[d] * fresh.group_centre_BGD[b, group, d]
        score -= fresh.group_half_BG[b, group]
        if score > best and fresh.group_size_BG[b, group] > 0:
            best, nearest = score, group
    return nearest


@compiled(fastmath={"reassoc"})
def _nearest_leaf(fresh: Fresh, b: int, group: int, vector_D: Array) -> int:
    best, nearest = -np.inf, 0
    for i in range(fresh.group_size_BG[b, group]):
        leaf = fresh.leaves_BGM[b, group, i]
        score = vector_D.dtype.type(0)
        for d in range(len(vector_D)):
            score += vector_D[d] * fresh.centre_BLD[b, leaf, d]
        score -= fresh.half_BL[b, leaf]
        if score > best:
            best, nearest = score, leaf
    return nearest


@compiled()
def _file(words: Words, fresh: Fresh, b: int, leaf: int, row: int) -> None:
    number, place = words.fresh_BN[b, row], fresh.size_BL[b, leaf]
    fresh.members_BLM[b, leaf, place] = row
    fresh.size_BL[b, leaf] = place + 1
    fresh.leaf_BF[b, number] = leaf
    fresh.place_BF[b, number] = place


@compiled()
def _new_leaf(fresh: Fresh, b: int) -> int:
    spare = fresh.counts_BC[b, SPARE_LEAVES]
    if spare > 0:
        fresh.counts_BC[b, SPARE_LEAVES] = spare - 1
        leaf = int(fresh.spare_leaf_BL[b, spare - 1])
    else:
        leaf = int(fresh.counts_BC[b, LEAVES])
        fresh.counts_BC[b, LEAVES] = leaf + 1
    fresh.size_BL[b, leaf] = 0
    return leaf


@compiled()
def _new_group(fresh: Fresh, b: int) -> int:
    spare = fresh.counts_BC[b, SPARE_GROUPS]
    if spare > 0:
        fresh.counts_BC[b, SPARE_GROUPS] = spare - 1
        group = int(fresh.spare_group_BG[b, spare - 1])
    else:
        group = int(fresh.counts_BC[b, GROUPS])
        fresh.counts_BC[b, GROUPS] = group + 1
    fresh.group_size_BG[b, group] = 0
    return group


@compiled()
def _add_leaf(fresh: Fresh, b: int, group: int, leaf: int, centre_D: Array) -> None:
    spot = fresh.group_size_BG[b, group]
    fresh.leaves_BGM[b, group, spot] = leaf
    fresh.group_size_BG[b, group] = spot + 1
    fresh.group_BL[b, leaf], fresh.spot_BL[b, leaf] = group, spot
    fresh.centre_BLD[b, leaf] = centre_D
    fresh.half_BL[b, leaf] = _half_square(centre_D)


@compiled()
def _halve_leaf(words: Words, fresh: Fresh, b: int, leaf: int, cosine: bool) -> None:
    rows_M = fresh.members_BLM[b, leaf].copy()
    vectors_MD = np.empty((FULL, words.rows_BND.shape[2]), words.rows_BND.dtype)
    for m in range(FULL):
        _direct(words, b, rows_M[m], cosine, vectors_MD[m])
    sides_M = halve(vectors_MD)
    other = _new_leaf(fresh, b)
    _add_leaf(fresh, b, fresh.group_BL[b, leaf], other, _mean(vectors_MD, sides_M, 1))
    fresh.centre_BLD[b, leaf] = _mean(vectors_MD, sides_M, 0)
    fresh.half_BL[b, leaf] = _half_square(fresh.centre_BLD[b, leaf])
    fresh.size_BL[b, leaf] = 0
    for m in range(FULL):
        _file(words, fresh, b, other if sides_M[m] else leaf, rows_M[m])


@compiled()
def _halve_group(fresh: Fresh, b: int, group: int) -> None:
    leaves_M = fresh.leaves_BGM[b, group].copy()
    centres_MD = np.empty((FULL, fresh.centre_BLD.shape[2]), fresh.centre_BLD.dtype)
    for m in range(FULL):
        centres_MD[m] = fresh.centre_BLD[b, leaves_M[m]]
    sides_M = halve(centres_MD)
    other = _new_group(fresh, b)
    fresh.group_size_BG[b, group] = 0
    for m in range(FULL):
        side, leaf = other if sides_M[m] else group, leaves_M[m]
        spot = fresh.group_size_BG[b, side]
        fresh.leaves_BGM[b, side, spot] = leaf
        fresh.group_BL[b, leaf], fresh.spot_BL[b, leaf] = side, spot
        fresh.group_size_BG[b, side] = spot + 1
    for half in range(2):
        side = other if half else group
        fresh.group_centre_BGD[b, side] = _mean(centres_MD, sides_M, half)
        fresh.group_half_BG[b, side] = _half_square(fresh.group_centre_BGD[b, side])


@compiled()
def halve(vectors_MD: Array) -> npt.NDArray[np.int8]:
    """Parts vectors between two means, 0 and 1; neither has fewer than M/4, rounded down."""
    count, width = vectors_MD.shape
    sides_M = np.zeros(count, np.int8)
    first_D = vectors_MD[_farthest(vectors_MD, _mean(vectors_MD, sides_M, 0))].copy()
    other_D = vectors_MD[_farthest(vectors_MD, first_D)].copy()
    nearer_M = np.empty(count, vectors_MD.dtype)
    for _ in range(ROUNDS):
        middle = _half_square(first_D) - _half_square(other_D)
        cut = 0
        for m in range(count):
            nearer_M[m] = middle
            for d in range(width):
                nearer_M[m] += vectors_MD[m, d] * (other_D[d] - first_D[d])
            sides_M[m] = nearer_M[m] >= 0
            cut += 1 - sides_M[m]
        if cut in (0, count):
            break
        first_D, other_D = _mean(vectors_MD, sides_M, 0), _mean(vectors_MD, sides_M, 1)
    if not count // 4 <= cut <= count - count // 4:
        cut = min(max(cut, count // 4), count - count // 4)
        for m in range(count):
            before = 0
            for other in range(count):
                before += nearer_M[other] < nearer_M[m] or (
                    nearer_M[other] == nearer_M[m] and other < m
                )
            sides_M[m] = before >= cut
    return sides_M


@compiled()
def _mean(vectors_MD: Array, sides_M: npt.NDArray[np.int8], side: int) -> Array:
    mean_D, count = np.zeros(vectors_MD.shape[1], vectors_MD.dtype), 0
    for m in range(len(vectors_MD)):
        if sides_M[m] == side:
            count += 1
            for d in range(len(mean_D)):
                mean_D[d] += vectors_MD[m, d]
    for d in range(len(mean_D)):
        mean_D[d] /= count
    return mean_D


@compiled()
def _farthest(vectors_MD: Array, from_D: Array) -> int:
    most, farthest = -1.0, 0
    for m in range(len(vectors_MD)):
        square = 0.0
        for d in range(len(from_D)):
            square += (vectors_MD[m, d] - from_D[d]) ** 2
        if square > most:
            most, farthest = square, m
    return farthest
