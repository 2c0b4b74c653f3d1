"""The service beside whole servers: Chroma, pgvector, Milvus Lite, LanceDB and Redis vector sets.

One caller that waits for each answer, in a process of its own under each server's own client:
memstore over gRPC, Chroma over HTTP, pgvector by psycopg over a Unix socket (64 queries are one
pipeline of a prepared statement), Milvus Lite as `milvus-lite server` over gRPC, Redis by redis-py
with hiredis (64 queries are one pipeline). LanceDB has no server that is free to run, and is
embedded in the process that asks. Thread pools of OpenMP and numba, which are memstore's and those
of faiss in Milvus Lite, have one thread: two that wait for each other on two cores beside the load
take longer. What reads no such variable uses all cores.

All hold the same rows, whose norms differ, and find the ten of highest inner product; the set is
that of `engine_search`, with no changes. At each level of recall every one works at the least
effort that reaches it, and is timed against memstore by turns. An upsert is 64 rows that are there
already and the one search that follows, in which they are to be seen; then it is asked for all 64.
What may be lost with the power is a second at most everywhere.

Filled servers of peers are kept for the next run: see `peers.client.scratch`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions
from memstore.memory import Array, Memory, Slots
from memstore.rpc.client import Client
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.peers.client import Keys, Peer, PeerFailed
from tests.benchmarks.runner import (
    Figure,
    Measured,
    Missing,
    Unavailable,
    at_least,
    paired_seconds,
)
from tests.benchmarks.served import served
from tests.benchmarks.sweeps import Sweep, Truth

K, BATCH, SEEN = 10, 64, 2_048
LEVELS = (0.95, 0.98)
"""Of recall; the first one is also that of the memory that rows are upserted to."""

TRIED, TURN_S = 8, 1.0
"""Queries asked one by one: of the peer first so many, then as many as take it about a turn."""

SMALL, LARGE = 100_000, 1_000_000
UPSERTED, NORM = 64, 4.5
"""Rows of an upsert, and their norm: beyond all but a thousandth, so that each is the nearest to
itself, and below the largest."""

SEES = 0.95
"""Of the rows just upserted, the share that must be found by their own keys: indexes that are not
exact lose some, whenever they were written."""


@dataclass(frozen=True)
class Contender:
    """A server: its module, and what its knob may be."""

    name: str
    engine: str
    least: int = K
    most: int = 2_048
    options: dict[str, Any] = field(default_factory=dict)


CONTENDERS = (
    Contender("Chroma", "servers.chroma"),
    Contender("pgvector", "servers.pgvector", most=1_000),
    Contender("Milvus Lite", "servers.milvus"),
    Contender("LanceDB", "servers.lance"),
    Contender("Redis", "servers.redis_sets"),
)


def run(quick: bool) -> Iterator[Measured]:
    """Measures each size in a process of its own, of which the load has one thread."""
    for rows in (2_000,) if quick else (SMALL, LARGE):
        yield from measured_alone("tests.benchmarks.service_peers", rows)


def measure(rows: int, names: tuple[str, ...] = ()) -> Iterator[Measured]:
    """Fills a store with a memory a level, serves it, and sets each server against it.

    names: of the servers, all where there are none.
    """
    keys_ND, queries = mixture(rows, SEEN + (1_024 if rows >= SMALL else 256))
    seen, asked = queries[:SEEN], queries[SEEN:]
    floor_Q = faiss.knn(asked, keys_ND, K, metric=faiss.METRIC_INNER_PRODUCT)[0][:, -1]
    truth = Truth(asked, keys_ND, floor_Q)
    shared = Keys(keys_ND)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".service_peers-") as folder:
        begun = time.perf_counter()
        _fill(folder, keys_ND, seen)
        print(f"memstore: filled in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        with (
            served(folder) as address,
            memstore.connect(address) as client,
        ):
            ours = {level: _ours(client, level, truth) for level in _levels(rows)}
            for contender in CONTENDERS:
                if not names or contender.name in names:
                    yield from _against(contender, rows, ours, client, truth, shared)


def _levels(rows: int) -> tuple[float, ...]:
    return LEVELS if rows >= SMALL else LEVELS[:1]


def _rounds(rows: int) -> int:
    return 9 if rows >= SMALL else 3


def _fill(folder: str, keys_ND: Array, seen: Array) -> None:
    with memstore.open(folder) as store:
        for level in _levels(len(keys_ND)):
            index = IndexConfig(kind="auto", recall_target=level)
            memory = store.create(f"at-{level}", MemoryConfig(dim=WIDTH, index=index))
            memory.append(keys_ND)
            for first in range(0, len(seen), BATCH):
                memory.search(seen[first : first + BATCH], K)
            memory.reindex()


def _ours(client: Client, level: float, truth: Truth) -> Sweep:
    memory = client.memory(f"at-{level}")
    state = memory.describe().shards[0]
    way = "walks" if state.walked else "lists"

    def ask(effort: int) -> tuple[Slots, float]:
        return _asked(memory, truth.queries_QD, effort, BATCH)

    # A walk keeps no fewer rows in view than are wanted.
    return Sweep(
        f"memstore by {way}", ask, truth, K if state.walked else 1, max(state.clusters, 4_096)
    )


def _asked(memory: Memory, asked: Array, effort: int, batch: int) -> tuple[Slots, float]:
    options, start = SearchOptions(probe=effort), time.perf_counter()
    parts = [
        memory.search(asked[first : first + batch], K, options).slots_QK
        for first in range(0, len(asked), batch)
    ]
    return np.concatenate(parts), time.perf_counter() - start


def _against(
    contender: Contender,
    rows: int,
    ours: dict[float, Sweep],
    client: Client,
    truth: Truth,
    shared: Keys,
) -> Iterator[Measured]:
    case = f"{rows:,} x {WIDTH}, k {K}"
    try:
        with Peer(contender.engine, shared, **contender.options) as peer:
            print(f"{peer.about}: filled in {peer.build_s:.0f} s", file=sys.stderr, flush=True)

            def ask(effort: int) -> tuple[Slots, float]:
                return peer.search(truth.queries_QD, K, effort, BATCH)

            theirs = Sweep(peer.about, ask, truth, contender.least, contender.most)
            for level, sweep in ours.items():
                yield from _at_level(rows, case, level, sweep, client, peer, theirs)
            yield _upserts(case, client.memory(f"at-{LEVELS[0]}"), peer, shared, truth)
    except (Unavailable, PeerFailed) as missing:
        yield Missing(contender.name, str(missing))


def _at_level(
    rows: int, case: str, level: float, ours: Sweep, client: Client, peer: Peer, theirs: Sweep
) -> Iterator[Measured]:
    """Times both at their least efforts, by turns, 64 queries a call and one."""
    mine, other = ours.reaching(level), theirs.reaching(level)
    if mine is None or other is None:
        sweep = ours if mine is None else theirs
        most = max(recall for recall, _ in sweep.points)
        words = f"{case}; {sweep.name} reaches no {level}"
        yield Figure("service_recall", words, most, "share")
        return
    words = (
        f"{ours.name} at {mine}: {ours.at(mine)[0]:.4f}; peer: "
        f"{theirs.name} at {other}: {theirs.at(other)[0]:.4f}"
    )
    memory, asked = client.memory(f"at-{level}"), ours.truth.queries_QD
    rounds = _rounds(rows)
    timed = paired_seconds(lambda: ours.ask(mine)[1], lambda: theirs.ask(other)[1], rounds)
    yield at_least(
        3.0 if rows >= LARGE else 2.0,
        _rate(
            f"service_search_rate_at_{level}", f"{case}, {BATCH} a call; {words}", len(asked), timed
        ),
    )
    tried_s = peer.search(asked[:TRIED], K, other, 1)[1] / TRIED
    one_by_one = asked[: int(np.clip(TURN_S / tried_s, TRIED, len(asked) // 8))]
    timed = paired_seconds(
        lambda: _asked(memory, one_by_one, mine, 1)[1],
        lambda: peer.search(one_by_one, K, other, 1)[1],
        rounds,
    )
    name = f"service_single_rate_at_{level}"
    yield at_least(1.5, _rate(name, f"{case}, 1 a call; {words}", len(one_by_one), timed))


def _rate(name: str, case: str, asked: int, timed: Any) -> Figure:
    rate, other = asked / timed.a_s, asked / timed.b_s
    return Figure(name, case, rate, "queries/s", other, ratio=1 / timed.ratio)


def _upserts(case: str, memory: Memory, peer: Peer, shared: Keys, truth: Truth) -> Measured:
    """Times rows replaced until a search has them, by turns, and looks for all of them."""
    rng = np.random.default_rng(3)
    found: dict[str, list[float]] = {"memstore": [], peer.about: []}

    def drawn() -> tuple[Slots, Array]:
        slots_B, others_B = rng.choice(len(truth.keys_ND), (2, UPSERTED), replace=False)
        keys_BD = truth.keys_ND[others_B]
        norms_B1 = np.linalg.norm(keys_BD, axis=1, keepdims=True)
        return slots_B, keys_BD * (np.float32(NORM) / norms_B1)

    def ours() -> float:
        slots_B, keys_BD = drawn()
        seconds = _seconds(lambda: (memory.write(slots_B, keys_BD), memory.search(keys_BD[:1], K)))
        found["memstore"].append(_share(slots_B, memory.search(keys_BD, K).slots_QK))
        return seconds

    def theirs() -> float:
        slots_B, keys_BD = drawn()
        ids_BK, seconds = peer.upsert(slots_B, keys_BD, K)
        found[peer.about].append(_share(slots_B, ids_BK))
        return seconds

    timed = paired_seconds(ours, theirs, _rounds(len(truth.keys_ND)))
    shares = {name: float(np.mean(some)) for name, some in found.items()}
    words = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
    words = (
        f"{case}; {UPSERTED} rows there already and one search; peer: {peer.about}; seen: {words}"
    )
    figure = Figure(
        "service_upsert_time", words, 1e3 * timed.a_s, "ms", 1e3 * timed.b_s, ratio=1 / timed.ratio
    )
    return at_least(3.0, figure) if shares[peer.about] >= SEES else figure


def _share(slots_B: Slots, found_BK: Slots) -> float:
    return float((found_BK == slots_B[:, None]).any(axis=1).mean())


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    tell(measure(int(sys.argv[1]), tuple(sys.argv[2:])))
