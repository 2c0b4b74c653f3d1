"""Clustered index: inverted lists over k-means clusters, through faiss.

The sealed tier is a list of immutable segments that share one codebook, so a query is assigned
to its clusters once for all of them. Rows are clustered as P(x) of a reduction and kept as they
are: since Q(q) = [q, 0], a query needs only the first D columns of the centroids.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from memstore.config import IndexConfig
from memstore.index.assignment import Flat, Tree, assigner
from memstore.index.devices import Room
from memstore.index.k_means import k_means
from memstore.index.packing import telling, trained
from memstore.index.passing import Passing
from memstore.index.recall import Recall
from memstore.index.reductions import Reduction
from memstore.index.scanning import Found, best
from memstore.index.segment import Segment
from memstore.kernels.near import Operand, peaks
from memstore.kernels.select import best_products
from memstore.memory import NO_SLOT, Array, Slots

ROWS_PER_CLUSTER = 48
"""Sample rows a cluster is trained on; faiss itself asks for at least 39."""

ROUNDS, WARM_ROUNDS = 8, 3
"""Rounds of k-means from nothing, and from the centroids of the codebook before."""

MOST_PRODUCTS, MET_TOGETHER = 1 << 19, 64
"""Products of queries and centroids at a time, 2 MiB, but so many queries at the least."""

BLOCK_ROWS = 16_384
"""Rows assigned and encoded at a time: what is made of them on the way takes some 25 MB."""

DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""How many times as many candidates 4-bit codes may need; the most until it was measured."""

PLAIN = Reduction()

Reader = Callable[[Slots], Array]
"""Gives the keys of rows."""


@dataclass(frozen=True)
class Codebook:
    """Unit centroids of spherical k-means and a trained codec, held by a segment without rows.

    rows: how many rows it was trained to serve; with many more a new codebook pays.
    centroids_CE float32: in the space of the reduction, for rows; `empty` has its first D
    columns, for queries.  recall: None before it was measured.  room: where segments are searched.
    unit: what rows are divided by before they are encoded.  depth: how many times as many
    candidates are scored again as for codes of 8 bits.  tuned: how many rows there were when its
    reduction and its clusters were chosen.
    """

    empty: faiss.IndexIVF
    rows: int
    centroids_CE: Array
    reduction: Reduction
    assign: Flat | Tree
    recall: Recall | None = None
    room: Room | None = None
    unit: float = 1.0
    depth: float = 1.0
    tuned: int = 0

    @property
    def clusters(self) -> int:
        return len(self.centroids_CE)

    @functools.cached_property
    def operand(self) -> Operand:
        """The centroids as queries meet them."""
        return Operand(np.ascontiguousarray(self.centroids_CE[:, :-1]))

    @property
    def bytes(self) -> int:
        """Of the centroids, for rows and as queries meet them."""
        return self.assign.bytes + self.operand.bytes


def choose_clusters(rows: int) -> int:
    """About 2·√rows, a power of two: assignment costs rows · clusters, a probe rows / clusters."""
    return int(2 ** round(np.log2(max(2.0 * np.sqrt(rows), 1.0))))


def train(
    config: IndexConfig,
    sample_RD: Array,
    rows: int,
    seed: int,
    reduction: Reduction = PLAIN,
    clusters: int | None = None,
    old: Codebook | None = None,
) -> Codebook:
    """Trains a codebook for `rows` rows on a sample of them, float32 `[R, D]`.

    An old codebook of as many clusters is a start near the goal, and needs fewer rounds.
    """
    clusters = min(clusters or config.clusters or choose_clusters(rows), len(sample_RD))
    warm = old is not None and old.clusters == clusters and old.reduction.alpha == reduction.alpha
    start = old.centroids_CE if warm and old is not None else None
    rounds = WARM_ROUNDS if warm else ROUNDS
    centroids_CE = k_means(reduction.rows(sample_RD), clusters, rounds, seed, start)
    quantizer = faiss.IndexFlatIP(sample_RD.shape[1])
    quantizer.add(np.ascontiguousarray(centroids_CE[:, :-1]))
    assign = assigner(centroids_CE, seed)
    depth = 1.0
    if config.codec == "pq4":
        depth = DEPTHS[-1]
        some_RD = sample_RD[telling(sample_RD, seed)]
        empty, unit = trained(quantizer, some_RD, assign(reduction.rows(some_RD)))
    else:
        empty, unit = _empty(config, quantizer, sample_RD.shape[1]), 1.0
        empty.train(sample_RD)
    return Codebook(empty, rows, centroids_CE, reduction, assign, unit=unit, depth=depth)


def sample_size(rows: int, clusters: int) -> int:
    """Rows that `train` wants to see."""
    return min(rows, ROWS_PER_CLUSTER * clusters)


def seal(codebook: Codebook, read: Reader, rows_R: Slots, sealing: Reader | None = None) -> Segment:
    """Encodes rows into the lists of their clusters.

    sealing: reads each row once, as it is encoded; None reads as before.
    """
    lists = faiss.clone_index(codebook.empty)
    beyond = 0
    # Read twice, so that each list is made as long as it will be: one that grows holds half as
    # much again on average, and leaves behind what it grew out of.
    list_R = np.empty(len(rows_R), np.min_scalar_type(codebook.clusters))
    counts_C = np.zeros(codebook.clusters, np.int64)
    start = 0
    for rows_B, keys_BD in blocks(read, rows_R):
        lists_B = codebook.assign(codebook.reduction.rows(keys_BD))
        list_R[start : start + len(rows_B)] = lists_B
        counts_C += np.bincount(lists_B, minlength=codebook.clusters)
        beyond += codebook.reduction.beyond(keys_BD)
        start += len(rows_B)
    Segment.reserve(lists, counts_C)
    start = 0
    for rows_B, keys_BD in blocks(sealing or read, rows_R):
        lists_B = list_R[start : start + len(rows_B)].astype(np.int64)
        units_BD = keys_BD if codebook.unit == 1 else keys_BD / np.float32(codebook.unit)
        Segment.add(lists, units_BD, rows_B, lists_B)
        start += len(rows_B)
    return Segment.over(lists, rows_R, beyond).on(codebook.room)


