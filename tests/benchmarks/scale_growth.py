"""What facts cost by how many there are: to ingest, at rest, held, to search, a step over them.

Facts like those of FB5M are ingested, their keys not stored, rows in float16; their index is
clustered and tuned. They are searched as in `scale_search`. A step is one of a trainer: 256
queries, each the rows of a subject and of a relation together, read 32 facts, and what they read
is drawn to an object of the fact meant; gradients go to the rows of entities and relations. The
facts are those of the subject (key hashing), or searched for. Each number of facts is a process.

    python -m tests.benchmarks.scale_growth 100000 1000000 10000000 100000000 --plots docs/plots
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import memstore
from memstore import Store
from memstore.memory import Memory
from memstore.torch import RowOptimizer, RowTable, SparseReader, attend
from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.plots import draw
from tests.benchmarks.runner import Curve, Figure, Measured, at_least
from tests.benchmarks.scale_search import TUNING, WANTED, K, ask, queries, share_found
from tests.benchmarks.synthetic import FULL, case_of, stored
from tests.ingest.measured import resident
from workers.ingest import Layout, keeping

SIZES, QUICK_SIZES = (100_000, 1_000_000, 10_000_000, FULL), (10_000, 30_000)

DIM, JUDGED, TIMED = 64, 128, 2_048
"""Queries that are searched exactly too, and that are timed."""

QUESTIONS, OBJECTS, WARM, ROUNDS = 256, 4, 4, 20
"""Of a step; objects that a value is the mean of; steps that are not timed, and that are."""

LEAST_RECALL = 0.95

UNITS = {
    "ingest_rate": "facts/s", "ingest_peak": "bytes",
    "at_rest": "bytes", "at_rest_a_fact": "bytes", "held": "bytes", "opening_s": "s",
    "recall": "share", "scored": "share", "search_ms": "ms",
    "step_hashed_ms": "ms", "step_searched_ms": "ms", "step_search_ms": "ms",
}  # fmt: skip

PLOTS = {
    "Time by facts": ("ms", {
        "a query searched, of a batch of 64": "search_ms",
        "a step of 256 questions, key hashing": "step_hashed_ms",
        "a step of 256 questions, search": "step_searched_ms",
    }),
    "Bytes by facts": ("bytes", {
        "on disk": "at_rest", "held": "held", "the most held while ingested": "ingest_peak",
    }),
    "Rows compared by facts": ("share of all rows", {"rows and centroids a query": "scored"}),
}  # fmt: skip
"""For each plot its unit, and the figure of each line."""


def run(quick: bool) -> Iterator[Measured]:
    yield from measure(QUICK_SIZES if quick else SIZES, targets=not quick)


def measure(sizes: Sequence[int], *, targets: bool) -> Iterator[Measured]:
    """Measures each number of facts, then draws each figure by them."""
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in UNITS}
    for size in sizes:
        command = [sys.executable, "-m", "tests.benchmarks.scale_growth", "--one", str(size)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        found = json.loads(done.stdout)
        for name, unit in UNITS.items():
            points[name].append((size, found[name]))
            figure = Figure(name, found["case"], found[name], unit)
            yield at_least(LEAST_RECALL, figure) if targets and name == "recall" else figure
    for plot, (unit, lines) in PLOTS.items():
        for label, name in lines.items():
            yield Curve(plot, label, "facts", unit, points[name], log_y=True, log_x=True)


def one(facts: int) -> dict[str, Any]:
    """Measures so many facts, in this process."""
    layout = Layout(dim=DIM, dtype="float16", stored=False)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".growth-") as folder:
        report = stored(facts, Path(folder), layout)
        case = f"{case_of(report, DIM)} in float16, no keys stored"
        found: dict[str, Any] = {"case": case, "ingest_rate": report.given / report.seconds}
        found["ingest_peak"] = resident("VmHWM")
        store, rng = Path(folder) / "store", np.random.default_rng(0)
        with memstore.open(store) as opened:
            memory = opened.memory("facts")
            ask(memory, queries(rng, memory, TUNING))
            memory.reindex()
        found["at_rest"] = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        found["at_rest_a_fact"] = found["at_rest"] / report.given
        keeping.give_back()
        before, start = resident("RssAnon"), time.perf_counter()
        with memstore.open(store) as opened:
            found["opening_s"] = time.perf_counter() - start
            found |= searched(opened.memory("facts"), rng)
            found |= stepped(opened, rng)
            keeping.give_back()
            found["held"] = resident("RssAnon") - before
    return found


def searched(memory: Memory, rng: np.random.Generator) -> dict[str, float]:
    """Recall, the share of rows compared, and milliseconds a query."""
    recall, scored = share_found(memory, queries(rng, memory, JUDGED), WANTED)
    queries_QD = queries(rng, memory, TIMED)
    start = time.perf_counter()
    ask(memory, queries_QD, WANTED)
    ms = 1e3 * (time.perf_counter() - start) / TIMED
    return {"recall": recall, "scored": scored, "search_ms": ms}


def stepped(store: Store, rng: np.random.Generator) -> dict[str, float]:
    """Milliseconds of a step: of one by key hashing, of one that searches, of that search."""
    stepping = Stepping(store, rng)
    hashed, by_search, searching = list[float](), list[float](), list[float]()
    for _ in range(WARM + ROUNDS):
        hashed.append(stepping.step(search=False)[0])
        whole, search = stepping.step(search=True)
        by_search.append(whole)
        searching.append(search)
    each = {"hashed": hashed, "searched": by_search, "search": searching}
    return {f"step_{name}_ms": 1e3 * statistics.median(ms[WARM:]) for name, ms in each.items()}


class Stepping:
    """Takes steps over the facts of a store."""

    def __init__(self, store: Store, rng: np.random.Generator) -> None:
        self._rng, self._facts = rng, store.memory("facts")
        self._entities, self._relations = (
            RowTable(store.memory(name)) for name in ("entities", "relations")
        )
        tables = [self._entities, self._relations]
        self._reader = SparseReader(
            self._facts, k=K, options=WANTED, parts=tables, list_limit=OBJECTS
        )
        self._optimizer = RowOptimizer(tables, lr=0.01)
        self._rows = self._facts.describe().next_slot

    def step(self, *, search: bool) -> tuple[float, float]:
        """Seconds of a step, and of its search for facts or look-up of them."""
        slots_Q = self._rng.integers(0, self._rows, QUESTIONS)
        columns = ["subject", "relation", "objects"]
        asked = self._facts.gather(slots_Q, vectors=False, columns=columns, list_limit=1).records
        assert asked is not None
        subject_Q, relation_Q = (asked[name].to_numpy() for name in columns[:2])
        object_Q = asked["objects"].combine_chunks().flatten().to_numpy()
        start = time.perf_counter()
        query_QD = self._entities(subject_Q) + self._relations(relation_Q)
        begun = time.perf_counter()
        if search:
            slots_QK = self._reader.search(query_QD)
        else:
            slots_QK = self._facts.lookup("subject", subject_Q, K).padded()
        proposed_s = time.perf_counter() - begun
        reading = attend(query_QD, self._reader.gather(slots_QK))
        answer_QD = self._entities(object_Q)
        loss = torch.nn.functional.mse_loss(reading.output_QV, answer_QD)
        loss.backward()
        self._optimizer.step()
        return time.perf_counter() - start, proposed_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--one", type=int, help="this one, in this process")
    parser.add_argument("--plots", type=Path, help="a folder for these")
    told = parser.parse_args()
    if told.one is not None:
        print(json.dumps(one(told.one)))
        return
    curves = list[Curve]()
    for measured in measure(told.sizes, targets=False):
        if isinstance(measured, Curve):
            curves.append(measured)
        else:
            print(measured, flush=True)
    if told.plots is not None:
        draw(curves, told.plots, "scale_growth")


if __name__ == "__main__":
    main()
