"""Searches spread over servers: the rate of two beside one, and what it takes to ask eight.

Rate: an exact search of large batches computes nearly all of its time. Each server has one thread
and a core of its own; rows are as many in all. What the client takes of the two cores is in it.

Fan-out: one query of a memory so small that little is computed. Eight servers on two cores wait for
each other, which is no cost of asking them; so they are beyond a `link`, which gives what they do
time, and they are asked by turns with one that is beyond such a link too. What is added is then
what the client does: makes seven calls more, reads seven replies more, and merges. It finds its
caches cold, as after any longer work of others on its cores. On loopback, without a link, all of
it is counted, in seconds and in seconds of processor.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memstore
from memstore import MemoryConfig, SearchOptions
from memstore.memory import Array
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.parted import Parts, parted
from tests.benchmarks.runner import Figure, Measured, at_least, at_most, paired_seconds

K, BATCH = 10, 256
EXACT = SearchOptions(exact=True)

SMALL = 2_000
"""Rows of the memory of which next to nothing is computed."""

LINK_S = 0.05
"""There and back: by then eight servers on two cores have answered, if these are theirs alone."""


@dataclass(frozen=True)
class Plan:
    """rows: of the large memory.  rounds: of its searches.  times: calls of the small one, over as
    many servers as `parts` says."""

    rows: int
    rounds: int
    times: int
    parts: tuple[int, ...]


QUICK, FULL = Plan(60_000, 5, 60, (1, 8)), Plan(400_000, 15, 400, (1, 2, 4, 8))


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread."""
    yield from measured_alone("tests.benchmarks.cluster_search", *(["quick"] if quick else []))


def measure(plan: Plan) -> Iterator[Measured]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".cluster-") as folder:
        yield from _rates(Path(folder, "rate"), plan)
        yield from _linked(Path(folder, "linked"), plan.times)
        yield from _loopback(Path(folder, "loopback"), plan)


def _rates(folder: Path, plan: Plan) -> Iterator[Figure]:
    """Two servers beside one, of as many rows."""
    keys_ND, queries_QD = mixture(plan.rows, BATCH)
    with contextlib.ExitStack() as stack:
        asks = []
        for parts in (1, 2):
            servers = stack.enter_context(parted(folder / str(parts), parts, apart=True))
            memory = _memory(stack, servers, keys_ND, parts)
            asks.append((servers, lambda memory=memory: memory.search(queries_QD, K, EXACT)))
        (one, ask_one), (two, ask_two) = asks
        for ask in (ask_one, ask_two) * 2:  # what compiles and loads is no part of it
            ask()
        before, used = (one.used_s(), two.used_s()), time.process_time()
        pair = paired_seconds(_timed(ask_two), _timed(ask_one), plan.rounds)
        own = (time.process_time() - used) / (2 * (plan.rounds + 1))
        each = [
            (servers.used_s() - start) / (plan.rounds + 1)
            for servers, start in zip((one, two), before, strict=True)
        ]
    case = f"{plan.rows:,} x {WIDTH} float32, exact, {BATCH} queries a call; 2 servers; peer: 1"
    rate, peer = BATCH / pair.b_s, BATCH / pair.a_s
    yield at_least(1.5, Figure("search_rate", case, peer, "queries/s", rate, ratio=1 / pair.ratio))
    words = f"{case}; servers, a query"
    yield Figure("search_processor", words, 1e3 * each[1] / BATCH, "ms", 1e3 * each[0] / BATCH)
    words = f"{case.rpartition(';')[0]}; client, a query"
    yield Figure("search_processor", words, 1e3 * own / BATCH, "ms")
    # Beside others that take the cores the rate says little; this says what two cores could do.
    busy = Figure(
        "search_rate_bound",
        f"{case}; by the processor time of the busier server and the client",
        BATCH / (each[1] / 2 + own),
        "queries/s",
        BATCH / (each[0] + own),
    )
    yield busy


def _linked(folder: Path, times: int) -> Iterator[Figure]:
    """What asking eight takes longer than asking one, each beyond a link."""
    with contextlib.ExitStack() as stack:
        memories, servers = [], []
        for parts in (1, 8):
            there = stack.enter_context(parted(folder / str(parts), parts, link_s=LINK_S))
            servers.append(there)
            memories.append(_small(stack, there, parts))
        asks = [_one_query(memory) for memory in memories]
        seconds: list[list[float]] = [[], []]
        used = [0.0, 0.0]
        for ask in asks * 10:
            ask()
        for _ in range(times):
            for i, ask in enumerate(asks):
                begun, own = time.perf_counter(), time.process_time()
                ask()
                used[i] += time.process_time() - own
                seconds[i].append(time.perf_counter() - begun)
    late = max(there.late[0] / there.late[1] for there in servers)
    added_s = statistics.median(b - a for a, b in zip(*seconds, strict=True))
    case = f"1 query, {SMALL:,} x {WIDTH}; 8 servers"
    linked = (
        f"{case}, beyond 1, {1e3 * LINK_S:.0f} ms there and back to each, p50; "
        f"{late:.1%} of the answers too late for that"
    )
    yield at_most(1.0, Figure("fan_out_added", linked, 1e3 * added_s, "ms"))
    words = f"{case}, a link before each; client, a call; peer: 1"
    yield Figure("fan_out_processor", words, 1e3 * used[1] / times, "ms", 1e3 * used[0] / times)


def _loopback(folder: Path, plan: Plan) -> Iterator[Figure]:
    """The same on loopback, where all share two cores: with what the servers do."""
    times = plan.times
    for parts in plan.parts:
        with contextlib.ExitStack() as stack:
            servers = stack.enter_context(parted(folder / str(parts), parts))
            ask = _one_query(_small(stack, servers, parts))
            for _ in range(20):
                ask()
            there, own = servers.used_s(), time.process_time()
            took_s = statistics.median(_timed(ask)() for _ in range(times))
            there, own = servers.used_s() - there, time.process_time() - own
        case = f"1 query, {SMALL:,} x {WIDTH}; loopback, {parts} servers"
        yield Figure("fan_out_p50", case, 1e3 * took_s, "ms")
        yield Figure("fan_out_processor", f"{case}; client, a call", 1e3 * own / times, "ms")
        yield Figure("fan_out_processor", f"{case}; servers, a call", 1e3 * there / times, "ms")


def _memory(stack: contextlib.ExitStack, servers: Parts, keys_ND: Array, shards: int) -> Any:
    client = stack.enter_context(memstore.connect(servers.connected, deadline_s=300.0))
    memory = client.create("m", MemoryConfig(dim=WIDTH, shards=shards, index="exact"))
    for first in range(0, len(keys_ND), 1 << 16):
        memory.append(keys_ND[first : first + (1 << 16)])
    return memory


def _small(stack: contextlib.ExitStack, servers: Parts, shards: int) -> Any:
    return _memory(stack, servers, mixture(SMALL, 1)[0], shards)


def _one_query(memory: Any) -> Callable[[], Any]:
    _, queries_QD = mixture(1, 1_000, seed=1)
    numbers = itertools.count()

    def ask() -> Any:
        at = next(numbers) % len(queries_QD)
        return memory.search(queries_QD[at : at + 1], K, EXACT)

    return ask


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun

    return seconds


if __name__ == "__main__":
    tell(measure(QUICK if sys.argv[1:] else FULL))