def blocks(read: Reader, rows_R: Slots) -> Iterator[tuple[Slots, Array]]:
    """Reads rows a block at a time: their numbers, and their keys as float32."""
    for start in range(0, len(rows_R), BLOCK_ROWS):
        rows_B = np.ascontiguousarray(rows_R[start : start + BLOCK_ROWS])
        yield rows_B, np.ascontiguousarray(read(rows_B), np.float32)


def merge(segments: tuple[Segment, ...], most: int) -> tuple[Segment, ...]:
    """Joins the youngest segments until `most` are left."""
    while len(segments) > most:
        segments = (*segments[:-2], segments[-2].joined(segments[-1]))
    return segments


def visited(codebook: Codebook, queries_QD: Array, probe: int) -> tuple[Slots, Array]:
    """The `probe` lists nearest to each query, int64 `[Q, P]`, in no order, and their scores."""
    step = max(MET_TOGETHER, MOST_PRODUCTS // codebook.clusters)
    met = []
    for first in range(0, max(1, len(queries_QD)), step):
        near_CQ = codebook.operand.products(queries_QD[first : first + step])
        met.append(best_products(near_CQ, peaks(near_CQ), min(probe, codebook.clusters)))
    lists_QP, scores_QP = met[0] if len(met) == 1 else map(np.concatenate, zip(*met, strict=True))
    return lists_QP, scores_QP


def propose(
    codebook: Codebook,
    segments: tuple[Segment, ...],
    queries_QD: Array,
    k: int,
    probe: int,
    window: int | None = None,
) -> Found:
    """Proposes rows for the k best of each query, `NO_SLOT` padded.

    window: the graph of the oldest segment is walked with so many rows in view; all its lists are
    visited for a query that finds too little, as where nearly all rows are stale.
    """
    count = overfetched(codebook, k)
    if window is None:
        return _listed(codebook, segments, queries_QD, count, probe)
    oldest, *young = segments
    walked = oldest.walk(queries_QD, k, window)
    short_Q = (walked.rows_QC >= 0).sum(axis=1) < min(k, len(oldest) - oldest.stale)
    found = [walked]
    if young:
        found.append(_listed(codebook, young, queries_QD, count, probe))
    if short_Q.any():
        found.append(_scanned(codebook, oldest, queries_QD, count, short_Q))
        walked.rows_QC[short_Q] = NO_SLOT
    return best(found, len(queries_QD), count)


def _listed(
    codebook: Codebook,
    segments: Sequence[Segment],
    queries_QD: Array,
    count: int,
    probe: int,
) -> Found:
    """What the nearest lists have."""
    lists_QP, scores_QP = visited(codebook, queries_QD, probe)
    return counted(codebook, best_of(segments, queries_QD, count, lists_QP, scores_QP))


def counted(codebook: Codebook, found: Found) -> Found:
    """Counts the centroids too by which the lists were chosen."""
    compared_Q = found.compared_Q
    compared_Q += codebook.clusters
    return found


def _scanned(
    codebook: Codebook, segment: Segment, queries_QD: Array, count: int, some_Q: Array
) -> Found:
    """What every list of a segment has for some of the queries; nothing for the others."""
    queries_SD = np.ascontiguousarray(queries_QD[some_Q])
    found = _listed(codebook, [segment], queries_SD, count, codebook.clusters)
    rows_QC = np.full((len(queries_QD), found.rows_QC.shape[1]), NO_SLOT, np.int64)
    scores_QC = np.full(rows_QC.shape, -np.inf, np.float32)
    compared_Q = np.zeros(len(queries_QD), np.int64)
    rows_QC[some_Q], scores_QC[some_Q], compared_Q[some_Q] = found
    return Found(rows_QC, scores_QC, compared_Q)


def overfetched(codebook: Codebook, k: int) -> int:
    """Candidates for k results: codes are coarse, so half as many again are scored from rows."""
    return int(codebook.depth * (k + k // 2 + 8))


def best_of(
    segments: Sequence[Segment],
    queries_QD: Array,
    count: int,
    lists_QP: Array,
    scores_QP: Array,
    passing: Passing | None = None,
) -> Found:
    """The `count` rows of all segments whose codes score highest, padded."""
    found = [s.search(queries_QD, count, lists_QP, scores_QP, passing) for s in segments]
    return best(found, len(queries_QD), count)


def _empty(config: IndexConfig, quantizer: faiss.IndexFlatIP, width: int) -> faiss.IndexIVF:
    arguments = (quantizer, width, quantizer.ntotal)
    metric = faiss.METRIC_INNER_PRODUCT
    if config.codec == "flat":
        return faiss.IndexIVFFlat(*arguments, metric)
    kind = {"fp16": faiss.ScalarQuantizer.QT_fp16, "sq8": faiss.ScalarQuantizer.QT_8bit}
    # Codes of the rows themselves, not of what the centroid leaves: one table for all lists.
    return faiss.IndexIVFScalarQuantizer(*arguments, kind[config.codec], metric, False)
