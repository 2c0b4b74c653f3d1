"""Writing rows that the next search finds, beside replacing them in hnswlib, usearch and faiss.

A write is 64 rows of a memory, overwritten: the time of `Memory.write` and what it adds to the
next search, so that nothing put off goes uncounted. The peers replace the same number of rows in
place: hnswlib updates points, usearch removes and adds, faiss takes `update_vectors` on inverted
lists with a map of ids. Each is paired with memstore by turns, one thread each.

Then memstore is written to without a pause, sealing as it goes, while another thread asks for 64
queries ten times a second.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np

import memstore
from memstore import MemoryConfig, SearchOptions
from memstore.errors import MemstoreError
from memstore.memory import Array, Memory
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.engine_search import FRESH, live_rows
from tests.benchmarks.peers.client import Keys, Peer, PeerFailed
from tests.benchmarks.runner import Figure, Measured, Missing, Unavailable, at_least, paired_seconds

K, BATCH, ROUNDS, PUT_OFF_ROUNDS = 10, 64, 40, 50
SUPPLY, SEEN, ASKED = 65_536, 2_048, 256
"""New keys that are written over and over; queries that memories are tuned on, and measured by."""

EVERY_S = 0.1
CORES = os.cpu_count() or 1

PEERS: tuple[tuple[str, str, dict[str, Any], float], ...] = (
    ("hnswlib replace", "hnsw", {}, 20.0),
    ("usearch remove and add", "usearch", {}, 20.0),
    ("faiss update_vectors", "ivf", {"codec": "Flat"}, 3.0),
    ("faiss update_vectors", "ivf", {"codec": "SQ8"}, 3.0),
)
"""What it is called, the module and options of `Peer`, and how many times as fast memstore is
to be, at a million rows."""

LARGE = 1_000_000


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread."""
    rows, seconds = (20_000, 3) if quick else (LARGE, 600)
    yield from measured_alone("tests.benchmarks.engine_write", rows, seconds)


