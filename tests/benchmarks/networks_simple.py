"""Simple question answering: path accuracy on held-out subjects, and on facts linked in."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from memstore import NO_SLOT
from models.tasks import metaqa
from models.tasks.simple_questions import SimpleQuestions
from tests.benchmarks.runner import Figure
from workers.figures import Evaluation
from workers.linked import Linked
from workers.networks import simple
from workers.networks.simple import SimpleLearner, SimpleRecipe
from workers.run import Run

TARGET = 0.70
"""Of the path accuracy on SimpleDBpediaQA over the facts of the base."""


def run(quick: bool) -> Iterator[Figure]:
    """Trains on either task and tests it; quick: in few steps, without the facts linked in."""
    for task in ("simple-dbpedia", "simple-freebase"):
        recipe = simple.recipe(task)
        if quick:
            recipe = dataclasses.replace(recipe, steps=60, dim=32)
        base = simple.read(recipe)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "run")
            Run.build(folder, recipe, base, lambda what, done, total: None)
            with Run(folder) as training:
                yield from _trained(training, recipe, base, quick)


def _trained(
    training: Run, recipe: SimpleRecipe, base: SimpleQuestions, quick: bool
) -> Iterator[Figure]:
    start = time.perf_counter()
    for step in training.train(base, 10_000):
        if step.number % 100 == 0:
            print(f"step {step.number} loss {step.loss:.4f} {step.hits:.3f}", file=sys.stderr)
    case = f"{recipe.task}, {base.base.facts.num_rows:,} facts, {recipe.steps} steps"
    yield Figure("train_s", case, time.perf_counter() - start, "s")
    for found in training.evaluate(base):
        aimed = recipe.task == "simple-dbpedia" and found.case == "facts of the base" and not quick
        yield from _told(recipe, found, case, TARGET if aimed else None)
    if recipe.task == "simple-dbpedia" and not quick:
        learner = training.learner
        assert isinstance(learner, SimpleLearner)
        yield from _linked(training, learner, case)


def _told(
    recipe: SimpleRecipe, found: Evaluation, case: str, target: float | None
) -> Iterator[Figure]:
    case = f"{case}; {found.case}, {found.questions:,} questions about held-out subjects"
    published = simple.NETWORK.published[recipe.task].figure
    figure = Figure("path_accuracy", f"{case}; peer: published", found.hits_1, "share", published)
    if target is not None:
        met = bool(found.hits_1 >= target)
        figure = dataclasses.replace(figure, target=f"at least {target:g} share", met=met)
    yield figure
    assert found.candidate_recall is not None
    assert found.scored is not None
    yield Figure("candidate_recall", case, found.candidate_recall, "share")
    yield Figure("cells_scored", case, found.scored, "cells a question")
    for name, value in found.more.items():
        yield Figure(name.replace(", ", "_").replace(" ", "_"), case, value, "share")
    for name, (count, accuracy, _) in found.kinds.items():
        yield Figure("path_accuracy", f"{case}; {count:,} whose {name}", accuracy, "share")
    yield Figure("answering_rate", case, found.questions / found.seconds, "questions/s")


def _linked(training: Run, learner: SimpleLearner, case: str) -> Iterator[Figure]:
    """WikiMovies, linked in after training, and the questions of MetaQA about it: of the facts of
    the right film or person a random one would be right as often as `by_chance` says."""
    films = metaqa.load_metaqa()
    linked = Linked(training.holder, learner.module, learner.reader, films)
    asked = metaqa.questions_of(1)(films, split="test", count=10_000, seed=0)
    asked = [question for question in asked if question.subject != NO_SLOT]
    subject_Q = np.array([question.subject for question in asked])
    relation_Q = np.array([question.relation for question in asked])
    texts = [question.text for question in asked]
    chosen = linked.choose(texts)
    right_QK = (chosen.subject_QK == subject_Q[:, None]) & (
        chosen.relation_QK == relation_Q[:, None]
    )
    best_Q1 = chosen.scores_QK.argmax(axis=1)[:, None]
    facts_N = np.bincount(films.columns()[0], minlength=films.entities.num_rows)
    case = f"{case}; {films.facts.num_rows:,} facts of WikiMovies linked in"
    case = f"{case}, {len(asked):,} questions of MetaQA, none learnt of"
    hit = float(np.take_along_axis(right_QK, best_Q1, 1).mean())
    chance = float((1 / np.maximum(facts_N[subject_Q], 1)).mean())
    yield Figure("path_accuracy", f"{case}; peer: by chance, subject told", hit, "share", chance)
    yield Figure("candidate_recall", case, float(right_QK.any(axis=1).mean()), "share")
    yield Figure("subjects_named_alike", case, linked.shared, "share")
