"""Two tiers propose candidates: sealed segments of a clustered index, and fresh rows, exactly.

Readers take one immutable `Version` by reference; sealing builds the next beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np

from memstore.config import IndexConfig
from memstore.index import clustered, exact
from memstore.index.passing import Passing
from memstore.index.segment import Segment
from memstore.memory import Array, Proposal, Slots

Reader = Callable[[Slots], Array]
"""Gives the keys of rows."""

GROWTH = 4
"""A codebook trained for n rows serves until there are GROWTH·n; then rows are clustered anew."""

SCAN_ROWS = 2_048
"""Where no more rows pass, all of them are scored: under half a millisecond for a query."""

SCAN_COST = 8
"""Codes in the lists whose bit is tested in the time in which a passing row is scored. Measured
with 10^6 rows of 64 it is about 20 for one query and 2 for each of a batch of 64, which shares
the scan; between them, the scan is preferred, since it loses no row."""

MAX_SEGMENTS = 4
"""Segments a query visits; beyond it the youngest are merged."""


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


EMPTY = Version(0, None, (), np.empty(0, np.int64))


class TwoTierIndex:
    """The index of one shard. One thread writes; any number propose."""

    def __init__(self, config: IndexConfig, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.version = EMPTY

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

    def scans(self, version: Version, passing: Passing, probe: int | None) -> bool:
        """Whether so few rows pass that scoring all of them is cheaper than the lists."""
        if version.codebook is None or passing.count <= SCAN_ROWS:
            return True
        lists = min(self._reach(version, passing, probe or self.config.probe), version.clusters)
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
        keys_ND: Array,
        k: int,
        probe: int | None,
        passing: Passing | None = None,
    ) -> tuple[Slots, Array]:
        """Candidate rows int64 `[Q, C]`, `NO_SLOT` padded, and their `Proposal` uint8 `[Q, C]`.

        passing: propose no other rows.
        """
        fresh_F = version.fresh_F if passing is None else passing.among(version.fresh_F)
        parts = [(exact.propose(queries_QD, keys_ND, fresh_F, k), Proposal.FRESH)]
        if version.codebook is not None:
            # Codes are coarse: half as many again are re-scored, so that few of the k are lost.
            sealed_QC = clustered.propose(
                version.codebook,
                version.segments,
                _float32(queries_QD),
                count=k + k // 2 + 8,
                probe=probe or self._default_probe(version, passing),
                passing=passing,
            )
            parts.append((sealed_QC, Proposal.SEALED))
        tiers = [np.full(rows_QC.shape, tier, np.uint8) for rows_QC, tier in parts]
        return np.concatenate([rows for rows, _ in parts], 1), np.concatenate(tiers, 1)

    def _default_probe(self, version: Version, passing: Passing | None) -> int:
        probe = self.config.probe
        return probe if passing is None else self._reach(version, passing, probe)

    def seal(self, read: Reader, live_R: Slots) -> None:
        """Encodes the fresh rows into a segment, or clusters all live rows where that pays."""
        version = self.version
        rows_R = version.fresh_F
        copies = version.sealed + len(rows_R)
        outgrown = version.codebook is None or len(live_R) > GROWTH * version.codebook.rows
        if outgrown or copies > 2 * len(live_R) or version.codebook is None:
            self.rebuild(read, live_R)
            return
        segment = Segment.seal(version.codebook.empty, _float32(read(rows_R)), rows_R)
        segments = clustered.merge((*version.segments, segment), MAX_SEGMENTS)
        self.version = Version(version.number + 1, version.codebook, segments, rows_R[:0])

    def rebuild(self, read: Reader, live_R: Slots) -> None:
        """Clusters and seals all of `live_R`; nothing is fresh afterwards."""
        number = self.version.number + 1
        if self.config.kind != "clustered" or not len(live_R):
            self.version = replace(EMPTY, number=number)
            return
        size = clustered.sample_size(self.config, len(live_R))
        sample_R = np.random.default_rng(self.seed).choice(live_R, size, replace=False)
        sample_RD = _float32(read(np.sort(sample_R)))
        old = self.version.codebook
        codebook = clustered.train(self.config, sample_RD, len(live_R), self.seed, old)
        segment = Segment.seal(codebook.empty, _float32(read(live_R)), live_R)
        self.version = Version(number, codebook, (segment,), live_R[:0])

    def save(self, folder: Path) -> list[str]:
        """Writes the sealed tier into `folder`; returns the names of the files."""
        version = self.version
        if version.codebook is None:
            return []
        arrays = {"fresh": version.fresh_F, "trained_rows": np.array(version.codebook.rows)}
        faiss.write_index(version.codebook.empty, str(folder / "codebook.faiss"))
        names = ["codebook.faiss", "tiers.npz"]
        for i, segment in enumerate(version.segments):
            names.append(f"segment-{i}.faiss")
            faiss.write_index(segment.lists, str(folder / names[-1]))
            arrays |= {f"valid-{i}": segment.valid, f"stale-{i}": np.array(segment.stale)}
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
                )
                for i in range(len(names) - 2)
            )
            codebook = clustered.Codebook(empty, int(tiers["trained_rows"]))
            self.version = Version(number, codebook, segments, tiers["fresh"])

    def _retire(self, rows_B: Slots, fresh_F: Slots) -> None:
        segments = tuple(segment.without(rows_B) for segment in self.version.segments)
        self.version = replace(self.version, segments=segments, fresh_F=fresh_F)


def _float32(keys_RD: Array) -> Array:
    return np.ascontiguousarray(keys_RD, np.float32)
