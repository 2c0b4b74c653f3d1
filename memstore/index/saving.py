"""The sealed tier in files: what is new of it is written, and the rest named as it lies there.

Segments and the codebook are immutable, so that each is written once; which of their rows still
stand, which are fresh and how far they drifted is written each time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from memstore.disk import DISK, Disk
from memstore.files import Fingerprint, NewFile, arrays_of, arrays_to, make
from memstore.index import clustered
from memstore.index.assignment import assigner
from memstore.index.fresh import Fresh
from memstore.index.graph import Graph
from memstore.index.recall import Recall
from memstore.index.reductions import Reduction
from memstore.index.segment import Segment
from memstore.index.two_tier import TwoTierIndex, Version
from memstore.memory import Array, Slots


@dataclass(frozen=True)
class Still:
    """An index at one moment: its version, and copies of what drift is counted from."""

    version: Version
    sealed_N: Array
    norm_N: Array


@dataclass(frozen=True)
class Kept:
    """What was written before, and the name of the file of each: parts that are the same objects
    are not written again. What the index lets go of is not held here."""

    parts: tuple[tuple[weakref.ref[object], str], ...] = ()

    @classmethod
    def of(cls, parts: Iterable[tuple[object, str]]) -> Kept:
        return cls(tuple((weakref.ref(part), name) for part, name in parts))

    def name(self, part: object) -> str | None:
        return next((name for kept, name in self.parts if kept() is part), None)


def still(index: TwoTierIndex) -> Still:
    """The index as it is now; with writers kept off."""
    return Still(index.version, index.drift.sealed_N.copy(), index.drift.norm_N.copy())


@dataclass
class _Writing:
    """Writes parts into a folder, each under its name and the number of the checkpoint."""

    folder: Path
    number: int
    before: Kept
    disk: Disk
    parts: list[tuple[object, str]] = field(default_factory=list)
    files: dict[str, Fingerprint] = field(default_factory=dict)

    def __call__(self, part: object, name: str, write: Callable[[NewFile], None]) -> str:
        known = self.before.name(part)
        if known is None:
            known = self.new(name, write)
        self.parts.append((part, known))
        return known

    def new(self, name: str, write: Callable[[NewFile], None]) -> str:
        stem, suffix = name.split(".")
        numbered = f"{stem}-{self.number:08d}.{suffix}"
        self.files[numbered] = make(self.folder / numbered, write, self.disk)
        return numbered


@dataclass(frozen=True)
class Saved:
    """names: of all files, by part; none where nothing is sealed.  written: those that are new.
    kept: what the next one may keep."""

    names: dict[str, Any]
    written: dict[str, Fingerprint]
    kept: Kept


def save(moment: Still, folder: Path, number: int, before: Kept, disk: Disk = DISK) -> Saved:
    """Writes what `before` lacks; names are durable after a sync of the folder."""
    version, book = moment.version, moment.version.codebook
    if book is None:
        return Saved({}, {}, Kept())
    put = _Writing(folder, number, before, disk)
    names: dict[str, Any] = {
        "codebook": put(book.empty, "codebook.faiss", _writer(book.empty)),
        "segments": [],
    }
    for i, segment in enumerate(version.segments):
        lists, graph = segment.lists, segment.graph
        of_segment = {
            "lists": put(lists, f"segment-{i}.faiss", _writer(lists)),
            "graph": None if graph is None else put(graph, f"graph-{i}.npz", graph.save),
        }
        names["segments"].append(of_segment)
    tiers = _tiers(moment, book)
    names["tiers"] = put.new("tiers.npz", lambda file: arrays_to(file, tiers))
    return Saved(names, put.files, Kept.of(put.parts))


def load(
    index: TwoTierIndex, folder: Path, names: Mapping[str, Any], number: int, live_R: Slots
) -> Kept:
    """Reads what `save` wrote into an empty index; without names all live rows are fresh."""
    if not names:
        fresh_F = live_R if index.config.sealed else live_R[:0]
        fresh = index.queue.anew(Fresh(), fresh_F)
        index.restore(Version(number, None, (), fresh))
        return Kept()
    empty = faiss.read_index(str(folder / names["codebook"]))
    parts: list[tuple[object, str]] = [(empty, names["codebook"])]
    tiers = arrays_of(folder / names["tiers"])
    segments = []
    for i, of_segment in enumerate(names["segments"]):
        lists = faiss.read_index(str(folder / of_segment["lists"]))
        parts.append((lists, of_segment["lists"]))
        graph = None
        if of_segment["graph"] is not None:
            graph = Graph.load(folder / of_segment["graph"])
            parts.append((graph, of_segment["graph"]))
        stale, beyond = int(tiers[f"stale-{i}"]), int(tiers[f"beyond-{i}"])
        segments.append(Segment(lists, tiers[f"valid-{i}"], stale, beyond, graph=graph))
    promise = None
    if "promise" in tiers:
        promise = int(tiers["promise"][0]), float(tiers["promise"][1])
    unit, depth = tiers["coding"].tolist()
    codebook = clustered.Codebook(
        empty,
        int(tiers["trained_rows"]),
        tiers["centroids"],
        Reduction(*tiers["reduction"].tolist()),
        assigner(tiers["centroids"], index.seed),
        Recall.of(tiers) if "probes" in tiers else None,
        index.room,
        unit,
        depth,
        int(tiers["tuned"]) if "tuned" in tiers else 0,
    )
    since = dict(zip(SINCE, tiers["since"].tolist(), strict=True))
    since["laying"] = bool(tiers["laying"]) if "laying" in tiers else False
    fresh = index.queue.anew(Fresh(), tiers["fresh"])
    version = Version(number, codebook, tuple(segments), fresh, promise=promise, **since)
    index.restore(version, (tiers["sealed_travel"], tiers["sealed_norm"]))
    return Kept.of(parts)


SINCE = ("built", "row_version", "encoded", "unmeasured")


def _tiers(moment: Still, book: clustered.Codebook) -> dict[str, Array]:
    version = moment.version
    arrays = {
        "fresh": version.fresh_F,
        "trained_rows": np.array(book.rows),
        "tuned": np.array(book.tuned),
        "centroids": book.centroids_CE,
        "coding": np.array([book.unit, book.depth]),
        "reduction": np.array([book.reduction.alpha, book.reduction.reach]),
        "since": np.array([getattr(version, name) for name in SINCE]),
        "sealed_travel": moment.sealed_N,
        "sealed_norm": moment.norm_N,
        "laying": np.array(version.laying),
    }
    if version.promise is not None:
        arrays["promise"] = np.array(version.promise)
    if book.recall is not None:
        arrays |= book.recall.arrays()
    for i, segment in enumerate(version.segments):
        arrays |= {f"valid-{i}": segment.valid, f"stale-{i}": np.array(segment.stale)}
        arrays[f"beyond-{i}"] = np.array(segment.beyond)
    return arrays


def _writer(lists: faiss.IndexIVF) -> Callable[[NewFile], None]:
    return lambda file: faiss.write_index(lists, faiss.PyCallbackIOWriter(file.write))
