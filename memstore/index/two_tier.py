"""Two tiers propose candidates: sealed segments of a clustered index, and fresh rows, exactly.

Readers take one immutable `Version` by reference; sealing builds the next beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np

from memstore.config import IndexConfig
from memstore.index import clustered, tuning
from memstore.index.assignment import assigner
from memstore.index.clustered import Reader
from memstore.index.passing import Passing
from memstore.index.reductions import Reduction, lengths
from memstore.index.segment import Segment
from memstore.kernels.half import wide
from memstore.memory import Array, SearchOptions, Slots

GROWTH = 4
"""A codebook trained for n rows serves until there are GROWTH·n; then rows are clustered anew."""

SCAN_ROWS = 2_048
"""Where no more rows pass, all of them are scored: under half a millisecond for a query."""

SCAN_COST = 8
"""Codes in the lists whose bit is tested in the time in which a passing row is scored. Measured
with 10^6 rows of 64 it is about 20 for one query and 2 for each of a batch of 64, which shares
the scan; between them, the scan is preferred, since it loses no row."""

MEASURED_GROWTH = 1.5
"""Recall measured on n rows is measured again when there are so many times n."""

MAX_SEGMENTS = 4
"""Segments a query visits; beyond it the youngest are merged."""

MOST_BEYOND = 0.05
"""Share of the sealed rows that may be longer than the reach of the reduction."""

FEWEST_TUNED = 4_096
"""Rows below which a plain clustering serves: there is little to gain."""


@dataclass(frozen=True)
class Version:
    """What one search sees. fresh_F: rows not sealed as they are, rising."""

    number: int
    codebook: clustered.Codebook | None
    segments: tuple[Segment, ...]
    fresh_F: Slots

    @property
    def clusters(self) -> int:
        return 0 if self.codebook is None else self.codebook.clusters

    @property
    def sealed(self) -> int:
        """Rows in the segments, copies that are proposed no more included."""
        return sum(map(len, self.segments))


@dataclass(frozen=True)
class Fresh:
    """Copies of the fresh keys, as of one row version. longest: the largest ‖x‖ among them."""

    version: Version
    row_version: int
    keys_FD: Array
    longest: float


EMPTY = Version(0, None, (), np.empty(0, np.int64))


class TwoTierIndex:
    """The index of one shard. One thread writes; any number propose."""

    def __init__(self, config: IndexConfig, width: int, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.version = EMPTY
        self._recent = tuning.Recent(width)
        self._fresh: Fresh | None = None

    @property
    def bytes(self) -> int:
        if self.version.codebook is None:
            return 0
        code_bytes = self.version.codebook.empty.code_size + 8
        bits = sum(segment.valid.nbytes for segment in self.version.segments)
        return int(self.version.sealed * code_bytes + bits)

    @property
    def wants_sealing(self) -> bool:
        clustered_kind = self.config.kind == "clustered"
        return clustered_kind and len(self.version.fresh_F) > self.config.fresh_limit

    def wrote(self, rows_B: Slots) -> None:
        """Puts rows into the fresh tier; their sealed copies, if any, are proposed no more."""
        if self.config.kind == "clustered":
            self._retire(rows_B, np.union1d(self.version.fresh_F, rows_B))

    def killed(self, rows_B: Slots) -> None:
        """Takes rows out of both tiers."""
        if self.config.kind == "clustered":
            self._retire(rows_B, np.setdiff1d(self.version.fresh_F, rows_B, assume_unique=True))

    def scans(self, version: Version, passing: Passing, options: SearchOptions) -> bool:
        """Whether so few rows pass that scoring all of them is cheaper than the lists."""
        if version.codebook is None or passing.count <= SCAN_ROWS:
            return True
        probe = self.probe(version.codebook, options)
        lists = min(self._reach(version, passing, probe), version.clusters)
        return passing.count * SCAN_COST <= version.sealed * lists / version.clusters

    @staticmethod
    def _reach(version: Version, passing: Passing, probe: int) -> int:
        """Lists in which the best of few rows are as likely found as those of all in `probe`."""
        share = min(1.0, passing.count / max(version.sealed + len(version.fresh_F), 1))
        return math.ceil(probe / math.sqrt(share)) if share else probe

    def propose(
        self,
        version: Version,
        queries_QD: Array,
        k: int,
        options: SearchOptions,
        passing: Passing | None = None,
    ) -> Slots:
        """Candidate rows of the sealed tier int64 `[Q, C]`, `NO_SLOT` padded.

        passing: propose no other rows.
        """
        if version.codebook is None:
            return np.empty((len(queries_QD), 0), np.int64)
        queries_QD = _float32(queries_QD)
        self._recent.saw(queries_QD)
        probe = self.probe(version.codebook, options)
        if passing is not None and options.probe is None:
            probe = self._reach(version, passing, probe)
        return clustered.propose(version.codebook, version.segments, queries_QD, k, probe, passing)

    def probe(self, codebook: clustered.Codebook, options: SearchOptions = SearchOptions()) -> int:
        """Lists that a search with these options visits."""
        if options.probe or (self.config.probe and options.recall_target is None):
            return options.probe or self.config.probe or 1
        target = options.recall_target or self.config.recall_target
        if codebook.recall is None or target is None:
            return codebook.clusters
        return codebook.recall.probe(target, codebook.clusters)

    def fresh(self, version: Version, keys_ND: Array, row_version: int) -> Fresh:
        """Copies the fresh rows, or gives the last copy where no row changed since."""
        fresh = self._fresh
        if fresh is None or fresh.version is not version or fresh.row_version != row_version:
            keys_FD = wide(np.take(keys_ND, version.fresh_F, axis=0))
            longest = float(lengths(keys_FD).max(initial=0.0))
            fresh = self._fresh = Fresh(version, row_version, keys_FD, longest)
        return fresh

    def seal(self, read: Reader, live_R: Slots) -> None:
        """Encodes the fresh rows into a segment, or clusters all live rows where that pays."""
        version, codebook = self.version, self.version.codebook
        rows_R = version.fresh_F
        copies = version.sealed + len(rows_R)
        if codebook is None or len(live_R) > GROWTH * codebook.rows or copies > 2 * len(live_R):
            self.rebuild(read, live_R)
            return
        segment = clustered.seal(codebook, read, rows_R)
        segments = clustered.merge((*version.segments, segment), MAX_SEGMENTS)
        if sum(s.beyond for s in segments) > MOST_BEYOND * copies:
            self.rebuild(read, live_R)
            return
        if self._outdated(codebook.recall, len(live_R)):
            known = tuning.truth(read, live_R, self._recent, self.seed)
            codebook = codebook.with_recall(tuning.measure(codebook, segments, read, known))
        self.version = Version(version.number + 1, codebook, segments, rows_R[:0])

    def rebuild(self, read: Reader, live_R: Slots) -> None:
        """Clusters and seals all of `live_R`; nothing is fresh afterwards."""
        number = self.version.number + 1
        config, seed = self.config, self.seed
        if config.kind != "clustered" or not len(live_R):
            self.version = replace(EMPTY, number=number)
            return
        reduction = Reduction()
        clusters = config.clusters or clustered.choose_clusters(len(live_R))
        known = tuning.truth(read, live_R, self._recent, seed)
        if config.recall_target is not None and len(live_R) >= FEWEST_TUNED:
            reduction, clusters = tuning.choose(
                config, read, live_R, known, config.recall_target, seed
            )
        size = clustered.sample_size(len(live_R), clusters)
        sample_R = np.sort(np.random.default_rng(seed).choice(live_R, size, replace=False))
        codebook = clustered.train(
            config,
            _float32(read(sample_R)),
            len(live_R),
            seed,
            reduction,
            clusters,
            self.version.codebook,
        )
        segments = (clustered.seal(codebook, read, live_R),)
        codebook = codebook.with_recall(tuning.measure(codebook, segments, read, known))
        self.version = Version(number, codebook, segments, live_R[:0])
        self._fresh = None  # it holds the version before, and with it a whole index

    def save(self, folder: Path) -> list[str]:
        """Writes the sealed tier into `folder`; returns the names of the files."""
        version = self.version
        if version.codebook is None:
            return []
        codebook = version.codebook
        arrays = {
            "fresh": version.fresh_F,
            "trained_rows": np.array(codebook.rows),
            "centroids": codebook.centroids_CE,
            "reduction": np.array([codebook.reduction.alpha, codebook.reduction.reach]),
        }
        if codebook.recall is not None:
            recall = codebook.recall
            arrays |= {"probes": recall.probes_P, "asked": np.array(recall.asked)}
            arrays["measured_rows"] = np.array(recall.rows)
            arrays |= {"recalls": recall.recalls_P, "errors": recall.errors_P}
        faiss.write_index(codebook.empty, str(folder / "codebook.faiss"))
        names = ["codebook.faiss", "tiers.npz"]
        for i, segment in enumerate(version.segments):
            names.append(f"segment-{i}.faiss")
            faiss.write_index(segment.lists, str(folder / names[-1]))
            arrays |= {f"valid-{i}": segment.valid, f"stale-{i}": np.array(segment.stale)}
            arrays[f"beyond-{i}"] = np.array(segment.beyond)
        np.savez(folder / "tiers.npz", allow_pickle=False, **arrays)
        return names

    def load(self, folder: Path, names: Sequence[str], number: int, live_R: Slots) -> None:
        """Takes over what `save` wrote; without files all live rows are fresh."""
        if "tiers.npz" not in names:
            fresh_F = live_R if self.config.kind == "clustered" else live_R[:0]
            self.version = replace(EMPTY, number=number, fresh_F=fresh_F)
            return
        empty = faiss.read_index(str(folder / "codebook.faiss"))
        with np.load(folder / "tiers.npz", allow_pickle=False) as tiers:
            segments = tuple(
                Segment(
                    faiss.read_index(str(folder / f"segment-{i}.faiss")),
                    tiers[f"valid-{i}"],
                    int(tiers[f"stale-{i}"]),
                    int(tiers[f"beyond-{i}"]),
                )
                for i in range(len(names) - 2)
            )
            recall = None
            if "probes" in tiers:
                recall = clustered.Recall(
                    tiers["probes"],
                    tiers["recalls"],
                    tiers["errors"],
                    bool(tiers["asked"]),
                    int(tiers["measured_rows"]),
                )
            codebook = clustered.Codebook(
                empty,
                int(tiers["trained_rows"]),
                tiers["centroids"],
                Reduction(*tiers["reduction"].tolist()),
                assigner(tiers["centroids"], self.seed),
                recall,
            )
            self.version = Version(number, codebook, segments, tiers["fresh"])

    def _outdated(self, recall: clustered.Recall | None, rows: int) -> bool:
        """Whether recall is worth measuring again: more rows, or real queries at last."""
        if recall is None:
            return True
        return rows > MEASURED_GROWTH * recall.rows or (self._recent.enough() and not recall.asked)

    def _retire(self, rows_B: Slots, fresh_F: Slots) -> None:
        segments = tuple(segment.without(rows_B) for segment in self.version.segments)
        self.version = replace(self.version, segments=segments, fresh_F=fresh_F)


def _float32(keys_RD: Array) -> Array:
    return np.ascontiguousarray(keys_RD, np.float32)
