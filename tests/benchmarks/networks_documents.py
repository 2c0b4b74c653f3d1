"""Key-value memory networks that read films' articles: sentences, windows, titles; and the base."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from models.tasks import films
from models.tasks.knowledge import KnowledgeBase
from tests.benchmarks.runner import Figure, at_least
from workers.figures import Evaluation
from workers.networks import kv
from workers.networks.kv import KVRecipe
from workers.run import Run

RECIPES: dict[str, Callable[[], KVRecipe]] = {
    "base": kv.films,
    "sentences": partial(kv.films, "sentences"),
    "windows": partial(kv.films, "windows"),
    "windows, centre": partial(kv.films, "windows", centre=True),
    "windows, title": partial(kv.films, "windows", title=True),
    "windows, centre, title": partial(kv.films, "windows", centre=True, title=True),
}
PUBLISHED = {
    "base": 0.939,
    "sentences": 0.524,
    "windows": 0.668,
    "windows, title": 0.741,
    "windows, centre, title": 0.769,
}
"""hits@1 on WikiMovies, Miller et al. 2016: from the base on the test set, else on the development
set, for two hops."""


def run(quick: bool) -> Iterator[Figure]:
    """Trains alike, but for what is read; quick: over few films, in few steps."""
    base: KnowledgeBase | None = None
    found: dict[str, float] = {}
    for name, make in RECIPES.items():
        recipe = make()
        if quick:
            if name == "windows, centre":
                continue
            recipe = dataclasses.replace(
                recipe,
                places=1_500,
                steps=100,
                hashed_steps=100,
                questions=6_000,
                test_questions=500,
            )
        if base is None:
            base = kv.NETWORK.read(recipe)
            yield from _ceiling(base)
        tested, seconds = _trained(recipe, base)
        case = f"{name}; {tested.questions:,} questions, {recipe.steps} steps of {recipe.batch}"
        found[name] = tested.more["hits@1 from text to answer"]
        published = PUBLISHED.get(name)
        shown = case if published is None else f"{case}; peer: published, on WikiMovies"
        yield Figure("hits_at_1", shown, found[name], "share", published)
        for kind, (count, hits, _) in tested.kinds.items():
            yield Figure("hits_at_1_of_kind", f"{case}; {kind}, {count} of them", hits, "share")
        assert tested.candidate_recall is not None
        assert tested.scored is not None
        yield Figure("candidate_recall", case, tested.candidate_recall, "share")
        yield Figure("cells_scored", case, tested.scored, "cells a question")
        yield Figure("training", f"{case}, building included", seconds, "s")
    for more, less in (("windows", "sentences"), ("windows, title", "windows")):
        figure = Figure("hits_at_1", f"{more}; peer: {less}", found[more], "share", found[less])
        yield figure if quick else at_least(1.0, figure)


def _ceiling(base: KnowledgeBase) -> Iterator[Figure]:
    """The share of the facts of each relation of which an answer is in a text: what is asked."""
    for relation, asked in films.asked(base).items():
        case = f"{relation}, {asked.facts:,} facts"
        yield Figure("answer_in_a_text", case, len(asked.subjects) / asked.facts, "share")


def _trained(recipe: KVRecipe, base: KnowledgeBase) -> tuple[Evaluation, float]:
    """The first test of a run, and the seconds that building and training took."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, start = Path(scratch, "run"), time.perf_counter()
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as trained:
            for step in trained.train(base, recipe.steps):
                if step.number % 50 == 0:
                    print(f"step {step.number} loss {step.loss:.3f}", file=sys.stderr)
            seconds = time.perf_counter() - start
            return trained.evaluate(base)[0], seconds
