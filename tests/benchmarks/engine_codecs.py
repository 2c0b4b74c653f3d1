"""Search and bytes of the codecs that a list may hold its rows in, beside those of sq8.

One thread, batch 64, the ten rows of highest inner product among rows whose norms differ; nothing
is fresh, erased or rewritten. The memories tune themselves, each for its codec, and all for the
same recall. At each level of recall they work at the least probe that reaches it, by turns. The
bytes are those of codes and row numbers in the lists, as their files hold them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions
from memstore.config import Codec
from memstore.memory import Array, Memory, Slots
from memstore.store import Store
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.runner import Figure, Measured, paired_seconds
from tests.benchmarks.sweeps import Sweep, Truth

K, BATCH, SEEN, ASKED, ROUNDS = 10, 64, 2_048, 1_024, 9
LEVELS, TARGET = (0.95, 0.97, 0.98, 0.99), 0.95
USUAL: Codec = "sq8"


def run(quick: bool) -> Iterator[Measured]:
    """Measures each size in a process of its own."""
    for rows in (20_000,) if quick else (100_000, 1_000_000):
        yield from measured_alone("tests.benchmarks.engine_codecs", rows)


def measure(rows: int) -> Iterator[Measured]:
    keys, queries = mixture(rows, SEEN + ASKED)
    seen, asked = queries[:SEEN], queries[SEEN:]
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        codecs = get_args(Codec)
        memories = {codec: filled(store, codec, keys, seen) for codec in codecs}
        exact = memories[USUAL].search(asked, K, SearchOptions(exact=True))
        truth = Truth(asked, keys, exact.scores_QK[:, -1])
        store.checkpoint()
        held = {codec: _list_bytes(Path(folder), codec) / rows for codec in codecs}
        case = f"{rows:,} x {WIDTH}, k {K}, batch {BATCH}, 1 thread"
        sweeps = {codec: _sweep(memories[codec], truth) for codec in codecs}
        for codec in codecs:
            if codec != USUAL:
                yield Figure("bytes_per_row", f"{case}; {codec}", held[codec], "bytes", held[USUAL])
                for level in LEVELS:
                    yield _at_level(case, level, sweeps[codec], sweeps[USUAL])


def filled(store: Store, codec: Codec, keys: Array, seen: Array) -> Memory:
    """A memory tuned on the queries that it saw, all of whose rows are sealed."""
    index = IndexConfig(codec=codec, recall_target=TARGET, maintenance="inline")
    memory = store.create(codec, MemoryConfig(dim=WIDTH, index=index))
    memory.append(keys)
    for first in range(0, len(seen), BATCH):
        memory.search(seen[first : first + BATCH], K)
    memory.reindex()
    state = memory.describe().shards[0]
    print(f"{codec}: probe {state.probe} of {state.clusters}", file=sys.stderr, flush=True)
    return memory


def _list_bytes(folder: Path, codec: Codec) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"memories/{codec}/**/segment-*.faiss"))


def _sweep(memory: Memory, truth: Truth) -> Sweep:
    def ask(probe: int) -> tuple[Slots, float]:
        start = time.thread_time()
        parts = [
            memory.search(asked, K, SearchOptions(probe=probe)).slots_QK
            for asked in np.split(truth.queries_QD, ASKED // BATCH)
        ]
        return np.concatenate(parts), time.thread_time() - start

    config, state = memory.config.index_config, memory.describe().shards[0]
    return Sweep(f"{config.codec} in {state.clusters} lists", ask, truth, 1, state.clusters)


def _at_level(case: str, level: float, ours: Sweep, usual: Sweep) -> Figure:
    """Both at the least probes that reach it, or the recall where one visits every list."""
    mine, theirs = ours.reaching(level), usual.reaching(level)
    if mine is None or theirs is None:
        worse = ours if mine is None else usual
        words = f"{case}; {worse.name} does not reach {level}"
        return Figure("recall", words, worse.at(worse.most)[0], "share")
    timed = paired_seconds(lambda: ours.ask(mine)[1], lambda: usual.ask(theirs)[1], ROUNDS)
    words = f"{case}; {ours.name}, probe {mine}, beside {usual.name}, probe {theirs}"
    rates = ASKED / timed.a_s, ASKED / timed.b_s
    return Figure(
        f"search_rate_at_{level}", words, rates[0], "queries/s", rates[1], 1 / timed.ratio
    )


if __name__ == "__main__":
    tell(measure(int(sys.argv[1])))
