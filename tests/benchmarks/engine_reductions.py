"""Reductions of inner product to clustering: recall against cells scored, the m-term map beside.

Everything is counted, nothing timed. A cell is one inner product: those of a query with the
centroids, and those with each row of the lists that it visits. The ten true rows of a query stand
in lists; how those rank among its centroids says how many visits find them. So the recall is that
of the clustering alone, as if codes were exact.

One set of directions, those of `data.mixture`, serves every law of the lengths. The true rows are
found among all rows, the sizes of lists come from at most 200,000. Up to a million rows a codebook
is trained as the index trains it. At ten million, for three of the laws, it is trained on a third
of those rows and for half the rounds, which is what two cores can do: its recall is lower than
that of an index, and only what stands beside it there compares with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from memstore import IndexConfig
from memstore.index import clustered, tuning
from memstore.index.assignment import assigner
from memstore.index.k_means import k_means
from memstore.index.reductions import Reduction, Terms
from memstore.memory import Array, Slots
from tests.benchmarks.data import directions
from tests.benchmarks.runner import Figure, at_most

WIDTH, K, TARGET = 64, 10, 0.95
ASKED, JUDGED = tuning.QUERIES, 512
"""Queries that the tuner knows, and others that everything is judged by."""

SHARES = (0.005, 0.01, 0.02, 0.05)
"""Cells, as a share of the rows, at which recall is told."""

FULL, SHORT = (clustered.ROWS_PER_CLUSTER, clustered.ROUNDS), (16, 4)
"""Rows a cluster and rounds of k-means, as in the index and at ten million rows."""

SIZED_ROWS = 200_000
FIRST_ROWS, BLOCK_ROWS = 2_000, 50_000
MANY = 10_000_000
TERMS = ((2, 0.75), (3, 0.85), (2, 0.85), (3, 0.75))

Lengths = Callable[[np.random.Generator, int], Array]
LAWS: dict[str, Lengths] = {
    "equal": lambda rng, rows: np.ones(rows),
    "log-normal 0.25": lambda rng, rows: rng.lognormal(0.0, 0.25, rows),
    "log-normal 0.5": lambda rng, rows: rng.lognormal(0.0, 0.5, rows),
    "log-normal 1": lambda rng, rows: rng.lognormal(0.0, 1.0, rows),
    "Pareto 2": lambda rng, rows: 1.0 + rng.pareto(2.0, rows),
}
"""Laws of ‖x‖, from equal to a heavy tail: of Pareto's the variance is infinite."""


@dataclass(frozen=True)
class Rows:
    """Keys [n, D] as directions and lengths, and queries with their K best rows."""

    unit_ND: Array
    lengths_N: Array
    queries_QD: Array
    true_QK: Slots

    def read(self, rows_R: Slots) -> Array:
        keys_RD = self.unit_ND[rows_R] * self.lengths_N[rows_R, None]
        return np.ascontiguousarray(keys_RD, np.float32)


@dataclass(frozen=True)
class Curve:
    """What a clustering gives for each number of visits: recall, and cells a query."""

    clusters: int
    recall_P: Array
    cells_P: Array

    def cells(self, recall: float) -> float:
        return float(self.cells_P[np.argmax(self.recall_P >= recall)])

    def recall(self, cells: float) -> float | None:
        within = np.flatnonzero(self.cells_P <= cells)
        return float(self.recall_P[within[-1]]) if len(within) else None


def run(quick: bool) -> Iterator[Figure]:
    for count in (100_000, 1_000_000, MANY)[: 1 if quick else 3]:
        few = quick or count >= MANY
        laws = {law: LAWS[law] for law in list(LAWS)[:: 2 if few else 1]}
        for law, rows in tables(count, laws):
            yield from compare(law, rows)


def compare(law: str, rows: Rows) -> Iterator[Figure]:
    """One law and size: every fixed way with the usual number of clusters, and the tuner's own."""
    count = len(rows.unit_ND)
    usual = clustered.choose_clusters(count)
    longest, near = float(rows.lengths_N.max()), float(np.percentile(rows.lengths_N, 99))
    ways: dict[str, Reduction | Terms] = {
        "plain": Reduction(),
        "exact": Reduction(1.0, longest),
        "alpha 0.5": Reduction(0.5, longest),
        "M at 99 %": Reduction(1.0, near),
        "alpha 0.5, M at 99 %": Reduction(0.5, near),
        **{
            f"{m} terms, U {u}": Terms(m, u, longest)
            for m, u in TERMS[: 2 if count > 100_000 else 4]
        },
    }
    cells: dict[str, float] = {}
    for name, way in ways.items():
        found = curve(rows, way, usual)
        cells[name] = found.cells(TARGET)
        yield figure("scored_cells", law, name, count, found, cells["plain"])
    best = min(cells, key=lambda name: cells[name])
    known = tuning.Truth(rows.queries_QD[:ASKED], rows.true_QK[:ASKED], longest, True, count)
    for name, config in (
        ("tuned_reduction", IndexConfig(clusters=usual)),
        ("tuned_reduction_and_clusters", IndexConfig()),
    ):
        if config.clusters is None and count >= MANY:
            continue
        chosen, clusters = tuning.choose(config, rows.read, np.arange(count), known, TARGET, 0)
        found = curve(rows, chosen, clusters)
        told = f"alpha {chosen.alpha:g} and M {chosen.reach:.2f} against {best}"
        yield at_most(1.1, figure(name, law, told, count, found, cells[best]))


