"""faiss inverted lists, clustered for inner product: rows whole or a byte a dimension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np


class Engine:
    """codec: `Flat` or `SQ8`; trained_on: a file of other keys that the clusters come from."""

    def __init__(
        self, width_D: int, clusters: int, codec: str = "SQ8", trained_on: str | None = None
    ) -> None:
        self._trained_on = trained_on
        self._width, self._clusters, self._codec = width_D, clusters, codec
        self.index: Any = None
        self.about = f"faiss {faiss.__version__} IVF{clusters} {codec}"

    def build(self, keys_ND: Any, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        sample_RD = keys_ND if self._trained_on is None else np.load(self._trained_on)
        # Clusters by cosine: where norms differ, plain k-means is far worse for inner product.
        kmeans = faiss.Kmeans(
            self._width, self._clusters, niter=8, spherical=True, seed=0, max_points_per_centroid=48
        )
        kmeans.train(sample_RD)
        quantizer = faiss.IndexFlatIP(self._width)
        quantizer.add(kmeans.centroids)
        metric = faiss.METRIC_INNER_PRODUCT
        if self._codec == "Flat":
            index = faiss.IndexIVFFlat(quantizer, self._width, self._clusters, metric)
        else:
            kind = faiss.ScalarQuantizer.QT_8bit
            index = faiss.IndexIVFScalarQuantizer(
                quantizer, self._width, self._clusters, kind, metric, False
            )
        index.train(sample_RD[:100_000])
        index.add(keys_ND)
        # The index refers to it, and Python would let it go.
        self._quantizer = quantizer
        self._opened(index)

    def save(self, path: Path) -> None:
        faiss.write_index(self.index, str(path))

    def load(self, path: Path, keys_ND: Any) -> None:
        self._opened(faiss.read_index(str(path)))

    def _opened(self, index: Any) -> None:
        faiss.omp_set_num_threads(1)
        self.index = index

    def exert(self, effort: int) -> None:
        self.index.nprobe = effort

    def search(self, queries_QD: Any, k: int) -> Any:
        return self.index.search(queries_QD, k)[1]

    def insert(self, ids: Any, keys: Any) -> None:
        self._mapped(faiss.DirectMap.Hashtable).add_with_ids(keys, ids)

    def replace(self, ids: Any, keys: Any) -> None:
        # While ids are row numbers, an array maps them: a tenth faster than a table.
        hashed = self.index.direct_map.type == faiss.DirectMap.Hashtable
        kind = faiss.DirectMap.Hashtable if hashed else faiss.DirectMap.Array
        self._mapped(kind).update_vectors(ids, keys)

    def delete(self, ids: Any) -> None:
        index = self._mapped(faiss.DirectMap.Hashtable)
        index.remove_ids(faiss.IDSelectorArray(len(ids), faiss.swig_ptr(ids)))

    def _mapped(self, kind: int) -> Any:
        """The index with a map from id to place; the first change makes it."""
        if self.index.direct_map.type != kind:
            self.index.set_direct_map_type(kind)
        return self.index
