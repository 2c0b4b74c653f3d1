"""Clustered index: inverted lists over k-means clusters, through faiss.

The sealed tier is a list of immutable segments that share one codebook, so a query is assigned
to its clusters once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from memstore.config import IndexConfig
from memstore.index.passing import Passing
from memstore.index.segment import Segment
from memstore.memory import Array, Slots

ROWS_PER_CLUSTER = 48
"""Sample rows a cluster is trained on; faiss itself asks for at least 39."""

ROUNDS, WARM_ROUNDS = 8, 3
"""Rounds of k-means from nothing, and from the centroids of the codebook before."""


@dataclass(frozen=True)
class Codebook:
    """Unit centroids of spherical k-means and a trained codec, held by a segment without rows.

    rows: how many rows it was trained to serve; with many more a new codebook pays.
    """

    empty: faiss.IndexIVF
    rows: int

    @property
    def clusters(self) -> int:
        return int(self.empty.nlist)


def choose_clusters(rows: int) -> int:
    """About 2·√rows, a power of two: assignment costs rows · clusters, a probe rows / clusters."""
    return int(2 ** round(np.log2(max(2.0 * np.sqrt(rows), 1.0))))


def train(
    config: IndexConfig, sample_RD: Array, rows: int, seed: int, old: Codebook | None = None
) -> Codebook:
    """Trains a codebook for `rows` rows on a sample of them, float32 `[R, D]`.

    An old codebook of as many clusters is a start near the goal, and needs fewer rounds.
    """
    clusters = min(config.clusters or choose_clusters(rows), len(sample_RD))
    width = sample_RD.shape[1]
    start = None
    if old is not None and old.clusters == clusters:
        start = old.empty.quantizer.reconstruct_n(0, clusters)
    kmeans = faiss.Kmeans(
        width,
        clusters,
        niter=ROUNDS if start is None else WARM_ROUNDS,
        spherical=True,
        seed=seed,
        max_points_per_centroid=ROWS_PER_CLUSTER,
        min_points_per_centroid=1,
    )
    kmeans.train(sample_RD, init_centroids=start)
    quantizer = faiss.IndexFlatIP(width)
    quantizer.add(kmeans.centroids)
    empty = _empty(config, quantizer, width)
    empty.train(sample_RD)
    return Codebook(empty, rows)


def sample_size(config: IndexConfig, rows: int) -> int:
    """Rows that `train` wants to see for a memory of `rows` rows."""
    return min(rows, ROWS_PER_CLUSTER * (config.clusters or choose_clusters(rows)))


def merge(segments: tuple[Segment, ...], most: int) -> tuple[Segment, ...]:
    """Joins the youngest segments until `most` are left."""
    while len(segments) > most:
        segments = (*segments[:-2], segments[-2].joined(segments[-1]))
    return segments


def propose(
    codebook: Codebook,
    segments: tuple[Segment, ...],
    queries_QD: Array,
    *,
    count: int,
    probe: int,
    passing: Passing | None = None,
) -> Slots:
    """Proposes up to `count` rows a segment for each query, int64 `[Q, C]`, `NO_SLOT` padded."""
    probe = min(probe, codebook.clusters)
    scores_QP, lists_QP = codebook.empty.quantizer.search(queries_QD, probe)
    found = [s.search(queries_QD, count, lists_QP, scores_QP, probe, passing) for s in segments]
    return np.concatenate(found, axis=1)


def _empty(config: IndexConfig, quantizer: faiss.IndexFlatIP, width: int) -> faiss.IndexIVF:
    arguments = (quantizer, width, quantizer.ntotal)
    metric = faiss.METRIC_INNER_PRODUCT
    if config.codec == "flat":
        return faiss.IndexIVFFlat(*arguments, metric)
    kind = {"fp16": faiss.ScalarQuantizer.QT_fp16, "sq8": faiss.ScalarQuantizer.QT_8bit}
    # Codes of the rows themselves, not of what the centroid leaves: one table for all lists.
    return faiss.IndexIVFScalarQuantizer(*arguments, kind[config.codec], metric, False)