def figure(name: str, law: str, way: str, count: int, found: Curve, peer: float) -> Figure:
    """Cells for the recall aimed at, in percent of the rows; the case tells recall by cells."""
    told = [(share, found.recall(share * count)) for share in SHARES]
    recalls = [f"{recall:.3f} at {share:.1%}" for share, recall in told if recall is not None]
    case = f"{count:,} x {WIDTH}, {law}, {found.clusters:,} clusters, {way}"
    return Figure(
        name,
        f"{case}; recall {', '.join(recalls)}" if recalls else case,
        100 * found.cells(TARGET) / count,
        f"% of rows for recall@{K} {TARGET}",
        100 * peer / count,
    )


def curve(rows: Rows, way: Reduction | Terms, clusters: int) -> Curve:
    """Clusters the rows as P(x) and counts, for the queries that judge."""
    count = len(rows.unit_ND)
    rng = np.random.default_rng(3)
    each, rounds = SHORT if count >= MANY else FULL
    sample_R = np.sort(rng.choice(count, min(count, each * clusters), replace=False))
    mapped_RE = way.rows(rows.read(sample_R))
    centroids_CE = k_means(mapped_RE, clusters, rounds, 0, None)
    assign = assigner(centroids_CE, 0)
    sized_R = np.sort(rng.choice(count, min(count, SIZED_ROWS), replace=False))
    counts_C = np.bincount(assign(way.rows(rows.read(sized_R))), minlength=clusters)
    size_C = counts_C * (count / len(sized_R))

    queries_QD, true_QK = rows.queries_QD[ASKED:], rows.true_QK[ASKED:]
    # ⟨Q(q), c⟩: what P adds to a row meets zeros in Q.
    order_QC = np.argsort(-(queries_QD @ centroids_CE[:, :WIDTH].T), axis=1, kind="stable")
    list_QK = assign(way.rows(rows.read(true_QK.ravel()))).reshape(true_QK.shape)
    rank_QC = np.empty_like(order_QC)
    np.put_along_axis(rank_QC, order_QC, np.arange(clusters)[None, :], 1)
    ranks = np.take_along_axis(rank_QC, list_QK, 1).ravel()
    recall_P = np.cumsum(np.bincount(ranks, minlength=clusters)) / len(ranks)
    cells_P = clusters + np.cumsum(size_C[order_QC].mean(axis=0))
    return Curve(clusters, recall_P, cells_P)


def tables(count: int, laws: dict[str, Lengths]) -> Iterator[tuple[str, Rows]]:
    """The same directions under each law; one product with the queries serves all of them."""
    rng = np.random.default_rng(0)
    centres_CD = rng.normal(size=(1_000, WIDTH)).astype(np.float32)
    queries_QD = directions(rng, centres_CD, ASKED + JUDGED)
    lengths = {law: draw(rng, count).astype(np.float32) for law, draw in laws.items()}
    unit_ND = np.empty((count, WIDTH), np.float32)
    best = {law: Best(len(queries_QD)) for law in laws}
    # A small block first: behind its best few rows are left to look at.
    starts = [0, *range(FIRST_ROWS, count, BLOCK_ROWS), count]
    for start, stop in itertools.pairwise(starts):
        unit_ND[start:stop] = directions(rng, centres_CD, stop - start)
        scores_QR = queries_QD @ unit_ND[start:stop].T
        for law, lengths_N in lengths.items():
            best[law].saw(start, scores_QR * lengths_N[start:stop])
    for law, lengths_N in lengths.items():
        yield law, Rows(unit_ND, lengths_N, queries_QD, best[law].rows.reshape(-1, K))


class Best:
    """The K rows of highest score of each query so far, best first, one query behind the other."""

    def __init__(self, queries: int) -> None:
        self.of, self.rows = np.repeat(np.arange(queries), K), np.zeros(queries * K, np.int64)
        self.scores = np.full(queries * K, -np.inf, np.float32)

    def saw(self, start: int, scores_QR: Array) -> None:
        query, at = np.nonzero(scores_QR > self.scores[K - 1 :: K, None])
        of = np.concatenate([self.of, query])
        scores = np.concatenate([self.scores, scores_QR[query, at]])
        order = np.lexsort((-scores, of))
        starts = np.searchsorted(of[order], np.arange(len(scores_QR)))
        kept = order[(starts[:, None] + np.arange(K)).ravel()]
        self.rows = np.concatenate([self.rows, start + at])[kept]
        self.scores = scores[kept]
