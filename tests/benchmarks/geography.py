"""The geography task end to end: build rate, answers, cost of a step against memory size."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from memstore.memory import Slots
from models.kv_memnn import Asked
from models.tasks import answers
from models.tasks.geography import load_geography
from models.tasks.geography_questions import questions
from tests.benchmarks.runner import Figure, at_least, at_most, paired_medians
from workers import recipes
from workers.evaluate import Evaluation
from workers.loop import Drawn
from workers.recipes import Recipe
from workers.run import Run

SMALL_PLACES = 1_000
"""About 12,500 facts, all of them also in the full base, under the same entity numbers."""


def run(quick: bool) -> Iterator[Figure]:
    """Builds, trains and tests the demo's memory, and a small one beside it."""
    recipe = recipes.geography(quick=quick)
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


def _build(folder: Path, recipe: Recipe, facts: int | None) -> float:
    base = load_geography(limit=recipe.places)
    start = time.perf_counter()
    Run.build(folder, recipe, base, lambda what, done, total: None)
    return (facts or base.facts.num_rows) / (time.perf_counter() - start)


def _answers(found: Evaluation, hits: float, recall: float | None) -> Iterator[Figure]:
    case = f"{found.proposed_by}, held-out wordings and entities, {found.questions:,} questions"
    yield at_least(hits, Figure("hits_at_1", f"{case}, entity linked", found.hits_1, "share"))
    candidate = Figure(
        "candidate_recall", f"{case}, entity linked", found.candidate_recall, "share"
    )
    yield candidate if recall is None else at_least(recall, candidate)
    yield Figure("mean_reciprocal_rank", f"{case}, entity linked", found.mrr, "share")
    yield Figure("end_to_end_hits_at_1", f"{case}, all", found.end_to_end, "share")
    yield Figure("linked", case, found.linked, "share")
    yield Figure("answers_behind_list_limit", case, found.beyond_limit, "share")


def _steps(whole: Run, part: Run, rounds: int = 30) -> Iterator[Figure]:
    """The same batch of questions, K and width against all facts and against few."""
    growth = whole.memories.facts.describe().rows / part.memories.facts.describe().rows
    few = f"{part.memories.facts.describe().rows:,} facts"
    every = f"{whole.memories.facts.describe().rows:,} facts against {few}"
    batch = f"batch {whole.recipe.batch}"
    asked = questions(
        load_geography(limit=SMALL_PLACES), split="train", count=whole.recipe.batch, seed=9
    )
    right = [question.answers for question in asked]
    right_QA = answers.ragged(np.concatenate(right), np.array([len(r) for r in right]))

    def stepping(run: Run, k: int | None) -> tuple[Callable[[], object], Callable[[], object]]:
        read = run.reader.read([question.text for question in asked])
        at = np.arange(len(read))

        @torch.no_grad()
        def search() -> Slots:
            return run.network.reader.search(run.network.encode(run.reader.ask(read, at, None)))

        found = search() if k else None

        def learn() -> object:
            ready = run.reader.ask(read, at, run.recipe.key_limit)
            if found is not None:
                ready = Asked(ready.words_QW, ready.entity_Q, found)
            return run.trainer.learn(Drawn(0, at, ready, np.random.default_rng(0)), right_QA)

        return learn, search

    for name, k, bound in (("key hashing", None, 1.5), ("search", whole.recipe.k, 1.2)):
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
