"""Key-value memory networks that read films' articles: sentences, windows, titles; and the base."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

from models.tasks import films
from models.tasks.knowledge import KnowledgeBase
from tests.benchmarks.runner import Figure, at_least
from tests.benchmarks.seeded import mean, seeds_of, spread, told, trained
from workers.networks import kv
from workers.networks.kv import KVRecipe

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
    """Trains alike, but for what is read; quick: over few films, in few steps, with one seed."""
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
        runs = [trained(one, base) for one in seeds_of(recipe, quick=quick)]
        tests = [one.evaluations[0] for one in runs]
        case = f"{name}; {tests[0].questions:,} questions, {recipe.steps} steps of {recipe.batch}"
        case = told(case, runs)
        answered = [test.more["hits@1 from text to answer"] for test in tests]
        found[name] = mean(answered)
        published = PUBLISHED.get(name)
        shown = case if published is None else f"{case}; peer: published, on WikiMovies"
        yield Figure("hits_at_1", shown, found[name], "share", published)
        yield from spread(case, "hits@1", answered)
        for kind, (count, _, _) in tests[0].kinds.items():
            hits = mean([test.kinds[kind][1] for test in tests])
            yield Figure("hits_at_1_of_kind", f"{case}; {kind}, {count} of them", hits, "share")
        recalls, scored = zip(*((t.candidate_recall, t.scored) for t in tests), strict=True)
        yield Figure("candidate_recall", case, mean(recalls), "share")
        yield Figure("cells_scored", case, mean(scored), "cells a question")
        yield Figure("training", case, mean([one.seconds for one in runs]), "s")
    for more, less in (("windows", "sentences"), ("windows, title", "windows")):
        figure = Figure("hits_at_1", f"{more}; peer: {less}", found[more], "share", found[less])
        yield figure if quick else at_least(1.0, figure)


def _ceiling(base: KnowledgeBase) -> Iterator[Figure]:
    """The share of the facts of each relation of which an answer is in a text: what is asked."""
    for relation, asked in films.asked(base).items():
        case = f"{relation}, {asked.facts:,} facts"
        yield Figure("answer_in_a_text", case, len(asked.subjects) / asked.facts, "share")
