"""Search among as many facts as Freebase FB5M has, k = 32, beside an exact search of all.

The facts are ingested and their index is tuned, as for a network: queries are keys of facts drawn
by chance, with noise of a third of their length. Recall is the share of the 32 found whose score is
no less than the true 32nd. How the true ones lie is told as well: what the scores of the 6th, the
32nd and the 1,000th are of that of the first.

    python -m tests.benchmarks.scale_search 100000 1000000      # other numbers of facts
    python -m tests.benchmarks.scale_search 100000 --gathered 0.6       # entities less gathered
    python -m tests.benchmarks.scale_search 100000 --no-keys            # keys are not stored
    python -m tests.benchmarks.scale_search --run runs/freebase         # what a network asks

Of a run that was trained, queries are those of its held-out questions, which visit as many lists as
its recipe says, and told is also which share of all facts of the entity meant is found.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import memstore
from memstore import SearchOptions
from memstore.memory import Array, Memory, SearchResult, Slots
from models.tasks.memories import Initial
from tests.benchmarks.runner import Figure, at_least, at_most
from tests.benchmarks.synthetic import FULL, case_of, stored
from workers.ingest import Layout
from workers.ingest.plan import GATHERED
from workers.run import Run

K, BATCH = 32, 64
NOISE = 0.33
TUNING, JUDGED, TIMED = 2_048, 256, 4_096
"""Queries that the index is tuned on, that are searched exactly too, and that are timed."""

WANTED = SearchOptions(recall_target=0.98)
"""Recall is tuned for ten rows; of 32 somewhat less is found."""

DIM = 64
SHOWN, FARTHEST = (6, 32, 1_000), 1_000
HELD_OUT, MOST_OWN = 4_000, 500
LEAST_RECALL, LEAST_RATE, MOST_SCORED = 0.95, 2_500, 0.001


def run(quick: bool) -> Iterator[Figure]:
    """Measures FB5M's number of facts, or 100,000."""
    yield from measure(100_000 if quick else FULL, targets=not quick)


def measure(
    facts: int, *, targets: bool, gathered: float = GATHERED, keys: bool = True, told: str = ""
) -> Iterator[Figure]:
    """Measures so many facts.  gathered: of `Initial`.  keys: whether these are stored.
    told: of the case besides."""
    layout = Layout(dim=DIM, initial=Initial(gathered=gathered), stored=keys)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".search-") as folder:
        report = stored(facts, Path(folder), layout)
        with memstore.open(Path(folder) / "store") as store:
            memory, rng = store.memory("facts"), np.random.default_rng(0)
            case = f"{case_of(report, DIM)}{told}"
            draw = partial(queries, rng, memory)
            yield from _measured(memory, case, draw, WANTED, targets=targets)


def of_run(folder: Path) -> Iterator[Figure]:
    """Measures the facts of a run of a key-value network, asked what it asks of them."""
    with Run(folder) as run:
        learner: Any = run.learner
        memory: Memory = learner.memories.facts
        queries_QD, subject_Q = _held_out(learner)
        memory.refresh()
        taken = 0

        def draw(count: int) -> Array:
            nonlocal taken
            at = np.arange(taken, taken + count) % len(queries_QD)
            taken += count
            return queries_QD[at]

        rows = memory.describe().rows
        case = f"{rows:,} rows of {DIM}, trained {run.trainer.done:,} steps, held-out questions"
        visited = SearchOptions(probe=learner.recipe.probe)
        case = f"{case}, {visited.probe} lists"
        yield from _measured(memory, case, draw, visited, targets=False)
        own = memory.lookup("subject", subject_Q[:JUDGED].tolist(), MOST_OWN)
        found = np.concatenate(
            [each.slots_QK for each in ask(memory, queries_QD[:JUDGED], visited)]
        )
        facts = np.split(own.slots, own.offsets[1:-1])
        shares = [np.isin(each[:K], row).mean() for each, row in zip(facts, found, strict=True)]
        yield Figure("own", f"{case}, facts of the entity found", float(np.mean(shares)), "share")


