"""Networks on MetaQA, 1 hop: hits@1 of what was held out by entity, beside what was published."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.runner import Figure, at_least
from workers import networks
from workers.figures import Evaluation
from workers.networks.kv import KVRecipe, metaqa_1hop
from workers.run import Run

TARGET = 0.965


def run(quick: bool) -> Iterator[Figure]:
    """Builds, trains and tests; quick: over the entities in most triples, in few steps."""
    recipe = metaqa_1hop()
    if quick:
        recipe = dataclasses.replace(
            recipe, places=3_000, steps=60, hashed_steps=40, refresh_steps=10, questions=4_000
        )
    base = networks.of(recipe).read(recipe)  # raises where its data are missing
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as training:
            start = time.perf_counter()
            for step in training.train(base, 1_000):
                if step.number % 50 == 0:
                    print(f"step {step.number} loss {step.loss:.3f}", file=sys.stderr)
            seconds = time.perf_counter() - start
            case = f"kv, 1 hop, {base.facts.num_rows:,} facts, {recipe.steps} steps"
            yield Figure("train_s", case, seconds, "s")
            for found in training.evaluate(base):
                yield from _answers(recipe, found, case, target=None if quick else TARGET)


def _answers(
    recipe: KVRecipe, found: Evaluation, case: str, target: float | None
) -> Iterator[Figure]:
    case = f"{case}; {found.case}, {found.questions:,} questions about entities held out"
    published = networks.of(recipe).published[recipe.task]
    hits = Figure("hits_at_1", f"{case}; peer: published", found.hits_1, "share", published.figure)
    yield hits if target is None or found.case != "key hashing" else at_least(target, hits)
    for name, value in found.more.items():
        if name.startswith("first answer"):
            yield Figure("in_the_fact_asked_for", case, value, "share")
    assert found.candidate_recall is not None
    assert found.scored is not None
    assert found.bytes is not None
    yield Figure("candidate_recall", case, found.candidate_recall, "share")
    yield Figure("cells_scored", case, found.scored, "cells a question")
    yield Figure("test_s", case, found.seconds, "s")
    yield Figure("memory_bytes", case, float(found.bytes), "B")
