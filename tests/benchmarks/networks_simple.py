"""Simple question answering: path accuracy on held-out subjects, and on facts linked in."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from memstore import NO_SLOT
from models.tasks import metaqa
from models.tasks.knowledge import KnowledgeBase
from models.tasks.simple_questions import SimpleQuestions
from tests.benchmarks.runner import Figure, at_least
from workers.figures import Evaluation
from workers.linked import Linked
from workers.networks import simple
from workers.networks.simple import SimpleLearner, SimpleRecipe
from workers.run import Run

TARGETS: Mapping[tuple[str, str], float] = {("simple-dbpedia", "facts of the base"): 0.70}
"""Of the path accuracy."""

SEEDS = 3


def run(quick: bool) -> Iterator[Figure]:
    """Trains on either task, with three seeds, and tests; then asks about WikiMovies, linked in.

    quick: in few steps, one seed, without the facts linked in.
    """
    films = None if quick else metaqa.load_metaqa()
    for task in ("simple-dbpedia", "simple-freebase"):
        recipe = simple.recipe(task)
        if quick:
            recipe = dataclasses.replace(recipe, steps=60, dim=32)
        base = simple.read(recipe)
        case = f"{task}, {base.base.facts.num_rows:,} facts, {recipe.steps} steps"
        seeds = range(1 if quick else SEEDS)
        found = [_train(dataclasses.replace(recipe, seed=seed), base, films) for seed in seeds]
        told = f"{case}, seed 0" if quick else f"{case}, mean of {SEEDS} seeds"
        yield Figure("train_s", told, float(np.mean([one.seconds for one in found])), "s")
        for evaluations in zip(*(one.evaluations for one in found), strict=True):
            target = None if quick else TARGETS.get((task, evaluations[0].case))
            yield from _told(recipe, evaluations, told, target)
        if films is not None:
            yield from _linked([one.linked for one in found], films, told)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came of a run. linked: figures of the facts linked in, by name."""

    seconds: float
    evaluations: list[Evaluation]
    linked: dict[str, float]


def _train(recipe: SimpleRecipe, base: SimpleQuestions, films: KnowledgeBase | None) -> Trained:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as run:
            start = time.perf_counter()
            for step in run.train(base, 100_000):
                if step.number % 100 == 0:
                    print(f"step {step.number} loss {step.loss:.4f}", file=sys.stderr)
            seconds = time.perf_counter() - start
            return Trained(seconds, run.evaluate(base), {} if films is None else _ask(run, films))


def _told(
    recipe: SimpleRecipe, evaluations: tuple[Evaluation, ...], case: str, target: float | None
) -> Iterator[Figure]:
    first = evaluations[0]
    case = f"{case}; {first.case}, {first.questions:,} questions about held-out subjects"
    accuracies = [one.hits_1 for one in evaluations]
    accuracy = float(np.mean(accuracies))
    figure = Figure("path_accuracy", case, accuracy, "share")
    yield figure if target is None else at_least(target, figure)
    if first.case == "facts of the base":
        published = simple.NETWORK.published[recipe.task].figure
        yield Figure("path_accuracy", f"{case}; peer: published", accuracy, "share", published)
    yield Figure("spread", f"{case}, path accuracy", float(np.ptp(accuracies)), "share")
    for name, count in first.kinds.items():
        mean = float(np.mean([one.kinds[name][1] for one in evaluations]))
        yield Figure("path_accuracy", f"{case}; {count[0]:,} whose {name}", mean, "share")
    recalls = [one.candidate_recall or 0.0 for one in evaluations]
    yield Figure("candidate_recall", case, float(np.mean(recalls)), "share")
    for name in first.more:
        mean = float(np.mean([one.more[name] for one in evaluations]))
        yield Figure(name.replace(",", "").replace(" ", "_"), case, mean, "share")
    assert first.scored is not None
    yield Figure("cells_scored", case, first.scored, "cells a question")
    seconds = float(np.mean([one.seconds for one in evaluations]))
    yield Figure("answering_rate", case, first.questions / seconds, "questions/s")


def _ask(run: Run, films: KnowledgeBase) -> dict[str, float]:
    """Links WikiMovies in, and asks the questions of MetaQA about it that are kept for tests."""
    learner = run.learner
    assert isinstance(learner, SimpleLearner)
    linked = Linked(run.holder, learner.module, learner.reader, films)
    asked = metaqa.questions_of(1)(films, split="test", count=10_000, seed=0)
    asked = [question for question in asked if question.subject != NO_SLOT]
    subject_Q1 = np.array([question.subject for question in asked])[:, None]
    relation_Q1 = np.array([question.relation for question in asked])[:, None]
    chosen = linked.choose([question.text for question in asked])
    own_QK = chosen.subject_QK == subject_Q1
    right_QK = own_QK & (chosen.relation_QK == relation_Q1)
    best_Q1 = chosen.scores_QK.argmax(axis=1)[:, None]
    facts_N = np.bincount(films.columns()[0], minlength=films.entities.num_rows)
    return {
        "path_accuracy": float(np.take_along_axis(right_QK, best_Q1, 1).mean()),
        "by chance": float((1 / np.maximum(facts_N[subject_Q1], 1)).mean()),
        "subject_right": float(np.take_along_axis(own_QK, best_Q1, 1).mean()),
        "candidate_recall": float(right_QK.any(axis=1).mean()),
        "subjects_named_alike": linked.shared,
        "questions": len(asked),
    }


def _linked(found: list[dict[str, float]], films: KnowledgeBase, case: str) -> Iterator[Figure]:
    """The peer of the accuracy: a random fact of the right subject."""
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    case = f"{case}; {films.facts.num_rows:,} facts of WikiMovies linked in"
    case = f"{case}, {mean['questions']:,.0f} questions of MetaQA, none learnt of"
    chance = mean["by chance"]
    peer = f"{case}; peer: by chance, subject told"
    yield Figure("path_accuracy", peer, mean["path_accuracy"], "share", chance)
    for name in ("subject_right", "candidate_recall", "subjects_named_alike"):
        yield Figure(name, case, mean[name], "share")
