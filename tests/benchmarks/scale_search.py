"""Search among as many facts as Freebase FB5M has, k = 32, beside an exact search of all.

The facts are ingested and their index is tuned, as for a network: queries are keys of facts drawn
by chance, with noise of a third of their length. Recall is the share of the 32 found whose score is
no less than the true 32nd.

    python -m tests.benchmarks.scale_search 100000 1000000      # other numbers of facts
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import memstore
from memstore import SearchOptions
from memstore.memory import Array, Memory, SearchResult
from tests.benchmarks.runner import Figure, at_least, at_most
from tests.benchmarks.synthetic import FULL, case_of, stored
from workers.ingest import Layout

K, BATCH = 32, 64
NOISE = 0.33
TUNING, JUDGED, TIMED = 2_048, 256, 4_096
"""Queries that the index is tuned on, that are searched exactly too, and that are timed."""

WANTED = SearchOptions(recall_target=0.98)
"""Recall is tuned for ten rows; of 32 somewhat less is found."""

DIM = 64
LEAST_RECALL, LEAST_RATE, MOST_SCORED = 0.95, 2_500, 0.001


def run(quick: bool) -> Iterator[Figure]:
    """Measures FB5M's number of facts, or 100,000."""
    yield from measure(100_000 if quick else FULL, targets=not quick)


def measure(facts: int, *, targets: bool) -> Iterator[Figure]:
    """Measures so many facts."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".search-") as folder:
        report = stored(facts, Path(folder), Layout(dim=DIM))
        with memstore.open(Path(folder) / "store") as store:
            yield from _measured(store.memory("facts"), case_of(report, DIM), targets=targets)


def _measured(memory: Memory, case: str, *, targets: bool) -> Iterator[Figure]:
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    _ask(memory, _queries(rng, memory, TUNING))
    memory.reindex()
    yield Figure("tuning_s", f"{case}, clustered anew and tuned", time.perf_counter() - start, "s")
    judged_QD = _queries(rng, memory, JUDGED)
    start = time.perf_counter()
    exact = _ask(memory, judged_QD, SearchOptions(exact=True))
    exact_rate = JUDGED / (time.perf_counter() - start)
    found = _ask(memory, judged_QD, WANTED)
    floor_Q = np.concatenate([part.scores_QK[:, -1] for part in exact])[:, None]
    scores_QK = np.concatenate([part.scores_QK for part in found])
    recall = float((scores_QK >= floor_Q - 1e-6 * np.abs(floor_Q)).mean())
    asked_QD = _queries(rng, memory, TIMED)
    start = time.perf_counter()
    timed = _ask(memory, asked_QD, WANTED)
    rate = TIMED / (time.perf_counter() - start)
    rows = memory.describe().rows
    scored = float(np.concatenate([part.scored_Q for part in timed]).mean()) / rows
    state = memory.describe().shards[0]
    case = f"{case}, k {K}, batch {BATCH}, {state.clusters:,} clusters"
    figures = {
        "recall": Figure("recall", case, recall, "share"),
        "rate": Figure("rate", case, rate, "queries/s"),
        "scored": Figure("scored", f"{case}, of all rows", scored, "share"),
    }
    if targets:
        figures["recall"] = at_least(LEAST_RECALL, figures["recall"])
        figures["rate"] = at_least(LEAST_RATE, figures["rate"])
        figures["scored"] = at_most(MOST_SCORED, figures["scored"])
    yield from figures.values()
    yield Figure("beside_exact", f"{case}; peer: exact search", rate, "queries/s", exact_rate)


def _queries(rng: np.random.Generator, memory: Memory, count: int) -> Array:
    """Keys of facts drawn by chance, with noise."""
    slots = rng.integers(0, memory.describe().next_slot, count)
    keys_QD = memory.gather(slots).keys_BD
    assert keys_QD is not None
    keys_QD = np.asarray(keys_QD, np.float32)
    noise_QD = rng.standard_normal(keys_QD.shape, np.float32)
    noise_QD *= NOISE * np.linalg.norm(keys_QD, axis=1, keepdims=True)
    return keys_QD + noise_QD / np.sqrt(np.float32(keys_QD.shape[1]))


def _ask(
    memory: Memory, queries_QD: Array, options: SearchOptions = SearchOptions()
) -> list[SearchResult]:
    return [
        memory.search(queries_QD[first : first + BATCH], K, options)
        for first in range(0, len(queries_QD), BATCH)
    ]


if __name__ == "__main__":
    for number in sys.argv[1:]:
        for figure in measure(int(number), targets=False):
            print(figure, flush=True)
