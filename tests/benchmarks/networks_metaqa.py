"""Key-value networks on MetaQA, 1 to 3 hops: hits@1 of what was held out, beside what is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from tests.benchmarks.runner import Figure
from tests.benchmarks.seeded import mean, read, seeds_of, spread, told, trained, wanted
from workers import networks
from workers.figures import Evaluation
from workers.networks.kv import KVRecipe, metaqa, metaqa_1hop

TARGETS = {1: 0.965, 2: 0.95, 3: 0.85}
"""hits@1 by hops; published of 2 and 3 are .827 and .489."""

TOLD = "hits@1 from text to answer"
"""Of every question, also those about an entity that the base lacks."""

SHORT = "missed for what questions do not count of a fact: docs/results.md, note 1"


def run(quick: bool) -> Iterator[Figure]:
    """Builds, trains and tests; quick: over the entities in most triples, in few steps."""
    for hops, target in TARGETS.items():
        recipe = metaqa_1hop() if hops == 1 else metaqa(hops)
        if quick:
            recipe = dataclasses.replace(
                recipe,
                places=3_000,
                steps=60,
                hashed_steps=40,
                refresh_steps=10,
                questions=4_000,
                test_questions=min(recipe.test_questions, 500 * hops),
            )
        yield from _one(recipe, None if quick else target, quick=quick)


def _one(recipe: KVRecipe, target: float | None, *, quick: bool) -> Iterator[Figure]:
    base = read(recipe)
    runs = [trained(one, base) for one in seeds_of(recipe, quick=quick)]
    hops = f"{recipe.hops} hop{'s' if recipe.hops > 1 else ''}"
    case = told(f"kv, {hops}, {base.facts.num_rows:,} facts, {recipe.steps} steps", runs)
    yield Figure("train_s", case, mean([one.seconds for one in runs]), "s")
    for found in zip(*(one.evaluations for one in runs), strict=True):
        yield from _answers(recipe, found, case, target)


def _answers(
    recipe: KVRecipe, found: Sequence[Evaluation], case: str, target: float | None
) -> Iterator[Figure]:
    """What one way of proposing facts comes to.  found: of it, by seed."""
    first = found[0]
    case = f"{case}; {first.case}, {first.questions:,} questions about entities held out"
    published = networks.of(recipe).published[recipe.task]
    # Of one hop what the network does with the facts it is given; else of every question.
    linked, every = ([one.hits_1 for one in found], [one.more[TOLD] for one in found])
    answered = linked if recipe.hops == 1 else every
    hits = Figure(
        "hits_at_1", f"{case}; peer: published", mean(answered), "share", published.figure
    )
    if target is not None and first.case == "key hashing":
        hits = wanted(target, hits, SHORT if recipe.hops == 1 else "")
    yield hits
    yield from spread(case, "hits@1", answered)
    yield Figure("hits_at_1_linked", case, mean(linked), "share")
    yield Figure("hits_at_1_of_all", case, mean(every), "share")
    for name in first.more:
        if name.startswith("first answer"):
            value = mean([one.more[name] for one in found])
            yield Figure("in_the_fact_asked_for", case, value, "share")
    recalls, scored = zip(*((one.candidate_recall, one.scored) for one in found), strict=True)
    yield Figure("candidate_recall", case, mean(recalls), "share")
    yield Figure("cells_scored", case, mean(scored), "cells a question")
    yield Figure("test_s", case, mean([one.seconds for one in found]), "s")
    assert first.bytes is not None
    yield Figure("memory_bytes", case, float(first.bytes), "B")
