"""Two tiers propose candidates: sealed segments of a clustered index, and fresh rows, exactly.

Readers take one immutable `Version` by reference; the jobs (`memstore.index.jobs`) build the next
beside it and swap it in. What is written meanwhile is noted, and stays fresh in the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from memstore.config import IndexConfig
from memstore.errors import DeviceError
from memstore.index import clustered, devices, sampling, tuning
from memstore.index.clustered import Reader
from memstore.index.drift import Drift
from memstore.index.fresh import Fresh, Queue
from memstore.index.graph import Graph
from memstore.index.mirror import Mirror
from memstore.index.passing import Passing
from memstore.index.reaching import lists_wanted, reached
from memstore.index.scanning import Found, best
from memstore.index.segment import Segment
from memstore.kernels.group import distinct
from memstore.kernels.near import halving_units
from memstore.memory import Array, SearchOptions, Slots

logger = logging.getLogger(__name__)

SCAN_ROWS = 2_048
"""Where no more rows pass, all of them are scored: under half a millisecond for a query."""

SCAN_COST = 8
"""Codes in the lists whose bit is tested in the time in which a passing row is scored. Measured
with 10^6 rows of 64 it is about 20 for one query and 2 for each of a batch of 64, which shares
the scan; between them, the scan is preferred, since it loses no row."""


LISTED_NS, READ_NS = 22.0, 145.0
MULTIPLIED_NS = {None: 6.0, "avx512_bf16": 2.2, "amx_bf16": 0.7}
"""What a row of 128 costs a query that meets it in a list; to be read for an exact search of any
number of queries; and to be multiplied with each of them, by what multiplies in bfloat16."""

USUAL_PROBE = 64
"""Lists that a search visits at most where rows are clustered as they should be."""


@dataclass(frozen=True)
class Version:
    """What one search sees, and since when.

    fresh: the rows not sealed as they are.  built: the number of the version in which
    the rows were last clustered, and row_version that of the rows then.  encoded, unmeasured: rows
    sealed since then, and since recall was last measured; checked: of those, before it was last
    looked whether what was measured still holds.  promise: a probe, and the recall measured with
    it when the rows were last clustered.  laying: whether a graph was found to pay, which none of
    the rows has yet.
    """

    number: int
    codebook: clustered.Codebook | None
    segments: tuple[Segment, ...]
    fresh: Fresh
    built: int = 0
    row_version: int = 0
    encoded: int = 0
    unmeasured: int = 0
    checked: int = 0
    promise: tuple[int, float] | None = None
    laying: bool = False

    @property
    def clusters(self) -> int:
        return 0 if self.codebook is None else self.codebook.clusters

    @property
    def fresh_F(self) -> Slots:
        """The fresh rows, rising."""
        return self.fresh.rows_F

    @property
    def graph(self) -> Graph | None:
        """Laid over the oldest rows; no search walks one of which nothing was measured."""
        graph = self.segments[0].graph if self.segments else None
        return None if graph is None or graph.recall is None else graph

    @property
    def sealed(self) -> int:
        """Rows in the segments, copies that are proposed no more included."""
        return sum(map(len, self.segments))


EMPTY = Version(0, None, (), Fresh())


@dataclass(eq=False)
class Work:
    """What the index was when a job began, and which rows were written or erased since.

    live_R: the rows that were there, for a job that asked.
    """

    version: Version
    live_R: Slots
    changed: list[Slots] = field(default_factory=list)

    def take(self) -> Slots:
        """The rows changed since the last call, rising; the caller keeps writers off."""
        changed, self.changed = self.changed, []
        return distinct(np.concatenate([np.empty(0, np.int64), *changed]))


class TwoTierIndex:
    """The index of one shard. One thread writes; any number propose."""

    def __init__(
        self, config: IndexConfig, width: int, read: Reader, seed: int = 0, *, copied: bool = True
    ) -> None:
        """read: gives rows as they are, and as they are counted with.  copied: as of `Queue`."""
        self.config = config
        self.seed = seed
        self.version = EMPTY
        self.room = devices.room(config)
        self.mirror = None if self.room is None else Mirror(self.room)
        if self.room is not None:
            self.room.guest = self.mirror
        self.drift = Drift(config.drift_limit)
        self._works: list[Work] = []
        self.recent = tuning.Recent(width)
        self.excess_s = 0.0
        """About how long searches took beyond the usual, since rows were clustered."""
        self.queue = Queue(read, copied=copied)

    @property
    def bytes(self) -> int:
        """Of centroids, codes, row numbers, graphs, and the copies of fresh rows."""
        version = self.version
        if version.codebook is None:
            return version.fresh.bytes
        code_bytes = version.codebook.empty.code_size + 8
        bits = sum(segment.valid.nbytes for segment in version.segments)
        graphs = sum(s.graph.bytes for s in version.segments if s.graph is not None)
        # As faiss has the centroids: in each of the lists, and in those that are empty.
        quantizer = version.codebook.empty.quantizer
        own = int((1 + len(version.segments)) * quantizer.ntotal * quantizer.d * 4)
        sealed = int(version.sealed * code_bytes + bits + graphs)
        return version.codebook.bytes + own + sealed + version.fresh.bytes

    def wrote(self, rows_B: Slots) -> None:
        """Puts rows into the fresh tier; their sealed copies, if any, are proposed no more."""
        self._mirrored(rows_B)
        if self.config.sealed:
            self._retire(rows_B, self.queue.joined)

    def renumber(self) -> None:
        """Makes what it is now another version."""
        self.version = replace(self.version, number=self.version.number + 1)

    def killed(self, rows_B: Slots) -> None:
        """Takes rows out of both tiers."""
        self._mirrored(rows_B)
        if self.config.sealed:
            self._retire(rows_B, self.queue.without)

    def drifted(self, rows_B: Slots, travel_B: Array) -> None:
        """Puts those of some rows into the fresh tier that have gone too far since sealed."""
        far = self.drift.past(rows_B, travel_B)
        if len(far):
            self.wrote(far)

    def begin(self, live_R: Slots) -> Work:
        """Notes what changes from now on, until `end`; both with writers kept off."""
        work = Work(self.version, live_R)
        self._works.append(work)
        return work

    def end(self, work: Work) -> None:
        self._works.remove(work)

    def scans(self, version: Version, passing: Passing, options: SearchOptions) -> bool:
        """Whether so few rows pass that scoring all of them is cheaper than the lists."""
        if version.codebook is None or passing.count <= SCAN_ROWS:
            return True
        probe = self.probe(version.codebook, options)
        lists = min(self._wanted(version, passing, probe), version.clusters)
        return passing.count * SCAN_COST <= version.sealed * lists / version.clusters

    def scans_all(self, version: Version, queries: int, options: SearchOptions) -> bool:
        """Whether scoring all rows is cheaper than as many lists as reach the recall wanted.

        So it is for many queries at once where rows are hardly clustered, or not for these queries.
        """
        visited = self._reckoned(version, options)
        return visited is not None and _all_ns(queries) < _listed_ns(queries, visited, version)

    def suffered(self, version: Version, queries: int, options: SearchOptions) -> None:
        """Adds up what a search that is done took beyond the usual."""
        visited = self._reckoned(version, options)
        if visited is not None and visited > USUAL_PROBE and options.recall_target is None:
            took_ns = min(_all_ns(queries), _listed_ns(queries, visited, version))
            self.excess_s += 1e-9 * took_ns * (1.0 - USUAL_PROBE / visited) * version.sealed

    def _reckoned(self, version: Version, options: SearchOptions) -> int | None:
        """Lists that reach the recall wanted; None where it was not measured, or not wanted."""
        book = version.codebook
        told = options.probe or (self.config.probe and options.recall_target is None)
        if book is None or book.recall is None or told or options.sample_clusters:
            return None
        if self.window(version, options) is not None:
            return None
        return min(self.probe(book, options), book.clusters)

    @staticmethod
    def _wanted(version: Version, passing: Passing, probe: int) -> int:
        return lists_wanted(probe, passing.count, version.sealed + version.fresh.count)

    def asked(self) -> Array:
        """Some of the queries asked lately, float32 `[≤ 256, D]`."""
        return self.recent.take()

    def propose(
        self,
        version: Version,
        queries_QD: Array,
        k: int,
        options: SearchOptions,
        passing: Passing | None = None,
    ) -> Found:
        """Candidate rows of the sealed tier, `NO_SLOT` padded.

        passing: propose no other rows.
        """
        queries_QD = _float32(queries_QD)
        self.recent.saw(queries_QD)
        if version.codebook is None:
            return best((), len(queries_QD), 0)
        book, segments = version.codebook, version.segments
        if passing is not None:
            lists_QP, scores_QP = self._lists(version, book, queries_QD, options, passing)
            count = clustered.overfetched(book, k)
            found = clustered.best_of(segments, queries_QD, count, lists_QP, scores_QP, passing)
            return clustered.counted(book, found)
        window, probe = self.window(version, options), self._visited(version, book, options)
        return clustered.propose(book, segments, queries_QD, k, probe, window)

    def sample(
        self,
        version: Version,
        queries_QD: Array,
        k: int,
        options: SearchOptions,
        rng: np.random.Generator,
        passing: Passing | None = None,
    ) -> Found:
        """Candidate rows of `options.sample_clusters` lists that `propose` would not visit."""
        if version.codebook is None:
            return best((), len(queries_QD), 0)
        queries_QD = _float32(queries_QD)
        return sampling.propose(
            version.codebook,
            version.segments,
            queries_QD,
            k,
            self._lists(version, version.codebook, queries_QD, options, passing)[0],
            options.sample_clusters,
            rng,
            passing,
        )

    def _lists(
        self,
        version: Version,
        codebook: clustered.Codebook,
        queries_QD: Array,
        options: SearchOptions,
        passing: Passing | None,
    ) -> tuple[Slots, Array]:
        """The lists that a search visits, `[Q, P]`, as in `reached`, and their scores."""
        if passing is None:
            probe = self._visited(version, codebook, options)
            return clustered.visited(codebook, queries_QD, probe)
        probe = self.probe(codebook, options)
        if options.probe is not None:
            return clustered.visited(codebook, queries_QD, probe)
        wanted = self._wanted(version, passing, probe)
        return reached(codebook, version.segments, queries_QD, probe, wanted, passing)

    def _visited(
        self, version: Version, codebook: clustered.Codebook, options: SearchOptions
    ) -> int:
        """Lists that a search without a filter visits."""
        window = self.window(version, options)
        if window is not None and version.graph is not None:
            return self.beside(codebook, version.graph, window)
        return min(self.probe(codebook, options), codebook.clusters)

    def window(self, version: Version, options: SearchOptions = SearchOptions()) -> int | None:
        """Rows that a walk with these options keeps in view; None where lists are visited."""
        graph = version.graph
        if graph is None or graph.recall is None:
            return None
        window = options.probe or (None if options.recall_target else self.config.probe)
        if window is None:
            target = options.recall_target or self.config.recall_target or 1.0
            window = graph.recall.probe(target, len(graph))
        return window if window < len(graph) else None

    @staticmethod
    def beside(codebook: clustered.Codebook, graph: Graph, window: int) -> int:
        """Lists in which as much is found of the rows sealed since as by a walk of the others."""
        if codebook.recall is None or graph.recall is None:
            return codebook.clusters
        target = min(graph.recall.at(window), codebook.recall.most)
        return min(codebook.recall.probe(target, codebook.clusters), codebook.clusters)

    def probe(self, codebook: clustered.Codebook, options: SearchOptions = SearchOptions()) -> int:
        """Lists that a search with these options visits."""
        if options.probe or (self.config.probe and options.recall_target is None):
            return options.probe or self.config.probe or 1
        target = options.recall_target or self.config.recall_target
        if codebook.recall is None or target is None:
            return codebook.clusters
        return codebook.recall.probe(target, codebook.clusters)

    def moved(self, rows_B: Slots) -> None:
        """Takes note that rows changed that are proposed as before."""
        self._mirrored(rows_B)
        fresh = self.queue.moved(self.version.fresh, rows_B)
        if fresh is not self.version.fresh:
            self.version = replace(self.version, fresh=fresh)

    def restore(self, version: Version, drift: tuple[Array, Array] | None = None) -> None:
        """Takes over what a checkpoint has, into an empty index. drift: sealed_N, norm_N."""
        if drift is not None:
            self.drift.sealed_N, self.drift.norm_N = drift
        self.version = replace(version, segments=self._copied(version.segments))

    def _copied(self, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        """Segments from a disk, on the device if they fit: there is no index before to serve."""
        try:
            return tuple(segment.on(self.room) for segment in segments)
        except DeviceError as error:
            logger.warning("%s; the host searches instead", error)
            return segments

    def _mirrored(self, rows_B: Slots) -> None:
        if self.mirror is not None:
            self.mirror.changed(rows_B)

    def _retire(self, rows_B: Slots, change: Callable[[Fresh, Slots], Fresh]) -> None:
        for work in self._works:
            work.changed.append(rows_B.copy())
        self.drift.forget(rows_B)
        segments = tuple(segment.without(rows_B) for segment in self.version.segments)
        # Last, since what the queue took in counts.
        fresh = change(self.version.fresh, rows_B)
        self.version = replace(self.version, segments=segments, fresh=fresh)


def _listed_ns(queries: int, probe: int, version: Version) -> float:
    """What so many queries cost a row that visit so many lists."""
    return LISTED_NS * queries * probe / version.clusters


def _all_ns(queries: int) -> float:
    """What so many queries cost a row that are asked of all rows."""
    return READ_NS + MULTIPLIED_NS[halving_units()] * queries


def _float32(keys_RD: Array) -> Array:
    return np.ascontiguousarray(keys_RD, np.float32)
