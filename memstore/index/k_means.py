"""Spherical k-means (Dhillon & Modha 2001), assigned by the products that a search is made of.

faiss has one; with matrix units of bfloat16 this takes a sixth of its time, and that is most of
what clustering anew costs. Without them, and for very many clusters, rows are assigned by a tree.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.index.assignment import assigner
from memstore.kernels.group import sums
from memstore.memory import Array

SPLIT = 1 / 1_024
"""How far, of its length, the two halves of a cluster begin from its centroid."""


def k_means(mapped_RE: Array, clusters: int, rounds: int, seed: int, start: Array | None) -> Array:
    """Centroids float32 `[C, E]` of unit length; those of rows without direction are zero.

    mapped_RE: float32 `[R, E]`, R ≥ C. start: centroids to begin with, else rows drawn by seed.
    """
    rng = np.random.default_rng(seed)
    if start is None:
        start = mapped_RE[np.sort(rng.choice(len(mapped_RE), clusters, replace=False))]
    centroids_CE = _unit(start)
    for _ in range(rounds):
        lists_R = assigner(centroids_CE, seed, rough=True)(mapped_RE)
        sums_CE, counts_C = sums(mapped_RE, lists_R, clusters)
        _split(sums_CE, counts_C, rng)
        centroids_CE = _unit(sums_CE)
    return centroids_CE


def _split(sums_CE: Array, counts_C: npt.NDArray[np.int64], rng: np.random.Generator) -> None:
    """Gives each empty cluster half of one drawn by its size: two centroids to either side."""
    for empty in np.flatnonzero(counts_C == 0):
        share_C = np.maximum(counts_C - 1, 0) / np.maximum(counts_C - 1, 0).sum()
        full = rng.choice(len(counts_C), p=share_C)
        aside_E = np.where(np.arange(sums_CE.shape[1]) % 2, SPLIT, -SPLIT).astype(np.float32)
        sums_CE[empty] = sums_CE[full] * (1 + aside_E)
        sums_CE[full] *= 1 - aside_E
        counts_C[empty] = counts_C[full] // 2
        counts_C[full] -= counts_C[empty]


def _unit(sums_CE: Array) -> Array:
    lengths_C1 = np.linalg.norm(sums_CE, axis=1, keepdims=True)
    unit_CE: Array = sums_CE / np.where(lengths_C1 == 0, 1, lengths_C1).astype(np.float32)
    return unit_CE
