"""The hierarchical memory network on geography, on the taxonomy of living things and on simple
questions: all cells, the K best, clusters, hash, tree.

    python -m tests.benchmarks.networks_hmn simple-dbpedia      # one task of them
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memstore import NO_SLOT, Memory
from memstore.memory import Slots
from models.hierarchies import Hashed, Tree
from models.tasks.data import DataMissing
from models.tasks.memories import KnowledgeMemories
from models.tasks.simple_questions import SimpleQuestions
from tests.benchmarks.runner import Figure, Measured, Missing, at_least, at_most
from tests.benchmarks.seeded import mean, seeds_of, spread, told
from workers.evaluate import evaluate
from workers.learner import Learner
from workers.networks import hmn
from workers.networks.hmn import HMNAnswering
from workers.networks.hmn_recipe import HMNRecipe
from workers.networks.hmn_simple import NamedLearner
from workers.networks.knowledge import KnowledgeLearner
from workers.run import Run

BLOCK = 131_072
"""Cells scored at a time, where all are."""
READS = ("exact", "clusters", "all")
SMALL, LARGE = 11_000, 110_000
"""Entities, whose facts are a hundred thousand and a million."""
COPIED = 120_000
"""Cells over which hash codes and a tree are laid, at most: their tests take longest."""
HITS = "hits_at_1"
MEASURES = {"simple-dbpedia": "path_accuracy"}
"""What is measured, by task; of all others `HITS`."""
MEASURED_STEPS, LOOKED_AT = 10, 128
"""Steps from one look at the recall to the next, and the questions that are searched for then."""


@dataclass(frozen=True)
class Trained:
    """What came of a run.

    by: who proposed in the test: the share of right answers, and cells scored a question.
    recalls: of the cells proposed while training, in its order.  seconds: of its training alone.
    """

    by: dict[str, tuple[float, float]]
    recalls: list[float]
    seconds: float


def run(quick: bool) -> Iterator[Measured]:
    """Trains alike, but for who proposes cells, and tests on what was held out; quick: one small
    case, one seed."""
    recipes = [_recipe("geography", 1_500, quick=True)] if quick else _recipes()
    yield from _measured(recipes, quick=quick)


def _measured(recipes: list[HMNRecipe], *, quick: bool) -> Iterator[Measured]:
    for recipe in recipes:
        try:
            base = hmn.read(recipe)
        except DataMissing as error:
            yield Missing(f"{MEASURES.get(recipe.task, HITS)} on {recipe.task}", str(error))
            continue
        one = quick or recipe.places == LARGE
        yield from _one(recipe, base, seeds_of(recipe, quick=one), judged=not quick)


def _recipes() -> list[HMNRecipe]:
    """Of a million cells the full softmax alone takes longer than all else: one seed."""
    return [
        _recipe("geography", SMALL),
        _recipe("geography", LARGE),
        _recipe("taxonomy", SMALL),
        _recipe("taxonomy", LARGE),
        hmn.simple_dbpedia(),
    ]


def _recipe(task: str, places: int, *, quick: bool = False) -> HMNRecipe:
    large = places == LARGE
    return dataclasses.replace(
        hmn.geography(quick=quick),
        task=task,
        places=places,
        batch=32 if large else 64,
        steps=30 if large else 60,
        refresh_steps=20,
        questions=8_000,
        test_questions=500 if quick else 1_000 if large else 2_000,
    )


def _one(recipe: HMNRecipe, base: Any, seeds: list[HMNRecipe], *, judged: bool) -> Iterator[Figure]:
    """What came of one case.  judged: its targets count."""
    facts = (base.base if isinstance(base, SimpleQuestions) else base).facts.num_rows
    case = f"{recipe.task}, {facts:,} cells, K {recipe.k}, {recipe.steps} steps of {recipe.batch}"
    case, measure = told(case, seeds), MEASURES.get(recipe.task, HITS)
    found = {}
    for read in READS:
        found[read] = runs = [_train(dataclasses.replace(one, read=read), base) for one in seeds]
        yield Figure("training", f"{case}, {read}", mean([one.seconds for one in runs]), "s")
        for name in runs[0].by:
            how = f"{case}, trained by {read}, tested by {name}"
            hits, scored = zip(*(one.by[name] for one in runs), strict=True)
            yield Figure(measure, how, mean(hits), "share")
            yield from spread(how, measure, hits)
            yield Figure("cells_scored", how, mean(scored), "cells a question")
    for figure in _compared(case, measure, found):
        yield figure if judged else dataclasses.replace(figure, target=None, met=None)


def _compared(case: str, measure: str, found: dict[str, list[Trained]]) -> Iterator[Figure]:
    """Seed by seed, since who is compared has drawn the same rows and questions."""
    hits, cells = (
        {name: [one.by[name][at] for one in runs] for name, runs in found.items()} for at in (0, 1)
    )
    exact, full, clusters = (mean(hits[name]) for name in ("exact", "all", "clusters"))
    how = f"{case}, exact K-MIPS against the full softmax"
    yield at_least(1.0, Figure(measure, how, exact, "share", full))
    gained = [100 * (a - b) for a, b in zip(hits["exact"], hits["all"], strict=True)]
    yield Figure("points_gained", how, mean(gained), "points")
    yield from spread(how, "points gained", gained, "points")
    yield Figure(measure, f"{case}, clusters against exact", clusters, "share", exact)
    lost = [100 * (a - b) for a, b in zip(hits["exact"], hits["clusters"], strict=True)]
    yield at_most(1.0, Figure("points_lost", f"{case}, by clusters", mean(lost), "points"))
    yield from spread(case, "points lost by clusters", lost, "points")
    fewer = mean(cells["exact"]) / mean(cells["clusters"])
    yield at_least(10.0, Figure("times_fewer_cells", f"{case}, by clusters", fewer, "x"))
    recalls = [one.recalls for one in found["clusters"]]
    how = f"{case}, the least of {sum(map(len, recalls))} looks, one in {MEASURED_STEPS} steps"
    yield at_least(0.95, Figure("recall_in_training", how, min(map(min, recalls)), "share"))


def _train(recipe: HMNRecipe, base: Any) -> Trained:
    """Trains and tests; what clusters proposed is looked at meanwhile, and hash and tree after."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, recalls = Path(scratch, "run"), list[float]()
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as trained:
            opened = _opened(trained.learner, base)
            look = _Recall(opened)
            seconds, start = 0.0, time.perf_counter()
            for step in trained.train(base, checkpoint_steps=recipe.steps):
                if step.number % MEASURED_STEPS == MEASURED_STEPS - 1:
                    seconds += time.perf_counter() - start
                    if recipe.read == "clusters":
                        recalls.append(look())
                    at = f"{recipe.task}, {recipe.read}, seed {recipe.seed}, step {step.number}"
                    print(f"{at}: {step.loss:.3f} {recalls[-1:]}", file=sys.stderr, flush=True)
                    start = time.perf_counter()
            by = {recipe.read: opened.test()}
            facts, k, reads = opened.known.facts, recipe.k, opened.reads
            cells = np.arange(facts.describe().next_slot)
            if recipe.read == "clusters" and len(cells) <= COPIED:
                hashed = reads.full = Hashed(facts, cells, k=k, scored=len(cells) // 10)
                by["hash"] = opened.test()[0], hashed.cells_scored
                tree = reads.full = Tree(facts, cells, k=k, leaves=1_024, branches=8, visited=32)
                by["tree"] = opened.test()[0], tree.cells_scored
        return Trained(by, recalls, seconds)


@dataclass(frozen=True)
class _Opened:
    """What a run of either kind is looked at by.

    reads: who reads cells.  queries: those of some test questions, `[Q, D]`.  test: the share of
    right answers, and cells and centroids compared with a question.
    """

    reads: HMNAnswering | NamedLearner
    known: KnowledgeMemories
    queries: Callable[[], Tensor]
    test: Callable[[], tuple[float, float]]


def _opened(learner: Learner, base: Any) -> _Opened:
    if isinstance(learner, NamedLearner):
        return _opened_simple(learner, base)
    assert isinstance(learner, KnowledgeLearner)
    reads, recipe = learner.answering, learner.recipe
    assert isinstance(reads, HMNAnswering)
    asked = learner.known.asks(
        base, split="test", count=recipe.test_questions, seed=2, popular_share=0.0
    )
    read = learner.questions.read([question.text for question in asked[:LOOKED_AT]])
    looked_at = learner.questions.ask(read, np.arange(len(read)), None)

    def test() -> tuple[float, float]:
        """hits@1 where the entity was linked."""
        found = evaluate(
            reads, learner.questions, asked, key_limit=None, list_limit=recipe.list_limit
        )
        assert found.scored is not None
        return found.hits_1, found.scored

    return _Opened(reads, learner.memories, lambda: reads.module.encode(looked_at), test)


def _opened_simple(learner: NamedLearner, base: SimpleQuestions) -> _Opened:
    looked_at, _ = learner.reader.read([question.text for question in base.test[:LOOKED_AT]])

    def test() -> tuple[float, float]:
        """Path accuracy of every question."""
        _, found = learner.evaluate(base)
        assert found.scored is not None
        return found.hits_1, found.scored

    return _Opened(learner, learner.memories, lambda: learner.module.encode(looked_at), test)


class _Recall:
    """Looks how many of the K best cells, by all rows as they are now, are proposed."""

    def __init__(self, opened: _Opened) -> None:
        self._opened = opened
        facts = opened.known.facts
        cells = np.arange(facts.describe().next_slot)
        records = facts.gather(cells, vectors=False, columns=["subject", "relation"]).records
        assert records is not None
        # torch warns of arrays that may not be written.
        self._subject, self._relation = (
            np.array(records[column]) for column in ("subject", "relation")
        )

    def __call__(self) -> float:
        known, reader = self._opened.known, self._opened.reads.tested
        entities, relations = (_rows(memory) for memory in (known.entities, known.relations))

        def keys(cells: slice | Slots) -> Tensor:
            return entities[self._subject[cells]] + relations[self._relation[cells]]

        with torch.no_grad():
            query_QD = self._opened.queries()
            found_QK = reader.search(query_QD)
            best_QK = query_QD.new_full((len(query_QD), reader.k), -torch.inf)
            for start in range(0, len(self._subject), BLOCK):
                scores_QB = query_QD @ keys(slice(start, start + BLOCK)).T
                best_QK = torch.cat([best_QK, scores_QB], 1).topk(reader.k, 1).values
            scores_QK = torch.einsum("qd,qkd->qk", query_QD, keys(np.maximum(found_QK, 0)))
            floor_Q1 = best_QK[:, -1:] - 1e-5 * best_QK[:, -1:].abs()
            good_QK = (scores_QK >= floor_Q1) & torch.from_numpy(found_QK != NO_SLOT)
        return float(good_QK.double().mean())


def _rows(memory: Memory) -> Tensor:
    keys_BD = memory.gather(np.arange(memory.describe().next_slot)).keys_BD
    assert keys_BD is not None
    return torch.tensor(keys_BD)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=sorted({recipe.task for recipe in _recipes()}))
    task = parser.parse_args().task
    for measured in _measured([one for one in _recipes() if one.task == task], quick=False):
        print(measured, flush=True)


if __name__ == "__main__":
    main()
