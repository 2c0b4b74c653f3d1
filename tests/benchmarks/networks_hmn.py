"""The hierarchical memory network on geography and on the taxonomy of living things: all cells, the
K best, clusters, hash, tree."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memstore import NO_SLOT, Memory
from memstore.memory import Slots
from models.hierarchies import Hashed, Tree
from models.tasks.data import DataMissing
from models.tasks.knowledge import KnowledgeBase
from models.tasks.questions import Question
from tests.benchmarks.runner import Figure, Measured, Missing, at_least, at_most
from workers.evaluate import evaluate
from workers.networks import hmn
from workers.networks.hmn import HMNAnswering, HMNRecipe
from workers.networks.knowledge import KnowledgeLearner
from workers.run import Run

BLOCK = 131_072
"""Cells scored at a time, where all are."""
READS = ("exact", "clusters", "all")
QUICK = (("geography", 1_500, 60),)
SIZES = (("geography", 11_000, 60), ("geography", 110_000, 40), ("taxonomy", 110_000, 40))
"""Task, entities, and steps; at a million cells each step of the full softmax takes seconds."""
MEASURED_STEPS = 10
"""Steps from one look at the recall to the next."""


@dataclass(frozen=True)
class Trained:
    """What came of a run.

    by: who proposed in the test: hits@1, and cells scored a question.  recalls: of the cells
    proposed while training, in its order.
    """

    by: dict[str, tuple[float, float]]
    recalls: list[float]
    seconds: float


def run(quick: bool) -> Iterator[Measured]:
    """Trains alike, but for who proposes cells, and tests on held-out wordings and entities."""
    for task, places, steps in QUICK if quick else SIZES:
        recipe = dataclasses.replace(
            hmn.geography(quick=quick),
            task=task,
            places=places,
            batch=64,
            steps=steps,
            refresh_steps=20,
            questions=8_000,
            test_questions=500 if quick else 2_000,
        )
        try:
            base = hmn.NETWORK.read(recipe)
        except DataMissing as error:
            yield Missing(f"hits_at_1 on {task}", str(error))
            continue
        case = f"{task}, {base.facts.num_rows:,} cells, K {recipe.k}, {recipe.steps} steps"
        found = {}
        for read in READS:
            found[read] = one = _train(dataclasses.replace(recipe, read=read), base)
            yield Figure("training", f"{case}, {read}", one.seconds, "s")
            for name, (hits, scored) in one.by.items():
                how = f"{case}, trained by {read}, tested by {name}"
                yield Figure("hits_at_1", how, hits, "share")
                yield Figure("cells_scored", how, scored, "cells a question")
        for figure in _compared(case, found):
            yield dataclasses.replace(figure, target=None, met=None) if quick else figure


def _compared(case: str, found: dict[str, Trained]) -> Iterator[Figure]:
    clusters, fewer_cells = found["clusters"].by["clusters"]
    exact, cells = found["exact"].by["exact"]
    how = f"{case}, exact K-MIPS against the full softmax"
    yield at_least(1.0, Figure("hits_at_1", how, exact, "share", found["all"].by["all"][0]))
    yield Figure("hits_at_1", f"{case}, clusters against exact", clusters, "share", exact)
    lost = 100 * (exact - clusters)
    yield at_most(1.0, Figure("points_lost", f"{case}, by clusters", lost, "points"))
    fewer = cells / fewer_cells
    yield at_least(10.0, Figure("times_fewer_cells", f"{case}, by clusters", fewer, "x"))
    recalls = found["clusters"].recalls
    how = f"{case}, the least of {len(recalls)} looks, one in {MEASURED_STEPS} steps"
    yield at_least(0.95, Figure("recall_in_training", how, min(recalls), "share"))


def _train(recipe: HMNRecipe, base: KnowledgeBase) -> Trained:
    """Trains and tests; what clusters proposed is looked at meanwhile, and hash and tree after."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, recalls = Path(scratch, "run"), list[float]()
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as trained:
            learner = trained.learner
            assert isinstance(learner, KnowledgeLearner)
            answering = learner.answering
            assert isinstance(answering, HMNAnswering)
            asked = learner.known.asks(
                base, split="test", count=recipe.test_questions, seed=2, popular_share=0.0
            )
            look = _Recall(learner, answering, [question.text for question in asked[:128]])
            seconds, start = 0.0, time.perf_counter()
            for step in trained.train(base, checkpoint_steps=recipe.steps):
                if step.number % MEASURED_STEPS == MEASURED_STEPS - 1:
                    seconds += time.perf_counter() - start
                    if recipe.read == "clusters":
                        recalls.append(look())
                    told = f"{recipe.read} step {step.number} loss {step.loss:.3f} {recalls[-1:]}"
                    print(told, file=sys.stderr)
                    start = time.perf_counter()
            by = {recipe.read: _test(learner, asked)}
            cells, k = np.arange(base.facts.num_rows), recipe.k
            if recipe.read == "clusters":
                hashed = answering.full = Hashed(
                    answering.memory, cells, k=k, scored=len(cells) // 10
                )
                by["hash"] = _test(learner, asked)[0], hashed.cells_scored
                tree = answering.full = Tree(
                    answering.memory, cells, k=k, leaves=1_024, branches=8, visited=32
                )
                by["tree"] = _test(learner, asked)[0], tree.cells_scored
        return Trained(by, recalls, seconds)


