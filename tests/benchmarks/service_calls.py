"""The service beside the engine: searches, rows read and rows updated through gRPC.

The server is a process of its own, the load another; each has one thread to search with, and shares
two cores with the other. The embedded figures are of the same store, before it is served. Callers
are threads of the load, each of which waits for its answer; coalescing is compared with a server
that searches for each call by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig
from memstore.memory import Array, Memory
from tests.benchmarks.alone import ONE_THREAD, measured_alone, tell
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.runner import Figure, Measured, at_least, at_most

K, BATCH, CALLERS = 10, 64, 64
GATHERED, UPDATED = 1_024, 8_192


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread."""
    yield from measured_alone("tests.benchmarks.service_calls", 50_000 if quick else 1_000_000)


def measure(rows: int) -> Iterator[Measured]:
    """Fills a store, times it embedded, then through a server."""
    keys_ND, queries_QD = mixture(rows, 2_048)
    rng = np.random.default_rng(0)
    slots_B, few_B = rng.integers(0, rows, UPDATED), rng.integers(0, rows, GATHERED)
    grads_BD = rng.standard_normal((UPDATED, WIDTH), np.float32) * np.float32(1e-6)
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
            one_s, many_s = _searches(memory, queries_QD, 1), _searches(memory, queries_QD, BATCH)
        with _served(folder) as address, memstore.connect(address) as client:
            remote = client.memory("m")
            yield from _beside(remote, queries_QD, case, one_s, many_s)
            gathered_s = _median(lambda: remote.gather(few_B), 100)
            name = f"{case}; {GATHERED:,} rows a call"
            yield Figure("gather_rate", name, GATHERED / gathered_s, "rows/s")
            updated_s = _median(lambda: remote.update(slots_B, grads_BD, lr=1e-3), 30)
            name = f"{case}; {UPDATED:,} rows a call, row-wise Adagrad, updates=checkpointed"
            rate = Figure("update_rate", name, UPDATED / updated_s, "rows/s")
            yield at_least(300_000, rate)
            together = _callers(remote, queries_QD)
        with (
            _served(folder, "--search-lanes", "0") as address,
            memstore.connect(address) as client,
        ):
            apart = _callers(client.memory("m"), queries_QD)
        words = f"{case}; 1 query a call, {CALLERS} callers; peer: none searched as one"
        yield at_least(1.5, Figure("coalesced_rate", words, together, "queries/s", apart))


def _beside(
    remote: Memory, queries_QD: Array, case: str, one_s: float, many_s: float
) -> Iterator[Figure]:
    remote_s = _searches(remote, queries_QD, BATCH)
    words = f"{case}; {BATCH} queries a call; peer: embedded"
    rate = Figure("search_rate", words, BATCH / remote_s, "queries/s", BATCH / many_s)
    yield at_least(0.9, rate)
    added_ms = 1e3 * (_searches(remote, queries_QD, 1) - one_s)
    words = f"{case}; 1 query a call, beyond embedded ({1e3 * one_s:.2f} ms)"
    yield at_most(0.5, Figure("search_p50_added", words, added_ms, "ms"))


def _searches(memory: Memory, queries_QD: Array, batch: int) -> float:
    """Seconds of a call, the median."""
    firsts = iter(np.arange(10**6) * batch % (len(queries_QD) - batch))

    def ask() -> None:
        first = int(next(firsts))
        memory.search(queries_QD[first : first + batch], K)

    return _median(ask, 300)


def _callers(memory: Memory, queries_QD: Array, seconds: float = 4.0) -> float:
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
    time.sleep(seconds)
    rate = (sum(counts) - before) / (time.perf_counter() - begun)
    stop.set()
    for thread in threads:
        thread.join()
    return rate


@contextlib.contextmanager
def _served(folder: str, *options: str) -> Iterator[str]:
    """The address of a server of the store, in a process of its own."""
    command = [sys.executable, "-m", "memstore.cli", "serve", folder, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=os.environ | dict(ONE_THREAD),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _median(work: Callable[[], Any], times: int) -> float:
    for _ in range(10):
        work()
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


if __name__ == "__main__":
    tell(measure(int(sys.argv[1])))
