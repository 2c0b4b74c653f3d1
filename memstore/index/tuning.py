"""Tunes a clustered index on samples: how rows are clustered, and how many lists a query visits.

Everything is counted, nothing timed, so that a seed gives the same index on every machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import faiss
import numpy as np

from memstore.config import DEFAULT_TARGET, IndexConfig
from memstore.index import clustered, exact
from memstore.index.assignment import assigner
from memstore.index.clustered import DEPTHS, Codebook, Reader, blocks
from memstore.index.k_means import k_means
from memstore.index.recall import Recall
from memstore.index.reductions import Reduction, lengths
from memstore.index.scanning import Found, best
from memstore.index.segment import Segment
from memstore.kernels.score import score_rows
from memstore.kernels.sequence import quiet
from memstore.kernels.topk import top_k
from memstore.memory import NO_SLOT, Array, Slots

QUERIES = 256
"""Queries that recall is measured on: at .95 its standard error is about half a percent."""

K = 10
"""Results whose recall is measured."""

TRIAL_ROWS, TRIAL_ROUNDS, MANY_ROUNDS = 16, 10, 3
"""Sample rows a cluster and rounds of k-means of a trial, and rounds where some trials have more
clusters than `MOST_CLUSTERS`: from two million rows on the choice is as rough as that makes it.
With 4 rows a cluster chance chose: of two tunings of the same rows one searched at a fifth of the
speed of the other. With 3 rounds it did at a million rows, where α = 1, which needs more of them
than the others, then seemed up to four times as costly as it is once trained."""

JITTER = 0.5
"""Length of the noise, over that of the row, that makes a query of a row."""

NEARLY_ALL = 0.99
"""Recall at which measuring ends: further probes are costly, and say little."""

LOST = 0.1
"""Share of the misses that a target allows which may come of too few candidates: each costs as
much as dozens of codes."""

WIDEST = 8
"""Measuring ends at one list in so many, too, but not before 32, nor before what is wanted."""

FEWER = 4
"""Beyond that, one query in so many is still asked."""

WIDEST_WINDOW = 512
"""Rows that a walk keeps in view at most while recall is measured."""

MOST_CLUSTERS = 4_096
"""Four times the usual number of clusters is tried up to here: training takes up to its square."""

# What a query costs, in products with a centroid (batch 64, D = 128, one thread: 5 ns): a row
# scanned as a byte a dimension, a list opened. Codes of 4 bits are scanned in a fifth of that, but
# to scan more of them takes more candidates: reckoned so, 100,000 rows were searched half as fast.
ROW_COST, LIST_COST = 3.0, 10.0

# A walk among 100,000 rows scores about so many of them times 1 − log(1 − recall): 560 at .95, 890
# at .9955; among more rows, more by the ratio of the logarithms. One costs so many products.
WALK_ROWS, WALK_COST = 140.0, 8.0

# Rows cost so while they stay in the caches, and this power of what they outgrow them by: a walk
# that finds .98 took 30 us among 100,000 rows, 43 among 300,000 and 66 among a million; a row
# scanned 15 ns among 100,000 and 20 to 25 among a million.
CACHED_ROWS, OUTGROWN = 100_000, 0.25


class Recent:
    """Keeps some of the queries asked lately: a few of each call, the oldest replaced first.

    Until it has enough it takes more of a call: what is tuned without is tuned for other queries.
    """

    def __init__(self, width: int) -> None:
        self._queries_RD = np.zeros((QUERIES, width), np.float32)
        self._seen = 0
        self._lock = threading.Lock()
        self.known: Callable[[], None] | None = None
        """Called once there are enough, by the search after which there are."""

    def saw(self, queries_QD: Array) -> None:
        """Keeps at most 8 of them, at first 64. A caller that would have to wait keeps none."""
        if len(queries_QD) and self._lock.acquire(blocking=False):
            try:
                enough = self.enough()
                most = 8 if enough else 64
                few_BD = queries_QD[:: -(-len(queries_QD) // most)]
                at_B = (self._seen + np.arange(len(few_BD))) % QUERIES
                self._queries_RD[at_B] = few_BD
                self._seen += len(few_BD)
            finally:
                self._lock.release()
            if self.enough() and not enough and self.known is not None:
                self.known()

    def enough(self) -> bool:
        return self._seen >= QUERIES

    def take(self) -> Array:
        """Copies what there is, float32 `[≤ QUERIES, D]`."""
        with self._lock:
            return self._queries_RD[: min(self._seen, QUERIES)].copy()


@dataclass(frozen=True)
class Truth:
    """Queries and their K rows of highest inner product among all; `NO_SLOT` where there are fewer.

    asked: whether the queries were real ones.  longest: the largest ‖x‖ of all rows.
    count: how many rows there were.
    """

    queries_QD: Array
    rows_QK: Slots
    longest: float
    asked: bool
    count: int


def truth(read: Reader, rows_R: Slots, recent: Recent, seed: int, most: int = QUERIES) -> Truth:
    """Searches all rows for recent queries, or for jittered rows where those are too few."""
    asked = recent.enough()
    some = slice(None, None, QUERIES // most)
    queries_QD = recent.take()[some].copy() if asked else _jittered(read, rows_R, seed)
    rows_QK = np.full((len(queries_QD), K), NO_SLOT, np.int64)
    scores_QK = np.full(rows_QK.shape, -np.inf, np.float32)
    longest = 0.0
    for rows_B, keys_BD in blocks(read, rows_R):
        longest = max(longest, float(lengths(keys_BD).max()))
        found_QC = exact.propose(queries_QD, keys_BD, None, K)
        found_scores_QC = np.empty(found_QC.shape, np.float32)
        score_rows(queries_QD, keys_BD, quiet(len(keys_BD)), found_QC, found_scores_QC)
        found_QC = np.where(found_QC == NO_SLOT, NO_SLOT, rows_B[found_QC])
        rows_QK, scores_QK = top_k(
            np.concatenate([rows_QK, found_QC], axis=1),
            np.concatenate([scores_QK, found_scores_QC], axis=1),
            K,
        )
    return Truth(queries_QD, rows_QK, longest, asked, len(rows_R))


def choose(
    config: IndexConfig, read: Reader, rows_R: Slots, known: Truth, target: float, seed: int
) -> tuple[Reduction, int]:
    """Chooses α, M and the number of clusters that reach the target at the least cost.

    Each candidate is clustered on a small sample. The rows that a query should find are assigned
    to its clusters: how many lists must be visited to meet a share `target` of them, and how many
    rows stand in those, by the sizes that a sample of rows gives.
    """
    first = config.clusters or clustered.choose_clusters(len(rows_R))
    first = min(first, len(rows_R) // 2)
    rng = np.random.default_rng(seed)

    def sample(clusters: int) -> Array:
        size = min(len(rows_R), 2 * TRIAL_ROWS * clusters)
        chosen_R = rng.choice(rows_R, size, replace=False)
        order_R = np.argsort(chosen_R)
        keys_RD = np.empty((size, known.queries_QD.shape[1]), np.float32)
        keys_RD[order_R] = read(chosen_R[order_R])
        return keys_RD

    found_U, at_QK = np.unique(known.rows_QK, return_inverse=True)
    if found_U[0] == NO_SLOT:
        return Reduction(), first
    found_UD = np.ascontiguousarray(read(found_U), np.float32)

    def cost(reduction: Reduction, clusters: int, sample_RD: Array) -> float:
        half = len(sample_RD) // 2
        mapped_RE = reduction.rows(sample_RD)
        centroids_CE = k_means(mapped_RE[:half], clusters, rounds, seed, None)
        assign = assigner(centroids_CE, seed)
        counts_C = np.bincount(assign(mapped_RE[half:]), minlength=clusters)
        size_C = counts_C * (len(rows_R) / (len(sample_RD) - half))
        scores_QC = known.queries_QD @ centroids_CE[:, :-1].T
        order_QC = np.argsort(-scores_QC, axis=1, kind="stable")
        rank_QC = np.empty_like(order_QC)
        np.put_along_axis(rank_QC, order_QC, np.arange(clusters)[None, :], 1)
        list_QK = assign(reduction.rows(found_UD))[at_QK.reshape(known.rows_QK.shape)]
        ranks = np.sort(np.take_along_axis(rank_QC, list_QK, 1).ravel())
        probe = int(ranks[min(int(np.ceil(target * len(ranks))), len(ranks)) - 1]) + 1
        scanned = float(size_C[order_QC[:, :probe]].sum(axis=1).mean())
        return clusters + _outgrown(len(rows_R)) * ROW_COST * scanned + LIST_COST * probe

    sizes = [first]
    if config.clusters is None:
        sizes += [c for c in (2 * first, 4 * first) if c <= 2 * first or c <= MOST_CLUSTERS]
    rounds = TRIAL_ROUNDS if sizes[-1] <= MOST_CLUSTERS else MANY_ROUNDS
    samples = {clusters: sample(clusters) for clusters in sizes}
    near = float(np.percentile(lengths(samples[first]), 99))

    def cheapest(trials: list[tuple[Reduction, int]]) -> tuple[float, Reduction, int]:
        costs = [cost(r, min(c, len(samples[c]) // 2), samples[c]) for r, c in trials]
        best = int(np.argmin(costs))
        return costs[best], *trials[best]

    # The two ends of the family at every size, then what lies between at the best size.
    ends = [Reduction(), Reduction(1.0, known.longest)]
    found = cheapest([(reduction, clusters) for clusters in sizes for reduction in ends])
    between = [Reduction(0.5, known.longest), Reduction(0.5, near), Reduction(1.0, near)]
    other = cheapest([(reduction, found[2]) for reduction in between])
    return found[1:] if found[0] <= other[0] else other[1:]


def measured(
    codebook: Codebook,
    segments: tuple[Segment, ...],
    read: Reader,
    known: Truth,
    wanted: float = 0.0,
) -> Codebook:
    """The codebook with its recall, and with as few candidates as its codes lose little by.

    wanted: as for `measure`; where 0, candidates are chosen as for the default of a target.
    """
    if isinstance(codebook.empty, faiss.IndexIVFPQ):
        target = wanted or DEFAULT_TARGET
        deepest = replace(codebook, depth=DEPTHS[-1])
        most = measure(deepest, segments, read, known, wanted)
        probe = min(most.probe(target, codebook.clusters), int(most.probes_P[-1]))
        enough = most.at(probe) - LOST * (1 - target)

        judge = _judge(read, known)

        def recall(book: Codebook) -> float:
            found = clustered.propose(book, segments, known.queries_QD, K, probe)
            return judge(found.rows_QC)[0]

        books = (replace(codebook, depth=depth) for depth in DEPTHS)
        codebook = next((book for book in books if recall(book) >= enough), deepest)
    return replace(codebook, recall=measure(codebook, segments, read, known, wanted))


def visit_cost(codebook: Codebook, segment: Segment, queries_QD: Array, probe: int) -> float:
    """What a query costs that visits so many lists."""
    sizes_C = np.array([segment.lists.get_list_size(c) for c in range(codebook.clusters)])
    lists_QP, _ = clustered.visited(codebook, queries_QD, probe)
    scanned = float(sizes_C[lists_QP].sum(axis=1).mean())
    return codebook.clusters + _outgrown(len(segment)) * ROW_COST * scanned + LIST_COST * probe


def walk_cost(rows: int, target: float) -> float:
    """What a query costs that walks a graph over so many rows to reach the target."""
    met = WALK_ROWS * (1.0 - np.log(max(1.0 - target, 0.001)))
    more = np.log(rows) / np.log(CACHED_ROWS)
    return float(_outgrown(rows) * WALK_COST * met * more)


def _outgrown(rows: int) -> float:
    """How much more a row costs among so many than among those that the caches hold."""
    return float(max(rows / CACHED_ROWS, 1.0) ** OUTGROWN)


def measure(
    codebook: Codebook,
    segments: tuple[Segment, ...],
    read: Reader,
    known: Truth,
    wanted: float = 0.0,
) -> Recall:
    """Measures recall by probe: the share of K found that score no less than the true K-th.

    wanted: recall that is measured up to, at whatever cost: what was not measured to be enough
    would make a search visit every list. Where that takes very many lists, fewer queries do.
    """
    queries_QD = known.queries_QD
    lists_QC, near_QC = _ordered(codebook, queries_QD)
    count = clustered.overfetched(codebook, K)
    found = best([], len(queries_QD), count)
    judge = _judge(read, known)
    probes, recalls, errors = [], [], []
    visited, probe = 0, 1
    while True:
        # Only the lists that the probe before did not visit: the last probes cost most.
        lists_QP, near_QP = (
            np.ascontiguousarray(array[:, visited:probe]) for array in (lists_QC, near_QC)
        )
        other = clustered.best_of(segments, queries_QD, count, lists_QP, near_QP)
        found = best([found, other], len(queries_QD), count)
        recall, error = judge(found.rows_QC)
        probes.append(probe)
        recalls.append(recall)
        errors.append(error)
        sure = recall - error
        wide = probe >= max(codebook.clusters / WIDEST, 32)
        far = wide and sure >= wanted
        if wide and len(queries_QD) == QUERIES:
            few = slice(None, None, FEWER)
            queries_QD, lists_QC, near_QC = queries_QD[few].copy(), lists_QC[few], near_QC[few]
            found = Found(*(array[few] for array in found))
            known = replace(known, queries_QD=queries_QD, rows_QK=known.rows_QK[few])
            judge = _judge(read, known)
        if far or probe >= codebook.clusters or sure >= max(NEARLY_ALL, wanted):
            table = (np.array(probes), np.array(recalls), np.array(errors))
            return Recall(*table, known.asked, known.count)
        visited, probe = probe, min(2 * probe, codebook.clusters)


def holds(
    codebook: Codebook, segments: tuple[Segment, ...], read: Reader, known: Truth, probe: int
) -> bool:
    """Whether a probe still finds about what was measured of it, as far as few queries tell."""
    if codebook.recall is None:
        return False
    found = clustered.propose(codebook, segments, known.queries_QD, K, probe)
    recall, error = _judge(read, known)(found.rows_QC)
    return recall + error >= codebook.recall.at(probe)


def _ordered(codebook: Codebook, queries_QD: Array) -> tuple[Slots, Array]:
    """All lists for each query, int64 `[Q, C]`, nearest first, and their scores."""
    lists_QC, near_QC = clustered.visited(codebook, queries_QD, codebook.clusters)
    order_QC = np.lexsort((lists_QC, -near_QC))
    return np.take_along_axis(lists_QC, order_QC, 1), np.take_along_axis(near_QC, order_QC, 1)


def measure_walks(
    codebook: Codebook,
    segments: tuple[Segment, ...],
    read: Reader,
    known: Truth,
    wanted: float = 0.0,
) -> Recall:
    """Measures recall by the window of a walk through the graph of the oldest segment.

    Rows sealed since are looked for in as many lists as find as much of them.
    """
    windows, recalls, errors = [], [], []
    window, probe = float(K), codebook.clusters
    judge = _judge(read, known)
    while True:
        found = clustered.propose(
            codebook, segments, known.queries_QD, K, probe, window=round(window)
        )
        recall, error = judge(found.rows_QC)
        windows.append(round(window))
        recalls.append(recall)
        errors.append(error)
        if recall - error >= max(NEARLY_ALL, wanted) or window >= WIDEST_WINDOW:
            table = (np.array(windows), np.array(recalls), np.array(errors))
            return Recall(*table, known.asked, known.count)
        window *= 2**0.5


def _judge(read: Reader, known: Truth) -> Callable[[Slots], tuple[float, float]]:
    """Gives the mean recall of proposed rows, and its standard error over the queries."""
    queries_QD = known.queries_QD
    floor_Q1 = scores(queries_QD, read, known.rows_QK).min(axis=1, keepdims=True)
    # Where there are fewer than K rows at all, every row is to be found.
    wanted_Q = (known.rows_QK != NO_SLOT).sum(axis=1)

    def judge(rows_QC: Slots) -> tuple[float, float]:
        right_QC = (scores(queries_QD, read, rows_QC) >= floor_Q1) & (rows_QC != NO_SLOT)
        recall_Q = np.minimum(right_QC.sum(axis=1), wanted_Q) / wanted_Q
        return float(recall_Q.mean()), float(recall_Q.std() / np.sqrt(len(recall_Q)))

    return judge


def scores(queries_QD: Array, read: Reader, rows_QC: Slots) -> Array:
    """Inner products of queries with the rows named, as they are now; −inf for `NO_SLOT`."""
    found_U, at_QC = np.unique(rows_QC, return_inverse=True)
    keys_UD = np.zeros((len(found_U), queries_QD.shape[1]), np.float32)
    keys_UD[found_U >= 0] = read(found_U[found_U >= 0])
    at_QC = np.where(rows_QC == NO_SLOT, NO_SLOT, at_QC.reshape(rows_QC.shape))
    scores_QC = np.empty(rows_QC.shape, np.float32)
    score_rows(queries_QD, keys_UD, quiet(len(keys_UD)), at_QC, scores_QC)
    return scores_QC


def _jittered(read: Reader, rows_R: Slots, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    chosen_R = np.sort(rng.choice(rows_R, min(QUERIES, len(rows_R)), replace=False))
    keys_RD = np.asarray(read(chosen_R), np.float32)
    noise_RD = rng.standard_normal(keys_RD.shape, np.float32)
    scale_R = JITTER * lengths(keys_RD) / keys_RD.shape[1] ** 0.5
    jittered: Array = (keys_RD + scale_R[:, None] * noise_RD).astype(np.float32)
    return jittered
