"""Assigns rows to the centroid of highest inner product: to all of them, or through a tree."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np

from memstore.kernels.branch import highest_columns, keep_highest
from memstore.kernels.group import group_equal
from memstore.kernels.near import Operand, halves
from memstore.kernels.select import nearest
from memstore.memory import Array, Slots

BLOCK_ROWS = 256
"""Rows whose products with all centroids are at hand at a time: those stay in the cache."""

FEWEST_BLOCKS = 8
"""Blocks that are worth a thread of their own."""

LIKELY = 2
"""Centroids of highest product that are compared again, in float32."""

TREE_CLUSTERS = 16_384
"""Centroids from which on rows go to their lists through a tree."""

ROUGH_CLUSTERS = 4_096
"""Those from which on k-means assigns through one, where nothing multiplies in bfloat16. Where
something does, the one large product is as fast up to `TREE_CLUSTERS`."""

TREE_ROWS = 16_384
"""Rows that a tree assigns at a time: enough of them go to each parent for a product."""

BRANCHES, ROUGH_BRANCHES = 8, 4
"""Parents whose children a row is compared with, for good and in k-means.

`tests.benchmarks.scale_search 1000000`, its half a million facts put into 2,048 clusters through a
tree: a search compares 46 % more rows with 4 than with the flat assignment, 17 % more with 8, 8 %
with 16. With 4 in k-means alone it compares no more."""


class Flat:
    """Compares a row with every centroid: C products."""

    def __init__(self, centroids_CE: Array) -> None:
        self._centroids_CE = np.ascontiguousarray(centroids_CE)
        self._operand = Operand(self._centroids_CE)

    @property
    def bytes(self) -> int:
        """Of the centroids, too."""
        return self._operand.bytes

    def __call__(self, keys_RE: Array) -> Slots:
        blocks = [keys_RE[at : at + BLOCK_ROWS] for at in range(0, len(keys_RE), BLOCK_ROWS)]
        threads = min(faiss.omp_get_max_threads(), len(blocks) // FEWEST_BLOCKS)
        if threads < 2:
            return np.concatenate([np.empty(0, np.int64), *map(self._assign, blocks)])
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(self._assign, blocks)))

    def _assign(self, keys_RE: Array) -> Slots:
        near_CR = self._operand.products(keys_RE)
        likely = min(LIKELY, len(near_CR))
        return nearest(near_CR, np.ascontiguousarray(keys_RE), self._centroids_CE, likely)


@dataclass(frozen=True)
class Tree:
    """Compares a row with √C parents, then with the children of the best few.

    About √C + `branches`·√C products instead of C. A row whose best centroid has another
    parent goes to a neighbour of it, which the measured recall of the index includes.
    """

    centroids_CE: Array
    parents_PE: Array
    children: tuple[Slots, ...]
    branches: int

    @property
    def bytes(self) -> int:
        """Of the centroids, too."""
        children = sum(each.nbytes for each in self.children)
        return self.centroids_CE.nbytes + self.parents_PE.nbytes + children

    def __call__(self, keys_RE: Array) -> Slots:
        # Products are shared by the threads of BLAS: where several call it at once on a machine
        # that has other work, each waits for all.
        blocks = (keys_RE[at : at + TREE_ROWS] for at in range(0, len(keys_RE), TREE_ROWS))
        return np.concatenate([np.empty(0, np.int64), *map(self._assign, blocks)])

    def _assign(self, keys_RE: Array) -> Slots:
        branches = min(self.branches, len(self.children))
        parents_RB = highest_columns(keys_RE @ self.parents_PE.T, branches)
        met = group_equal(parents_RB.ravel())
        best_R = np.full(len(keys_RE), -np.inf, np.float32)
        lists_R = np.zeros(len(keys_RE), np.int64)
        for parent, begin, end in zip(met.rows_U, met.starts[:-1], met.starts[1:], strict=True):
            children = self.children[parent]
            if len(children):
                rows_B = met.order_B[begin:end] // branches
                scores_BC = keys_RE[rows_B] @ self.centroids_CE[children].T
                keep_highest(scores_BC, rows_B, children, best_R, lists_R)
        return lists_R


def assigner(centroids_CE: Array, seed: int, *, rough: bool = False) -> Flat | Tree:
    """Chooses by the number of centroids, float32 `[C, E]`.

    rough: for k-means, whose centroids move to where their rows are.
    """
    flat = ROUGH_CLUSTERS if rough and not halves(centroids_CE.dtype) else TREE_CLUSTERS
    if len(centroids_CE) < flat:
        return Flat(centroids_CE)
    parents = faiss.Kmeans(
        centroids_CE.shape[1],
        round(len(centroids_CE) ** 0.5),
        niter=10,
        spherical=True,
        seed=seed,
        max_points_per_centroid=len(centroids_CE),
        min_points_per_centroid=1,
    )
    parents.train(centroids_CE)
    parent_C = Flat(parents.centroids)(centroids_CE)
    children = tuple(np.flatnonzero(parent_C == p) for p in range(len(parents.centroids)))
    branches = ROUGH_BRANCHES if rough else BRANCHES
    return Tree(centroids_CE, parents.centroids, children, branches)
