"""A stream of inserts, replaces and deletes, searched all along, beside faiss IVF and hnswlib.

The runbook is of the kind of the big-ann streaming track (NeurIPS 2023; Simhadri et al. 2024): rows
come group by group of neighbouring clusters, and later each group loses some rows, gets some new
ones and has some replaced by others of its own; after each step the same queries are asked again.
Every engine takes each step in turn, in one thread. A tag names a row through all its replacements.

memstore tunes itself as the stream goes. The peers get the best that they can have: faiss is
trained beforehand on a sample of the whole stream, hnswlib knows how many rows will come, and both
search at the least effort that reaches the recall wanted, found anew after each step by looking at
the true answers, at no cost in time.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import faiss
import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions
from memstore.memory import Array, Memory, Slots
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.data import WIDTH, grouped
from tests.benchmarks.peers.client import Keys, Peer, PeerFailed
from tests.benchmarks.runner import Curve, Figure, Measured, Missing, Unavailable, at_least, at_most
from tests.benchmarks.sweeps import Truth

K, BATCH, WANTED = 10, 64, 0.98
GROUPS, ASKED, JUDGED = 16, 512, 128
"""Groups of clusters; queries of each search; how many of them recall is counted on."""

FIRST, TURNED = 0.8, 0.1
"""Share of a group inserted at first; shares replaced, deleted and inserted later, each."""

MOST_EFFORT = 2_048
LARGE = 1_000_000


@dataclass(frozen=True)
class Step:
    """One change: tags, and the vectors (places in the stream's keys) that they stand for now.

    Inserted tags rise from the last one; `delete` has no vectors.
    """

    do: Literal["insert", "replace", "delete"]
    tags: Slots
    vectors: Slots


def runbook(vectors: int, groups: int, seed: int = 0) -> Iterator[Step]:
    """First inserts `FIRST` of each group; then replaces, deletes and inserts in each."""
    rng = np.random.default_rng(seed)
    size = vectors // groups
    first, some = round(FIRST * size), round(TURNED * size)
    next_tag, tags_of = 0, []

    def inserted(places: Slots) -> Step:
        nonlocal next_tag
        tags = np.arange(next_tag, next_tag + len(places))
        next_tag += len(places)
        return Step("insert", tags, places)

    for group in range(groups):
        step = inserted(group * size + np.arange(first))
        tags_of.append(step.tags)
        yield step
    for group, tags in enumerate(tags_of):
        left = group * size + np.arange(first, first + 2 * some)
        drawn = rng.permutation(tags)[: 2 * some]
        yield Step("replace", np.sort(drawn[:some]), left[:some])
        yield Step("delete", np.sort(drawn[some:]), left[:0])
        yield inserted(left[some:])


class Engine(Protocol):
    """What takes the steps; every verb returns the seconds that it took, as `Peer` does."""

    def insert(self, ids_B: Slots, keys_BD: Array) -> float: ...
    def replace(self, ids_B: Slots, keys_BD: Array) -> float: ...
    def delete(self, ids_B: Slots) -> float: ...
    def search(
        self, queries_QD: Array, k: int, effort: Any, batch: int = BATCH
    ) -> tuple[Slots, float]: ...


class Ours:
    """memstore, whose slots are the tags. It takes no effort: it finds its own."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def insert(self, ids_B: Slots, keys_BD: Array) -> float:
        given: list[Slots] = []
        seconds = _seconds(lambda: given.append(self._memory.append(keys_BD)))
        if not np.array_equal(given[0], ids_B):
            raise RuntimeError("slots of this memory are not the tags of the runbook")
        return seconds

    def replace(self, ids_B: Slots, keys_BD: Array) -> float:
        return _seconds(lambda: self._memory.write(ids_B, keys_BD))

    def delete(self, ids_B: Slots) -> float:
        return _seconds(lambda: self._memory.erase(ids_B))

    def search(
        self, queries_QD: Array, k: int, effort: Any, batch: int = BATCH
    ) -> tuple[Slots, float]:
        parts: list[Slots] = []

        def ask() -> None:
            for first in range(0, len(queries_QD), batch):
                some_BD = queries_QD[first : first + batch]
                parts.append(self._memory.search(some_BD, k, SearchOptions()).slots_QK)

        seconds = _seconds(ask)
        return np.concatenate(parts), seconds


@dataclass
class Run:
    """An engine on its way through the runbook: seconds spent, recall after each step.

    effort: of its searches; None leaves it to the engine.
    """

    name: str
    engine: Engine
    effort: int | None = None
    changing_s: float = 0.0
    searching_s: float = 0.0
    recalls: list[float] = field(default_factory=list)

    def change(self, step: Step, keys_ND: Array) -> None:
        if step.do == "delete":
            self.changing_s += self.engine.delete(step.tags)
        elif step.do == "insert":
            self.changing_s += self.engine.insert(step.tags, keys_ND[step.vectors])
        else:
            self.changing_s += self.engine.replace(step.tags, keys_ND[step.vectors])

    def search(self, queries_QD: Array, truth: Truth) -> None:
        self._find_effort(truth)
        tags_QK, seconds = self.engine.search(queries_QD, K, self.effort)
        self.searching_s += seconds
        self.recalls.append(truth.recall(tags_QK[: len(truth.queries_QD)]))

    def _find_effort(self, truth: Truth) -> None:
        """Raises the effort until it is enough, or lowers it as long as it is."""
        if self.effort is None:
            return

        def enough(effort: int) -> bool:
            return truth.recall(self.engine.search(truth.queries_QD, K, effort)[0]) >= WANTED

        if enough(self.effort):
            while self.effort > 1 and enough(lower := math.floor(self.effort / 1.1)):
                self.effort = lower
        else:
            while self.effort < MOST_EFFORT and not enough(self.effort):
                self.effort = min(math.ceil(self.effort * 1.1), MOST_EFFORT)

    @property
    def total_s(self) -> float:
        return self.changing_s + self.searching_s

    @property
    def words(self) -> str:
        recall = float(np.mean(self.recalls))
        return (
            f"{self.name}: changes {self.changing_s:.1f} s, searches {self.searching_s:.1f} s, "
            f"recall {recall:.4f}"
        )


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread."""
    live, groups = (20_000, 4) if quick else (LARGE, GROUPS)
    yield from measured_alone("tests.benchmarks.engine_stream", live, groups)


def measure(live: int, groups: int) -> Iterator[Measured]:
    """Takes every engine through the same runbook, a step of each in turn."""
    vectors = round(live / FIRST)
    keys_ND, queries_QD = grouped(vectors, ASKED, groups)
    steps = list(runbook(vectors, groups))
    faiss.omp_set_num_threads(1)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        store = stack.enter_context(memstore.open(folder))
        config = MemoryConfig(
            dim=WIDTH, index=IndexConfig(recall_target=WANTED, maintenance="inline")
        )
        runs = [Run("memstore", Ours(store.create("stream", config)))]
        runs[0].change(steps[0], keys_ND)
        for name, engine, effort, options in _peers(keys_ND, live, Path(folder)):
            try:
                opened = Peer(
                    engine, Keys(keys_ND[steps[0].vectors]), threads=1, cached=False, **options
                )
            except (Unavailable, PeerFailed) as missing:
                yield Missing(name, str(missing))
                continue
            stack.enter_context(opened)
            # What it was opened with is the first insert.
            runs.append(Run(opened.about, opened, effort, changing_s=opened.build_s))
        for truth in _along(steps, keys_ND, queries_QD[:JUDGED], runs):
            for one in runs:
                one.search(queries_QD, truth)
    yield from _figures(runs, steps, live)


def _along(steps: list[Step], keys_ND: Array, judged_QD: Array, runs: list[Run]) -> Iterator[Truth]:
    """Takes every step but the first, which is taken; gives the truth after each."""
    tags = max(int(step.tags.max()) for step in steps) + 1
    table_ND = np.zeros((tags, keys_ND.shape[1]), np.float32)
    alive_N = np.zeros(tags, np.bool_)
    for number, step in enumerate(steps):
        table_ND[step.tags] = 0.0 if step.do == "delete" else keys_ND[step.vectors]
        alive_N[step.tags] = step.do != "delete"
        if number:
            for one in runs:
                one.change(step, keys_ND)
        yield Truth(judged_QD, table_ND, _floor(judged_QD, table_ND, alive_N))
        print(
            f"step {number + 1} of {len(steps)}: {step.do} {len(step.tags):,}, "
            f"{alive_N.sum():,} live; " + "; ".join(one.words for one in runs),
            file=sys.stderr,
            flush=True,
        )


def _floor(queries_QD: Array, table_ND: Array, alive_N: Array, block: int = 65_536) -> Array:
    """The K-th highest score of each query among live rows, float32 `[Q]`."""
    best_QK = np.full((len(queries_QD), K), -np.inf, np.float32)
    for first in range(0, len(table_ND), block):
        scores_QB = queries_QD @ table_ND[first : first + block].T
        scores_QB[:, ~alive_N[first : first + block]] = -np.inf
        both = np.concatenate([best_QK, scores_QB], axis=1)
        best_QK = np.partition(both, -K, axis=1)[:, -K:]
    return best_QK[:, 0]


def _peers(
    keys_ND: Array, live: int, folder: Path
) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """Name, module, first effort and options of each."""
    rng = np.random.default_rng(1)
    sample = folder / "sample.npy"
    chosen = rng.choice(len(keys_ND), min(len(keys_ND), 200_000), replace=False)
    np.save(sample, keys_ND[np.sort(chosen)])
    clusters = 2 ** round(np.log2(2 * live**0.5))
    for codec in ("Flat", "SQ8"):
        options = {"clusters": clusters, "codec": codec, "trained_on": str(sample)}
        yield "faiss IVF", "ivf", 16, options
    yield "hnswlib", "hnsw", 64, {"room": live + len(keys_ND) // 8}


def _figures(runs: list[Run], steps: list[Step], live: int) -> Iterator[Figure | Curve]:
    ours, *peers = runs
    case = f"{len(steps)} steps, {live:,} live, {ASKED} queries each, k {K}, 1 thread"
    mean, worst = float(np.mean(ours.recalls)), min(ours.recalls)
    yield at_least(WANTED, Figure("mean_recall", f"{case}; {ours.words}", mean, "share"))
    yield Figure("least_recall", case, worst, "share")
    for peer in peers:
        words = f"{case}; {ours.words}; {peer.words}"
        beside = Figure("runbook_s", words, ours.total_s, "s", peer.total_s)
        yield at_most(1.0, beside) if live >= LARGE else beside
    for one in runs:
        points = [(float(i + 1), recall) for i, recall in enumerate(one.recalls)]
        yield Curve(f"A stream of {live:,} live rows", one.name, "step", f"recall@{K}", points)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    tell(measure(int(sys.argv[1]), int(sys.argv[2])))