def _held_out(learner: Any) -> tuple[Array, Slots]:
    """The queries of held-out questions that are linked rightly, and what entities are meant."""
    asked = learner.known.asks(None, split="test", count=HELD_OUT, seed=2, popular_share=0.0)
    read = learner.questions.read([question.text for question in asked])
    subject_Q = np.array([question.subject for question in asked])
    linked = np.flatnonzero(read.entity_Q == subject_Q)
    learner.module.eval()
    parts = []
    with torch.no_grad():
        for first in range(0, len(linked), BATCH):
            questions = learner.questions.ask(read, linked[first : first + BATCH], None)
            parts.append(learner.module.encode(questions).numpy())
    return np.concatenate(parts), subject_Q[linked]


def _measured(
    memory: Memory,
    case: str,
    draw: Callable[[int], Array],
    wanted: SearchOptions,
    *,
    targets: bool,
) -> Iterator[Figure]:
    """draw: gives so many queries, others each time.  wanted: how it is searched."""
    start = time.perf_counter()
    ask(memory, draw(TUNING))
    memory.reindex()
    yield Figure("tuning_s", f"{case}, clustered anew and tuned", time.perf_counter() - start, "s")
    judged_QD = draw(JUDGED)
    start = time.perf_counter()
    exact = ask(memory, judged_QD, SearchOptions(exact=True))
    exact_rate = JUDGED / (time.perf_counter() - start)
    recall = _recall(exact, ask(memory, judged_QD, wanted))
    far = ask(memory, judged_QD, SearchOptions(exact=True), FARTHEST)
    far_QK = np.concatenate([part.scores_QK for part in far])
    for place in SHOWN:
        share = float(np.median(far_QK[:, place - 1] / far_QK[:, 0]))
        yield Figure("score", f"{case}, of the true {place:,}. of that of the first", share, "")
    asked_QD = draw(TIMED)
    start = time.perf_counter()
    timed = ask(memory, asked_QD, wanted)
    rate = TIMED / (time.perf_counter() - start)
    scored = _scored(memory, timed)
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


def share_found(memory: Memory, queries_QD: Array, wanted: SearchOptions) -> tuple[float, float]:
    """Recall of a search, and which share of all rows it compares with a query."""
    exact = ask(memory, queries_QD, SearchOptions(exact=True))
    found = ask(memory, queries_QD, wanted)
    return _recall(exact, found), _scored(memory, found)


def _recall(exact: list[SearchResult], found: list[SearchResult]) -> float:
    """The share found that scores no less than the true last."""
    floor_Q = np.concatenate([part.scores_QK[:, -1] for part in exact])[:, None]
    scores_QK = np.concatenate([part.scores_QK for part in found])
    return float((scores_QK >= floor_Q - 1e-6 * np.abs(floor_Q)).mean())


def _scored(memory: Memory, found: list[SearchResult]) -> float:
    return float(np.concatenate([part.scored_Q for part in found]).mean()) / memory.describe().rows


def queries(rng: np.random.Generator, memory: Memory, count: int) -> Array:
    """Keys of facts drawn by chance, with noise."""
    slots = rng.integers(0, memory.describe().next_slot, count)
    keys_QD = memory.gather(slots).keys_BD
    assert keys_QD is not None
    keys_QD = np.asarray(keys_QD, np.float32)
    noise_QD = rng.standard_normal(keys_QD.shape, np.float32)
    noise_QD *= NOISE * np.linalg.norm(keys_QD, axis=1, keepdims=True)
    return keys_QD + noise_QD / np.sqrt(np.float32(keys_QD.shape[1]))


def ask(
    memory: Memory, queries_QD: Array, options: SearchOptions = SearchOptions(), k: int = K
) -> list[SearchResult]:
    """Searches, a batch at a time."""
    return [
        memory.search(queries_QD[first : first + BATCH], k, options)
        for first in range(0, len(queries_QD), BATCH)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("facts", nargs="*", type=int)
    parser.add_argument("--gathered", type=float, default=GATHERED)
    parser.add_argument("--no-keys", dest="keys", action="store_false")
    parser.add_argument("--run", type=Path)
    told = parser.parse_args()
    for number in told.facts:
        case = f", gathered {told.gathered:g}{'' if told.keys else ', no keys stored'}"
        how = {"gathered": told.gathered, "keys": told.keys}
        for figure in measure(number, targets=False, told=case, **how):
            print(figure, flush=True)
    if told.run is not None:
        for figure in of_run(told.run):
            print(figure, flush=True)


if __name__ == "__main__":
    main()
