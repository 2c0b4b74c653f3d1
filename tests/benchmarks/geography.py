"""The geography task end to end: build rate, answers, cost of a step against memory size."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from models.asked import Asked
from models.tasks import answers
from models.tasks.geography import load_geography
from models.tasks.geography_questions import questions
from tests.benchmarks.runner import Figure, at_least, at_most, paired_medians
from workers.answering import Lesson
from workers.figures import Evaluation
from workers.learner import Drawn
from workers.networks.knowledge import KnowledgeLearner
from workers.networks.kv import KVRecipe, geography
from workers.run import Run

SMALL_PLACES = 1_000
"""About 12,500 facts, all of them also in the full base, under the same entity numbers."""


def run(quick: bool) -> Iterator[Figure]:
    """Builds, trains and tests the demo's memory, and a small one beside it."""
    recipe = geography(quick=quick)
    with tempfile.TemporaryDirectory() as scratch:
        folder, small_folder = Path(scratch, "all"), Path(scratch, "small")
        base = load_geography(limit=recipe.places)
        rate = _build(folder, recipe, base.facts.num_rows)
        case = f"{base.facts.num_rows:,} facts x {recipe.dim}, index included"
        # A small build is over before its fixed costs are paid back.
        built = Figure("build_rate", case, rate, "facts/s")
        yield built if quick else at_least(50_000, built)
        with Run(folder) as whole:
            for step in whole.train(base):
                if step.number % 100 == 0:
                    print(f"step {step.number} loss {step.loss:.3f}", file=sys.stderr)
            hashed, searched = whole.evaluate(base)
            yield from _answers(hashed, hits=0.95, recall=0.99)
            yield from _answers(searched, hits=0.90, recall=None)
            small = dataclasses.replace(recipe, places=SMALL_PLACES)
            _build(small_folder, small, None)
            with Run(small_folder) as part:
                yield from _steps(whole, part)


def _build(folder: Path, recipe: KVRecipe, facts: int | None) -> float:
    base = load_geography(limit=recipe.places)
    start = time.perf_counter()
    Run.build(folder, recipe, base, lambda what, done, total: None)
    return (facts or base.facts.num_rows) / (time.perf_counter() - start)


def _answers(found: Evaluation, hits: float, recall: float | None) -> Iterator[Figure]:
    case = f"{found.case}, held-out wordings and entities, {found.questions:,} questions"
    yield at_least(hits, Figure("hits_at_1", f"{case}, entity linked", found.hits_1, "share"))
    assert found.candidate_recall is not None
    candidate = Figure(
        "candidate_recall", f"{case}, entity linked", found.candidate_recall, "share"
    )
    yield candidate if recall is None else at_least(recall, candidate)
    for name, of, called in (
        ("mean_reciprocal_rank", "entity linked", "mean reciprocal rank"),
        ("end_to_end_hits_at_1", "all", "hits@1 from text to answer"),
        ("linked", "all", "entity linked rightly"),
        ("answers_behind_list_limit", "all", "right answers behind the list limit"),
    ):
        yield Figure(name, f"{case}, {of}", found.more[called], "share")


def _steps(whole: Run, part: Run, rounds: int = 30) -> Iterator[Figure]:
    """The same batch of questions, K and width against all facts and against few."""
    all_facts, few_facts = (run.holder.memory("facts").describe().rows for run in (whole, part))
    growth = all_facts / few_facts
    few = f"{few_facts:,} facts"
    every = f"{all_facts:,} facts against {few}"
    batch = f"batch {whole.recipe.batch}"
    asked = questions(
        load_geography(limit=SMALL_PLACES), split="train", count=whole.recipe.batch, seed=9
    )
    right_QA = answers.lists([question.answers for question in asked])

    def stepping(run: Run, k: int | None) -> tuple[Callable[[], object], Callable[[], object]]:
        learner = run.learner
        assert isinstance(learner, KnowledgeLearner)
        read = learner.questions.read([question.text for question in asked])
        at = np.arange(len(read))

        def search() -> Asked:
            return learner.answering.propose(learner.questions.ask(read, at, None))

        found = search() if k else None

        def learn() -> object:
            ready = learner.questions.ask(read, at, learner.recipe.key_limit)
            rng = np.random.default_rng(0)
            lesson = Lesson(found or ready, slice(None), right_QA, right_QA[:, :1], rng)
            return run.trainer.learn(Drawn(0, "hashed", rng, lesson))

        return learn, search

    recipe = whole.recipe
    assert isinstance(recipe, KVRecipe)
    for name, k, bound in (("key hashing", None, 1.5), ("search", recipe.k, 1.2)):
        (learn_all, search_all), (learn_few, search_few) = stepping(whole, k), stepping(part, k)
        timed = paired_medians(learn_all, learn_few, rounds)
        label = f"{name}, {every}, {batch}" + (", all but the search" if k else "")
        yield at_most(bound, Figure("step_s", label, timed.a_s, "s", timed.b_s, ratio=timed.ratio))
        if k:
            timed = paired_medians(search_all, search_few, rounds)
            label = f"search alone, {every}, {batch}, k {k}; bound: the root of {growth:.0f}"
            yield at_most(
                growth**0.5, Figure("search_s", label, timed.a_s, "s", timed.b_s, ratio=timed.ratio)
            )