def _test(learner: KnowledgeLearner, asked: list[Question]) -> tuple[float, float]:
    """hits@1 where the entity was linked, and cells and centroids compared with a question."""
    limit = learner.recipe.list_limit
    found = evaluate(learner.answering, learner.questions, asked, key_limit=None, list_limit=limit)
    assert found.scored is not None
    return found.hits_1, found.scored


class _Recall:
    """Looks how many of the K best cells, by all rows as they are now, are proposed."""

    def __init__(
        self, learner: KnowledgeLearner, answering: HMNAnswering, texts: list[str]
    ) -> None:
        self._answering, self._known = answering, learner.known
        read = learner.questions.read(texts)
        self._asked = learner.questions.ask(read, np.arange(len(read)), None)
        cells = np.arange(answering.memory.describe().next_slot)
        columns = ["subject", "relation"]
        records = answering.memory.gather(cells, vectors=False, columns=columns).records
        assert records is not None
        self._subject, self._relation = (records[column].to_numpy() for column in columns)

    def __call__(self) -> float:
        k = self._known.recipe.k
        tables = self._known.entities, self._known.relations
        entities, relations = (_rows(table.memory) for table in tables)

        def keys(cells: slice | Slots) -> Tensor:
            return entities[self._subject[cells]] + relations[self._relation[cells]]

        with torch.no_grad():
            query_QD = self._answering.module.encode(self._asked)
            found_QK = self._answering.tested.search(query_QD)
            best_QK = query_QD.new_full((len(query_QD), k), -torch.inf)
            for start in range(0, len(self._subject), BLOCK):
                scores_QB = query_QD @ keys(slice(start, start + BLOCK)).T
                best_QK = torch.cat([best_QK, scores_QB], 1).topk(k, 1).values
            scores_QK = torch.einsum("qd,qkd->qk", query_QD, keys(np.maximum(found_QK, 0)))
            floor_Q1 = best_QK[:, -1:] - 1e-5 * best_QK[:, -1:].abs()
            good_QK = (scores_QK >= floor_Q1) & torch.from_numpy(found_QK != NO_SLOT)
        return float(good_QK.double().mean())


def _rows(memory: Memory) -> Tensor:
    keys_BD = memory.gather(np.arange(memory.describe().next_slot)).keys_BD
    assert keys_BD is not None
    return torch.from_numpy(keys_BD)