def measure(rows: int, seconds: float) -> Iterator[Measured]:
    """Sets each peer against a memory of equal rows, then writes to the memory on and on."""
    # The rows that `engine_search` ends with, so that its peers need not be built again.
    keys, queries = mixture(rows + rows // 100 + FRESH, SEEN + ASKED + SUPPLY)
    _, keys_ND = live_rows(keys, rows)
    large, rows = rows >= LARGE, len(keys_ND)
    lengths_N1 = np.random.default_rng(2).lognormal(0.0, 0.5, (SUPPLY, 1))
    supply_ND = queries[-SUPPLY:] * lengths_N1.astype(np.float32)
    case = f"{BATCH} rows of {WIDTH} in {len(keys_ND):,}, 1 thread"
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        faiss.omp_set_num_threads(CORES)
        memory = store.create("m", MemoryConfig(dim=WIDTH))
        memory.append(keys_ND)
        for first in range(0, SEEN, BATCH):
            memory.search(queries[first : first + BATCH], K)
        memory.reindex()
        faiss.omp_set_num_threads(1)
        write = _writes(memory, rows, supply_ND, queries[:SEEN])
        replaced: dict[str, tuple[float, float | None]] = {}
        shared = Keys(keys_ND)
        for name, engine, options, bound in PEERS:
            if engine == "ivf":
                options = {**options, "clusters": 2 ** round(np.log2(2 * rows**0.5))}
            try:
                with Peer(engine, shared, CORES, **options) as peer:
                    replace = _replaces(peer, rows, supply_ND)
                    timed = paired_seconds(write, replace, ROUNDS)
                    words = f"{case}; peer {name}: {peer.about}"
            except (Unavailable, PeerFailed) as missing:
                yield Missing(name, str(missing))
                continue
            figure = Figure(
                "write_rate",
                words,
                BATCH / timed.a_s,
                "rows/s",
                BATCH / timed.b_s,
                ratio=1 / timed.ratio,
            )
            yield at_least(bound, figure) if large else figure
            replaced[words] = BATCH / timed.b_s, bound if large else None
        yield from _sustained(memory, rows, supply_ND, queries[:-SUPPLY], seconds, replaced)


def _writes(memory: Memory, rows: int, supply_ND: Array, seen_QD: Array) -> Callable[[], float]:
    """One write of `BATCH` rows: seconds of the call, and what a write adds to the next search.

    The addition is the difference of two medians: a search is as long as the write itself, and one
    difference says nothing.
    """
    draws = _draws(rows, supply_ND, 1)
    queries = itertools.cycle(seen_QD[:, None])

    def search() -> float:
        query_1D = next(queries)
        return _seconds(lambda: memory.search(query_1D, K))

    def write() -> float:
        slots, new_BD = next(draws)
        return _seconds(lambda: memory.write(slots, new_BD))

    # The tier of rows that are not sealed is as full as it is on average.
    while memory.describe().shards[0].fresh < memory.config.index_config.fresh_limit // 2:
        write()
    searches = [(write(), search(), search())[1:] for _ in range(PUT_OFF_ROUNDS)]
    first_s, again_s = np.median(searches, axis=0)
    put_off_s = max(first_s - again_s, 0.0)
    print(f"a write puts off {1e3 * put_off_s:.3f} ms to the next search", file=sys.stderr)
    slots, new_BD = next(draws)
    memory.write(slots, new_BD)
    found = memory.search(new_BD * 100, 1).scores_QK[:, 0]
    own_B = 100 * np.einsum("bd,bd->b", new_BD, new_BD)
    if (found < own_B * (1 - 1e-5)).any():
        raise RuntimeError("a search did not see the rows that were written before it")
    return lambda: write() + put_off_s


def _replaces(peer: Peer, rows: int, supply_ND: Array) -> Callable[[], float]:
    draws = _draws(rows, supply_ND, 1)
    return lambda: peer.replace(*next(draws))


def _sustained(
    memory: Memory,
    rows: int,
    supply_ND: Array,
    queries_QD: Array,
    seconds: float,
    replaced: dict[str, tuple[float, float | None]],
) -> Iterator[Figure]:
    """Writes for so many seconds while searches go on beside it.

    replaced: peer → rows that it replaces a second, and how many times as fast memstore is to be.
    """
    seen_QD, judged_QD = queries_QD[:SEEN], queries_QD[SEEN:]
    asked, done, turned_away = _Asking(memory, seen_QD), 0, 0
    calm = [asked.once() for _ in range(100)]
    draws = _draws(rows, supply_ND, 2)
    with asked:
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            slots, new_BD = next(draws)
            try:
                memory.write(slots, new_BD)
            except MemstoreError as refused:
                if not refused.retryable:
                    raise
                turned_away += 1
                continue
            done += len(slots)
        spent = time.perf_counter() - start
    rate = done / spent
    state = memory.describe().shards[0]
    case = f"{BATCH} rows of {WIDTH} in {rows:,}, sealing included, for {spent:.0f} s"
    words = f"{case}; {done:,} rows, {turned_away} calls turned away"
    yield Figure("sustained_write_rate", words, rate, "rows/s")
    for words, (theirs, bound) in replaced.items():
        beside = Figure("sustained_write_rate", f"{case}; beside {words}", rate, "rows/s", theirs)
        yield beside if bound is None else at_least(bound, beside)
    for share in (50, 99):
        yield Figure(
            f"search_p{share}",
            f"{BATCH} queries, while writing; peer: with no write; {len(asked.took)} calls",
            1e3 * float(np.percentile(asked.took, share)),
            "ms",
            1e3 * float(np.percentile(calm, share)),
        )
    exact = memory.search(judged_QD, K, SearchOptions(exact=True)).scores_QK[:, -1:]
    scores_QK = memory.search(judged_QD, K).scores_QK
    recall = float((scores_QK >= exact - 1e-6 * np.abs(exact)).mean())
    words = f"after it: {state.fresh:,} fresh, {state.segments} segments, {state.sealed:,} sealed"
    yield Figure("recall", words, recall, "share")


class _Asking:
    """Searches every `EVERY_S` in a thread of its own until it is left; `took` holds seconds."""

    def __init__(self, memory: Memory, queries_QD: Array) -> None:
        self.took: list[float] = []
        self._memory = memory
        self._batches = itertools.cycle(np.split(queries_QD, len(queries_QD) // BATCH))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def once(self) -> float:
        batch_QD = next(self._batches)
        return _seconds(lambda: self._memory.search(batch_QD, K))

    def _ask(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.took.append(self.once())

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _draws(rows: int, supply_ND: Array, seed: int) -> Iterator[tuple[Array, Array]]:
    """Distinct slots, and keys that were not there before; the same ones for an equal seed."""
    rng = np.random.default_rng(seed)
    while True:
        slots = rng.choice(rows, BATCH, replace=False, shuffle=False).astype(np.int64)
        yield slots, supply_ND[rng.integers(0, len(supply_ND), BATCH)]


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    tell(measure(int(sys.argv[1]), float(sys.argv[2])))
