"""Makes the tree of sealed rows of an episodic memory: groups of leaves of some 128 rows.

Two levels of k-means over a sample: √(N / 128) groups, then the leaves of each. A search compares
a query with √(N / 128) means and then with as many again for each group it enters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from memstore.kernels.episode import Numbers, Sealed
from memstore.kernels.episode_fresh import SOFT
from memstore.kernels.group import sums
from memstore.kernels.permute import permute
from memstore.memory import Array, Slots

LEAF_ROWS = 128

SAMPLE_ROWS = 32
"""Rows a mean is trained on."""

ROUNDS = 6

BLOCK_ROWS = 4_096
"""Rows compared with all means at a time."""


class _Tree(NamedTuple):
    order_R: Slots
    starts_L: Numbers
    centre_LD: Array
    firsts_G: Numbers
    group_centre_GD: Array


def no_tree(batch: int, width: int, dtype: np.dtype[Any]) -> Sealed:
    """The tree of memories that hold nothing."""
    none, starts_B1 = np.zeros((batch, 0, width), dtype), np.zeros((batch, 1), np.int32)
    return Sealed(0, starts_B1, none, starts_B1, none)


def sealed_tree(rows_BND: Array, count: int, cosine: bool, seed: int) -> tuple[Sealed, Slots]:
    """Puts the first `count` rows of each memory into the order of its tree; returns the tree, and
    where each row went."""
    trees, went_BR = [], np.empty((len(rows_BND), count), np.int64)
    for rows_ND, went_R in zip(rows_BND, went_BR, strict=True):
        trees.append(_tree(rows_ND[:count], cosine, np.random.default_rng(seed)))
        went_R[trees[-1].order_R] = np.arange(count)
        permute(rows_ND, trees[-1].order_R)
    leaves = max(len(tree.centre_LD) for tree in trees)
    sealed = Sealed(
        count,
        np.stack([_padded(tree.starts_L, leaves + 1, count) for tree in trees]),
        np.stack([_padded(tree.centre_LD, leaves, 0) for tree in trees]),
        np.stack([tree.firsts_G for tree in trees]),
        np.stack([tree.group_centre_GD for tree in trees]),
    )
    return sealed, went_BR


def _padded(array: Array, length: int, value: int) -> Array:
    rest = np.full((length - len(array), *array.shape[1:]), value, array.dtype)
    return np.concatenate([array, rest])


def _tree(rows_RD: Array, cosine: bool, rng: np.random.Generator) -> _Tree:
    groups = max(1, round((len(rows_RD) / LEAF_ROWS) ** 0.5))
    group_centre_GD = _means(_drawn(rows_RD, groups * LEAF_ROWS, cosine, rng), groups, cosine, rng)
    group_R = _nearest(rows_RD, group_centre_GD, cosine)
    order_R = np.argsort(group_R, kind="stable")
    ends_G = np.cumsum(np.bincount(group_R, minlength=groups))
    centres, starts, firsts = [], [0], [0]
    for rows in np.split(order_R, ends_G[:-1]):
        first = starts[-1]
        if len(rows):
            here_PD = rows_RD[rows]
            leaves = max(1, round(len(rows) / LEAF_ROWS))
            sample_PD = _drawn(here_PD, leaves * SAMPLE_ROWS, cosine, rng)
            centre_LD = _means(sample_PD, leaves, cosine, rng)
            leaf_P = _nearest(here_PD, centre_LD, cosine)
            order_R[first : first + len(rows)] = rows[np.argsort(leaf_P, kind="stable")]
            sizes_L = np.bincount(leaf_P, minlength=leaves)
            starts.extend((first + np.cumsum(sizes_L)).tolist())
            centres.append(centre_LD)
        firsts.append(len(starts) - 1)
    return _Tree(
        order_R,
        np.array(starts, np.int32),
        np.concatenate(centres),
        np.array(firsts, np.int32),
        group_centre_GD,
    )


def _drawn(rows_RD: Array, count: int, cosine: bool, rng: np.random.Generator) -> Array:
    if count < len(rows_RD):
        rows_RD = rows_RD[np.sort(rng.choice(len(rows_RD), count, replace=False))]
    return _directed(rows_RD, cosine)


def _directed(rows_RD: Array, cosine: bool) -> Array:
    if not cosine:
        return rows_RD
    squares_R = np.einsum("rd,rd->r", rows_RD, rows_RD) + rows_RD.dtype.type(SOFT)
    directed_RD: Array = rows_RD / np.sqrt(squares_R)[:, None]
    return directed_RD


def _means(points_PD: Array, count: int, cosine: bool, rng: np.random.Generator) -> Array:
    """k-means; under `cosine` of unit length (Dhillon & Modha 2001)."""
    means_CD = points_PD[rng.choice(len(points_PD), count, replace=len(points_PD) < count)]
    for _ in range(ROUNDS):
        nearest_P = _nearest(points_PD, means_CD, cosine=False)
        sums_CD, counts_C = sums(points_PD, nearest_P, count)
        some_C = counts_C > 0
        means_CD[some_C] = sums_CD[some_C] / counts_C[some_C, None]
        means_CD[~some_C] = points_PD[rng.choice(len(points_PD), count - some_C.sum())]
        means_CD = _directed(means_CD, cosine)
    return means_CD


def _nearest(rows_RD: Array, means_CD: Array, cosine: bool) -> Slots:
    half_C = np.einsum("cd,cd->c", means_CD, means_CD) / 2
    nearest_R = np.empty(len(rows_RD), np.int64)
    for start in range(0, len(rows_RD), BLOCK_ROWS):
        block_RD = _directed(rows_RD[start : start + BLOCK_ROWS], cosine)
        nearest_R[start : start + BLOCK_ROWS] = (block_RD @ means_CD.T - half_C).argmax(axis=1)
    return nearest_R
