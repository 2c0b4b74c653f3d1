"""Search while rows change, beside faiss IVF, hnswlib, usearch, Intel SVS and ScaNN.

One thread, batch 64, the ten rows of highest inner product among rows whose norms differ. memstore
has rows that are fresh, erased and rewritten since it was built, and scores every candidate again
from the rows as they are; the peers are built over the same live rows at once, which is the best
that they can have, and are asked in a process of their own. A memory of kind `auto` has lists or
a graph, as it reckons itself. Recall is the share of ten found whose score is no less than the
true tenth. At each level of recall every engine works at the least effort that reaches it, and is
timed against memstore by turns.

Built indexes of peers are kept for the next run: see `peers.client.scratch`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import faiss
import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions
from memstore.memory import Array, Memory, Slots
from memstore.store import Store
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.peers.client import Keys, Peer, PeerFailed
from tests.benchmarks.runner import (
    Curve,
    Figure,
    Measured,
    Missing,
    Unavailable,
    at_least,
    paired_seconds,
    processor,
)
from tests.benchmarks.sweeps import Sweep, Truth, frontier

K, BATCH, FRESH, ASKED, ROUNDS = 10, 64, 2_000, 1_024, 9
LEVELS = (0.95, 0.97, 0.98, 0.99)
TUNED = {0.95: 0.95, 0.97: 0.95, 0.98: 0.98, 0.99: 0.98}
"""Level → the `recall_target` of the memory that stands for it."""

SMALL, LARGE = 100_000, 1_000_000
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Contender:
    """An index of a peer: the module and options of `Peer`, and what its knob may be.

    effort: what `Peer.search` takes for a number of the knob.
    """

    name: str
    engine: str
    options: dict[str, Any] = field(default_factory=dict)
    least: int = K
    most: int = 4_096
    effort: Callable[[int], Any] = int


def contenders(rows: int) -> Iterator[Contender]:
    """The peers; those of equal name are settings of one, of which the fastest counts."""
    usual = 2 ** round(np.log2(2 * rows**0.5))
    # With fewer rows a cluster faiss warns, and trains in vain.
    most = min(4_096, rows // 39)
    for clusters in (c for c in (usual, 2 * usual, 4 * usual) if c <= most):
        for codec in ("Flat", "SQ8"):
            options = {"clusters": clusters, "codec": codec}
            yield Contender("faiss IVF", "ivf", options, 1, clusters)
    yield Contender("hnswlib", "hnsw")
    yield Contender("usearch", "usearch")
    # Elsewhere it compresses no rows.
    bits = [8, 0] if "Intel" in processor() else None
    yield Contender("SVS", "vamana", {"links": 64, "bits": bits})
    # More leaves lose recall that no effort brings back.
    leaves = round(rows**0.5)
    for rescored in (200, 400, 800):
        yield Contender(
            "ScaNN",
            "scann",
            {"leaves": leaves},
            1,
            leaves,
            partial(_visited_and_rescored, rescored=rescored),
        )


def _visited_and_rescored(visited: int, rescored: int) -> tuple[int, int]:
    return visited, rescored


def bound(rows: int, peer: str, level: float) -> float | None:
    """How many times as fast as the peer memstore is to be; None where nothing is promised."""
    if rows == SMALL or (rows == LARGE and level >= 0.98):
        return 1.0
    promised = {
        (LARGE, "faiss IVF", 0.95): 1.6,
        (LARGE, "hnswlib", 0.95): 1.5,
        (LARGE, "usearch", 0.95): 1.5,
        (LARGE, "SVS", 0.97): 1.0,
        (LARGE, "ScaNN", 0.97): 1.0,
    }
    return promised.get((rows, peer, level))


def run(quick: bool) -> Iterator[Measured]:
    """Measures each size in a process of its own."""
    for rows in (10_000,) if quick else (SMALL, LARGE):
        yield from measured_alone("tests.benchmarks.engine_search", rows)


def measure(rows: int, names: tuple[str, ...] = ()) -> Iterator[Measured]:
    """Builds memories over the same live rows, then sets each peer against them.

    names: of the peers, all where there are none.
    """
    keys, queries = mixture(rows + rows // 100 + FRESH, 2_048 + ASKED)
    seen, asked = queries[:2_048], queries[2_048:]
    live, keys_ND = live_rows(keys, rows)
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        memories = {
            target: changed(store, f"tuned-{target}", target, keys, seen, rows)
            for target in dict.fromkeys(TUNED.values())
        }
        first = memories[LEVELS[0]]
        exact = first.search(asked, K, SearchOptions(exact=True))
        truth = Truth(asked, keys_ND, exact.scores_QK[:, -1])
        state = first.describe().shards[0]
        dirt = f"{state.fresh:,} fresh, 1 % erased, 1 % rewritten"
        case = f"{rows:,} x {WIDTH}, k {K}, batch {BATCH}, 1 thread, {dirt}"
        ours = {target: _ours(memory, live, truth) for target, memory in memories.items()}

        for target, memory in memories.items():
            told = SearchOptions()
            _asked(memory, live, asked[:BATCH], told)  # loads what it needs
            rows_QK, seconds = _asked(memory, live, asked, told)
            found, chosen = truth.recall(rows_QK), memory.describe().shards[0]
            words = f"{case}; as it tunes itself for {target}: {_chosen(chosen)}"
            yield at_least(target, Figure("recall", words, found, "share"))
            yield Figure("rate", words, len(asked) / seconds, "queries/s")

        shared = Keys(keys_ND)
        peers = [one for one in contenders(rows) if not names or one.name in names]
        yield from _against_all(rows, case, ours, truth, shared, peers)
        yield _curve(rows, "memstore", ours.values())


def _against_all(
    rows: int,
    case: str,
    ours: dict[float, Sweep],
    truth: Truth,
    shared: Keys,
    contenders: Iterable[Contender],
) -> Iterator[Measured]:
    by_name: dict[str, list[Contender]] = {}
    for contender in contenders:
        by_name.setdefault(contender.name, []).append(contender)
    for name, settings in by_name.items():
        sweeps: dict[str, Sweep] = {}
        peers: dict[str, Peer] = {}
        try:
            for one in settings:
                key = str(one.options)
                if key not in peers:
                    peers[key] = Peer(one.engine, shared, CORES, **one.options)
                    _progress(f"{peers[key].about}: built in {peers[key].build_s:.0f} s")
                peer = peers[key]
                label = peer.about
                if one.effort is not int:
                    label = f"{label} {one.effort(0)[1]} rescored"
                sweeps[label] = Sweep(label, _theirs(peer, one, truth), truth, one.least, one.most)
            trying = sweeps
            for level in LEVELS if rows >= SMALL else LEVELS[::2]:
                yield _at_level(rows, case, level, ours[TUNED[level]], name, trying)
                trying = _worth_trying(trying, level)
            yield _curve(rows, name, sweeps.values())
        except (Unavailable, PeerFailed) as missing:
            yield Missing(name, str(missing))
        finally:
            for peer in peers.values():
                peer.close()


def _at_level(
    rows: int, case: str, level: float, ours: Sweep, name: str, sweeps: dict[str, Sweep]
) -> Measured:
    """Times memstore and the fastest setting of a peer by turns, both at least efforts."""
    reached = {label: sweep.reaching(level) for label, sweep in sweeps.items()}
    able = {label: effort for label, effort in reached.items() if effort is not None}
    effort = ours.reaching(level)
    figure = f"search_rate_at_{level}"
    if effort is None:
        most = max(recall for recall, _ in ours.points)
        words = f"{case}; {ours.name} does not reach {level}"
        return at_least(level, Figure("recall", words, most, "share"))
    mine, rate = ours.at(effort)
    at_ours = f"{ours.name} at {effort}: {mine:.4f}"
    if not able:
        most = max(recall for sweep in sweeps.values() for recall, _ in sweep.points)
        words = f"{case}; {at_ours}; {name} reaches no more than {most:.4f}"
        return Figure(figure, words, rate, "queries/s")
    label = max(able, key=lambda label: sweeps[label].rate(able[label]))
    theirs = sweeps[label]
    timed = paired_seconds(lambda: ours.ask(effort)[1], lambda: theirs.ask(able[label])[1], ROUNDS)
    asked = len(ours.truth.queries_QD)
    words = f"{case}; {at_ours}; {label} at {able[label]}: {theirs.at(able[label])[0]:.4f}"
    measured = Figure(
        figure, words, asked / timed.a_s, "queries/s", asked / timed.b_s, ratio=1 / timed.ratio
    )
    least = bound(rows, name, level)
    return measured if least is None else at_least(least, measured)


def _worth_trying(sweeps: dict[str, Sweep], level: float) -> dict[str, Sweep]:
    """The settings that are at a level no less than half as fast as the fastest of them."""
    reached = {label: sweep.reaching(level) for label, sweep in sweeps.items()}
    rates = {
        label: sweeps[label].at(effort)[1]
        for label, effort in reached.items()
        if effort is not None
    }
    best = max(rates.values(), default=0.0)
    return {label: sweeps[label] for label in rates if 2 * rates[label] >= best} or sweeps


def live_rows(keys: Array, rows: int) -> tuple[Slots, Array]:
    """The slots that live when `changed` is done, and their keys: what the peers are given."""
    erased, rewritten, added = _changes(rows)
    table_ND = keys[: rows + added].copy()
    table_ND[rewritten] = keys[rows : rows + len(rewritten)]
    table_ND[rows:] = keys[len(keys) - added :]
    live = np.setdiff1d(np.arange(rows + added), erased)
    return live, table_ND[live]


def changed(store: Store, name: str, target: float, keys: Array, seen: Array, rows: int) -> Memory:
    """Fills a memory and tunes it; then erases 1 %, rewrites 1 % and leaves `FRESH` rows fresh."""
    start = time.perf_counter()
    faiss.omp_set_num_threads(CORES)
    # Work in other threads would not be counted against one thread, and disturb the peers.
    index = IndexConfig(kind="auto", recall_target=target, maintenance="inline")
    memory = store.create(name, MemoryConfig(dim=WIDTH, index=index))
    memory.append(keys[:rows])
    for first in range(0, len(seen), BATCH):
        memory.search(seen[first : first + BATCH], K)
    memory.reindex()
    erased, rewritten, added = _changes(rows)
    memory.erase(erased)
    memory.write(rewritten, keys[rows : rows + len(rewritten)])
    memory.append(keys[len(keys) - added :])
    faiss.omp_set_num_threads(1)
    _progress(f"memstore for {target}: built in {time.perf_counter() - start:.0f} s")
    return memory


def _changes(rows: int) -> tuple[Slots, Slots, int]:
    """Slots erased, slots rewritten, and how many rows are added to make `FRESH` fresh ones."""
    some = np.random.default_rng(1).permutation(rows)
    erased, rewritten = some[: rows // 100], some[rows // 100 : rows // 50]
    # So many rewritten rows are sealed at once, fewer stay fresh.
    stay = len(rewritten) if len(rewritten) <= IndexConfig().fresh_limit else 0
    return erased, rewritten, max(FRESH - stay, 0)


def _ours(memory: Memory, live: Slots, truth: Truth) -> Sweep:
    def ask(effort: int) -> tuple[Slots, float]:
        return _asked(memory, live, truth.queries_QD, SearchOptions(probe=effort))

    state = memory.describe().shards[0]
    target = memory.config.index_config.recall_target
    # A walk keeps no fewer rows in view than are wanted.
    least, way = (K, "walks") if state.walked else (1, "lists")
    return Sweep(f"memstore for {target} by {way}", ask, truth, least, max(state.clusters, 4_096))


def _asked(
    memory: Memory, live: Slots, asked: Array, options: SearchOptions
) -> tuple[Slots, float]:
    """Searches in batches; gives places among the live rows, and the seconds of searching."""
    start = time.perf_counter()
    parts = [
        memory.search(asked[first : first + BATCH], K, options).slots_QK
        for first in range(0, len(asked), BATCH)
    ]
    seconds = time.perf_counter() - start
    slots_QK = np.concatenate(parts)
    return np.where(slots_QK < 0, slots_QK, np.searchsorted(live, slots_QK)), seconds


def _theirs(peer: Peer, contender: Contender, truth: Truth) -> Callable[[int], tuple[Slots, float]]:
    def ask(effort: int) -> tuple[Slots, float]:
        return peer.search(truth.queries_QD, K, contender.effort(effort), BATCH)

    return ask


def _chosen(state: memstore.memory.ShardDescription) -> str:
    measured = "unmeasured" if state.recall is None else f"measured {state.recall:.3f}"
    if state.walked:
        return f"a walk with {state.probe} rows in view, {measured}"
    return f"probe {state.probe} of {state.clusters}, alpha {state.alpha}, {measured}"


def _curve(rows: int, label: str, sweeps: Iterable[Sweep]) -> Curve:
    """The best that any setting did, from a recall that is of use."""
    points = [point for sweep in sweeps for point in sweep.points if point[0] >= 0.8]
    plot = f"{rows:,} rows of {WIDTH}, one thread, batch {BATCH}"
    return Curve(plot, label, f"recall@{K}", "queries/s", frontier(points), log_y=True)


def _progress(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    tell(measure(int(sys.argv[1]), tuple(sys.argv[2:])))
