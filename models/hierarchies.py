"""Hierarchies over cells by hash and by tree, beside memstore's own by clusters: each a thin layer
over faiss that proposes K cells a question for a network such as `models.hmn.HMN`.

Both are laid once over the keys as they are; `build` lays them anew. Neither takes a single cell
out or in, as memstore's index does: they are what is compared with it. What they propose is scored
from the rows as they are now, as ever.

Cells are filed as P(x) = [x, √(M² − ‖x‖²)] with M = max ‖x‖ and sought as Q(q) = [q, 0], so that
near by angle or distance is high by inner product (Bachrach et al. 2014, exact where Chandar et
al. 2016, arXiv 1605.07427, eq. 94-95 of the survey, has m terms).

Letters: Q questions, K cells, N cells filed, D width, E = D + 1, L leaves.
"""

from __future__ import annotations

import faiss
import numpy as np
from torch import Tensor

from memstore.index.reductions import Reduction, lengths
from memstore.kernels.half import wide
from memstore.memory import NO_SLOT, Array, Memory, Slots

BLOCK = 131_072
"""Cells read at a time."""


class Hashed:
    """Proposes by hash codes: signs of random projections (`faiss.IndexLSH`), after which the
    nearest by code are scored (`faiss.IndexRefineFlat`). All N codes are compared.

    slots_N: the cells, int64. k: cells proposed. bits: of a code. scored: cells scored, ≥ k.
    """

    def __init__(
        self, memory: Memory, slots_N: Slots, *, k: int, bits: int = 256, scored: int = 1_000
    ) -> None:
        self.memory, self.slots_N, self.k = memory, slots_N, k
        self.bits, self.scored = bits, max(scored, k)
        self.build()

    def build(self) -> None:
        """Files the cells by the keys that they have now."""
        mapped_NE = _mapped(self.memory, self.slots_N)
        self._codes = faiss.IndexLSH(mapped_NE.shape[1], self.bits, True, True)
        self._index = faiss.IndexRefineFlat(self._codes)
        self._index.train(mapped_NE)
        self._index.add(mapped_NE)
        self._index.k_factor = self.scored / self.k

    def __call__(self, query_QD: Tensor) -> Slots:
        _, found_QK = self._index.search(_asked(query_QD), self.k)
        return _slots(self.slots_N, found_QK)

    @property
    def cells_scored(self) -> float:
        """Cells compared with a question: all of them by their codes."""
        return float(len(self.slots_N))


class Tree:
    """Proposes by a tree of centroids: a question goes down `branches` of the root, then visits
    `visited` of the leaves under them, and scores their cells (two levels of `faiss.IndexIVFFlat`).

    slots_N: the cells, int64. k: cells proposed. leaves: L; the root has √L branches.
    """

    def __init__(
        self,
        memory: Memory,
        slots_N: Slots,
        *,
        k: int,
        leaves: int = 256,
        branches: int = 4,
        visited: int = 8,
        seed: int = 0,
    ) -> None:
        self.memory, self.slots_N, self.k = memory, slots_N, k
        self.leaves, self.branches, self.visited, self.seed = leaves, branches, visited, seed
        self.asked = self.ended = 0
        self.build()

    def build(self) -> None:
        """Files the cells by the keys that they have now."""
        mapped_NE = _mapped(self.memory, self.slots_N)
        leaves_LE = self._centroids(mapped_NE, self.leaves)
        width, root = mapped_NE.shape[1], round(self.leaves**0.5)
        self._root = faiss.IndexFlatIP(width)
        self._root.add(self._centroids(leaves_LE, root))
        self._branches = faiss.IndexIVFFlat(self._root, width, root, faiss.METRIC_INNER_PRODUCT)
        self._branches.is_trained = True
        self._branches.add(leaves_LE)
        self._index = faiss.IndexIVFFlat(
            self._branches, width, self.leaves, faiss.METRIC_INNER_PRODUCT
        )
        self._index.is_trained = True
        self._branches.nprobe = root
        self._index.add(mapped_NE)
        self._branches.nprobe = self.branches
        self._index.nprobe = self.visited

    def _centroids(self, mapped_RE: Array, count: int) -> Array:
        k_means = faiss.Kmeans(
            mapped_RE.shape[1],
            count,
            niter=10,
            spherical=True,
            seed=self.seed,
            min_points_per_centroid=1,
        )
        k_means.train(mapped_RE)
        centroids: Array = k_means.centroids
        return centroids

    def __call__(self, query_QD: Tensor) -> Slots:
        mapped_QE = _asked(query_QD)
        before = faiss.cvar.indexIVF_stats.ndis
        _, found_QK = self._index.search(mapped_QE, self.k)
        # The counter is one of the process: it also counts the leaves, as cells of the branches.
        self.ended += faiss.cvar.indexIVF_stats.ndis - before
        self.asked += len(mapped_QE)
        return _slots(self.slots_N, found_QK)

    @property
    def cells_scored(self) -> float:
        """Cells, leaves and branches compared with a question, over all questions asked."""
        return self._root.ntotal + self.ended / max(self.asked, 1)


def _mapped(memory: Memory, slots_N: Slots) -> Array:
    """P of the keys of cells, float32 `[N, E]`."""
    blocks = []
    for start in range(0, len(slots_N), BLOCK):
        keys_BD = memory.gather(slots_N[start : start + BLOCK]).keys_BD
        assert keys_BD is not None
        blocks.append(wide(keys_BD).astype(np.float32))
    keys_ND = np.concatenate(blocks)
    return Reduction(alpha=1.0, reach=float(lengths(keys_ND).max())).rows(keys_ND)


def _asked(query_QD: Tensor) -> Array:
    return Reduction().queries(query_QD.detach().cpu().numpy())


def _slots(slots_N: Slots, found_QK: Slots) -> Slots:
    return np.where(found_QK < 0, NO_SLOT, slots_N[found_QK])
