"""Simple question answering: path accuracy on held-out subjects, and on facts linked in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from memstore import NO_SLOT
from models.tasks import metaqa
from models.tasks.knowledge import KnowledgeBase
from models.tasks.simple_questions import SimpleQuestions
from tests.benchmarks.runner import Figure, at_least
from tests.benchmarks.seeded import Trained, mean, seeds_of, spread, told, training
from workers.figures import Evaluation
from workers.linked import Linked
from workers.networks import simple
from workers.networks.simple import SimpleLearner, SimpleRecipe
from workers.run import Run

TARGETS: Mapping[tuple[str, str], float] = {("simple-dbpedia", "facts of the base"): 0.70}
"""Of the path accuracy."""


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
        found = [_train(one, base, films) for one in seeds_of(recipe, quick=quick)]
        case = told(case, found)
        yield Figure("train_s", case, mean([one.seconds for one in found]), "s")
        for evaluations in zip(*(one.evaluations for one in found), strict=True):
            target = None if quick else TARGETS.get((task, evaluations[0].case))
            yield from _told(recipe, evaluations, case, target)
        if films is not None:
            yield from _linked([one.linked for one in found], films, case)


@dataclasses.dataclass(frozen=True)
class Linking(Trained):
    """What came of a run.  linked: figures of the facts linked in, by name."""

    linked: dict[str, float]


def _train(recipe: SimpleRecipe, base: SimpleQuestions, films: KnowledgeBase | None) -> Linking:
    with training(recipe, base) as (run, seconds):
        return Linking(seconds, run.evaluate(base), {} if films is None else _ask(run, films))


def _told(
    recipe: SimpleRecipe, evaluations: tuple[Evaluation, ...], case: str, target: float | None
) -> Iterator[Figure]:
    first = evaluations[0]
    case = f"{case}; {first.case}, {first.questions:,} questions about held-out subjects"
    accuracies = [one.hits_1 for one in evaluations]
    accuracy = mean(accuracies)
    figure = Figure("path_accuracy", case, accuracy, "share")
    yield figure if target is None else at_least(target, figure)
    if first.case == "facts of the base":
        published = simple.NETWORK.published[recipe.task].figure
        yield Figure("path_accuracy", f"{case}; peer: published", accuracy, "share", published)
    yield from spread(case, "path accuracy", accuracies)
    for name, count in first.kinds.items():
        of_kind = mean([one.kinds[name][1] for one in evaluations])
        yield Figure("path_accuracy", f"{case}; {count[0]:,} whose {name}", of_kind, "share")
    recalls = [one.candidate_recall or 0.0 for one in evaluations]
    yield Figure("candidate_recall", case, mean(recalls), "share")
    for name in first.more:
        value = mean([one.more[name] for one in evaluations])
        yield Figure(name.replace(",", "").replace(" ", "_"), case, value, "share")
    assert first.scored is not None
    yield Figure("cells_scored", case, first.scored, "cells a question")
    seconds = mean([one.seconds for one in evaluations])
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
    means = {name: mean([one[name] for one in found]) for name in found[0]}
    case = f"{case}; {films.facts.num_rows:,} facts of WikiMovies linked in"
    case = f"{case}, {means['questions']:,.0f} questions of MetaQA, none learnt of"
    chance = means["by chance"]
    peer = f"{case}; peer: by chance, subject told"
    yield Figure("path_accuracy", peer, means["path_accuracy"], "share", chance)
    for name in ("subject_right", "candidate_recall", "subjects_named_alike"):
        yield Figure(name, case, means[name], "share")
