"""Search while another thread trains: how long a query takes beside updates, and beside none.

Both are measured in one run, in turns, so that they see the same noise of the machine. A query
shares processors, caches and the interpreter with the updates, and waits for none of them.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator

import numpy as np

import memstore
from memstore import Memory, MemoryConfig
from memstore.memory import Array
from tests.benchmarks.data import mixture
from tests.benchmarks.runner import Figure

WIDTH, BATCH, K = 64, 8_192, 10
TURNS = 8


def run(quick: bool) -> Iterator[Figure]:
    """Times single queries, with and without a thread that updates as fast as it can."""
    rows, searches = (50_000, 100) if quick else (500_000, 400)
    keys_ND, queries_QD = mixture(rows, 256, width=WIDTH)
    grads_BD = np.random.default_rng(0).normal(scale=1e-4, size=(BATCH, WIDTH)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        memory = store.create("rows", MemoryConfig(dim=WIDTH))
        memory.append(keys_ND)
        memory.reindex()
        for first in range(0, rows, BATCH):
            some = np.arange(first, min(first + BATCH, rows))
            memory.update(some, grads_BD[: len(some)])
        alone, beside, updates = _measure(memory, queries_QD, grads_BD, rows, searches)
        # What closing would write is of no use to anybody.
        store.drop("rows")
    case = f"one query, k={K}, {rows:,} rows of {WIDTH}; beside updates of {BATCH:,}; peer: idle"
    for percent in (50, 99):
        mixed_ms, idle_ms = (float(np.percentile(part, percent)) * 1e3 for part in (beside, alone))
        yield Figure(f"search_p{percent}_beside_updates", case, mixed_ms, "ms", idle_ms)
    yield Figure("update_rate_beside_searches", case.partition(";")[0], updates, "rows/s")


def _measure(
    memory: Memory, queries_QD: Array, grads_BD: Array, rows: int, searches: int
) -> tuple[list[float], list[float], float]:
    """Seconds of each search alone and beside updates, and rows updated a second meanwhile."""
    rng, updated, updating_s = np.random.default_rng(1), 0, 0.0
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(2 * TURNS):
        done = threading.Event()

        def update(done: threading.Event = done) -> None:
            nonlocal updated
            while not done.is_set():
                memory.update(rng.integers(0, rows, len(grads_BD)), grads_BD)
                updated += len(grads_BD)

        writer = threading.Thread(target=update)
        if turn % 2:
            writer.start()
        begun = time.perf_counter()
        for i in range(searches):
            query_QD = queries_QD[i % len(queries_QD)][None]
            start = time.perf_counter()
            memory.search(query_QD, K)
            times[turn % 2].append(time.perf_counter() - start)
        if turn % 2:
            done.set()
            writer.join()
            updating_s += time.perf_counter() - begun
    return times[0], times[1], updated / updating_s
