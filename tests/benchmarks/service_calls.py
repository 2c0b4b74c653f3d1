"""The service beside the engine: searches, rows read and rows updated through gRPC.

The server is a process of its own, the load another; each has one thread to search with, and shares
two cores with the other. The embedded figures are of the same store, before it is served. One who
trains has the next searches under way over a session while it waits for the first; who asks once
waits for the way there and back, of which a bare echo of gRPC tells how much is not ours. Callers
are threads of the load, each of which waits for its answer; coalescing is compared with a server
that searches for each call by itself.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig
from memstore.memory import Array, Memory
from memstore.rpc.client import Client
from tests.benchmarks import echo
from tests.benchmarks.alone import ONE_THREAD, measured_alone, tell
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.runner import Figure, Measured, at_least, at_most
from tests.benchmarks.served import median_s, served

K, BATCH, CALLERS = 10, 64, 64
GATHERED, UPDATED = 1_024, 8_192

UNDER_WAY = 8
"""Searches that a trainer has asked for ahead."""

TIMES, SECONDS = 300, 4.0
"""Calls of which the median is taken; for rates, how long they are counted."""


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread."""
    yield from measured_alone("tests.benchmarks.service_calls", 50_000 if quick else 1_000_000)


def measure(rows: int) -> Iterator[Measured]:
    """Fills a store, times it embedded, then through a server."""
    keys_ND, queries_QD = mixture(rows, 2_048)
    case = f"{rows:,} x {WIDTH} float32"
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".service-") as folder:
        index = IndexConfig(recall_target=0.95)
        config = MemoryConfig(dim=WIDTH, index=index, optimizer="rowwise_adagrad")
        with memstore.open(folder) as store:
            memory = store.create("m", config)
            memory.append(keys_ND)
            for first in range(0, len(queries_QD), BATCH):
                memory.search(queries_QD[first : first + BATCH], K)
            memory.reindex()
            one_s, many_s = (
                median_s(_asking(memory.search, queries_QD, batch), TIMES) for batch in (1, BATCH)
            )
        with (
            served(folder, "--search-lanes", "1", variables=ONE_THREAD) as address,
            memstore.connect(address) as client,
            client.session() as session,
        ):
            yield from _batches(client, session, queries_QD, case, many_s)
            yield from _alone(client, session, queries_QD, case, one_s)
            yield from _rows(client.memory("m"), rows, case)
        rates = []
        for lanes in ("1", "0"):
            with (
                served(folder, "--search-lanes", lanes, variables=ONE_THREAD) as address,
                memstore.connect(address) as client,
            ):
                rates.append(_callers(client.memory("m"), queries_QD))
        together, apart = rates
        words = f"{case}; 1 query a call, {CALLERS} callers; peer: none searched as one"
        yield at_least(1.5, Figure("coalesced_rate", words, together, "queries/s", apart))


def _batches(
    client: Client, session: Any, queries_QD: Array, case: str, embedded_s: float
) -> Iterator[Figure]:
    """Searches of many queries: asked for ahead, and one by one."""
    embedded = BATCH / embedded_s
    ahead = BATCH / _ahead_s(session.memory("m"), queries_QD)
    words = f"{case}; {BATCH} queries a call, {UNDER_WAY} under way; peer: embedded"
    yield at_least(0.9, Figure("search_rate", words, ahead, "queries/s", embedded))
    alone_s = median_s(_asking(client.memory("m").search, queries_QD, BATCH), TIMES)
    words = f"{case}; {BATCH} queries a call, one after the other; peer: embedded"
    yield Figure("search_rate", words, BATCH / alone_s, "queries/s", embedded)


def _alone(
    client: Client, session: Any, queries_QD: Array, case: str, embedded_s: float
) -> Iterator[Figure]:
    """What a single query takes beyond embedded, and a call of gRPC that does nothing."""
    ways = (
        ("a call of its own", client, echo.unary_s),
        ("over a session", session, echo.stream_s),
    )
    for way, there, bare_s in ways:
        took_s = median_s(_asking(there.memory("m").search, queries_QD, 1), TIMES)
        words = f"{case}; 1 query, {way}, beyond embedded ({1e3 * embedded_s:.2f} ms)"
        yield at_most(0.5, Figure("search_p50_added", words, 1e3 * (took_s - embedded_s), "ms"))
        yield Figure("echo_p50", f"nothing done, {way}", 1e3 * bare_s(), "ms")


def _rows(memory: Memory, rows: int, case: str) -> Iterator[Figure]:
    rng = np.random.default_rng(0)
    slots_B, few_B = rng.integers(0, rows, UPDATED), rng.integers(0, rows, GATHERED)
    grads_BD = rng.standard_normal((UPDATED, WIDTH), np.float32) * np.float32(1e-6)
    gathered_s = median_s(lambda: memory.gather(few_B), 100)
    words = f"{case}; {GATHERED:,} rows a call"
    yield Figure("gather_rate", words, GATHERED / gathered_s, "rows/s")
    updated_s = median_s(lambda: memory.update(slots_B, grads_BD, lr=1e-3), 30)
    words = f"{case}; {UPDATED:,} rows a call, row-wise Adagrad, updates=checkpointed"
    yield at_least(300_000, Figure("update_rate", words, UPDATED / updated_s, "rows/s"))


def _asking(search: Callable[..., Any], queries_QD: Array, batch: int) -> Callable[[], Any]:
    """Searches for other queries each time."""
    numbers = count()

    def ask() -> Any:
        first = next(numbers) * batch % (len(queries_QD) - batch)
        return search(queries_QD[first : first + batch], K)

    return ask


def _ahead_s(memory: Any, queries_QD: Array) -> float:
    """Seconds a call, where so many are under way."""
    ask, asked = _asking(memory.search_async, queries_QD, BATCH), deque[Future[Any]]()

    def call() -> None:
        asked.append(ask())
        if len(asked) >= UNDER_WAY:
            asked.popleft().result()

    for _ in range(TIMES // 2):
        call()
    begun = time.perf_counter()
    for _ in range(2 * TIMES):
        call()
    took_s = time.perf_counter() - begun
    for answer in asked:
        answer.result()
    return took_s / (2 * TIMES)


def _callers(memory: Memory, queries_QD: Array) -> float:
    """Queries a second of many callers."""
    counts, stop = [0] * CALLERS, threading.Event()

    def call(number: int) -> None:
        while not stop.is_set():
            at = (number * 31 + counts[number]) % len(queries_QD)
            memory.search(queries_QD[at : at + 1], K)
            counts[number] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    before, begun = sum(counts), time.perf_counter()
    time.sleep(SECONDS)
    rate = (sum(counts) - before) / (time.perf_counter() - begun)
    stop.set()
    for thread in threads:
        thread.join()
    return rate


if __name__ == "__main__":
    tell(measure(int(sys.argv[1])))
