"""The factual memory network on MetaQA, two and three facts away: answers, cells, seconds."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.runner import Figure
from workers.figures import Evaluation
from workers.networks import factual
from workers.networks.factual import FactualRecipe
from workers.run import Run

TARGETS = {2: 0.95, 3: 0.85}
"""hits@1, over all questions, also those that the base cannot answer."""


def run(quick: bool) -> Iterator[Figure]:
    """Trains on questions of the development sets, and those made of them, tests on the others."""
    for hops, target in TARGETS.items():
        recipe = factual.metaqa(hops)
        if quick:
            recipe = dataclasses.replace(
                recipe, steps=40 * hops, questions=4_000, test_questions=500
            )
        found, seconds = _trained(recipe)
        case = f"MetaQA, {hops} facts away, {found.questions:,} questions, {recipe.steps} steps"
        hits = Figure(
            "hits_at_1",
            f"{case}; peer: published, KV-MemNN",
            found.more["hits@1 from text to answer"],
            "share",
            factual.NETWORK.published[recipe.task].figure,
        )
        if not quick:
            met = hits.value >= target
            hits = dataclasses.replace(hits, target=f"at least {target:g} share", met=met)
        yield hits
        yield Figure("hits_at_1_linked", case, found.hits_1, "share")
        assert found.candidate_recall is not None
        assert found.scored is not None
        yield Figure("candidate_recall", case, found.candidate_recall, "share")
        yield Figure("cells_scored", case, found.scored, "cells a question")
        yield Figure("answering_rate", case, found.questions / found.seconds, "questions/s")
        yield Figure("training", f"{case}, reading and building included", seconds, "s")


def _trained(recipe: FactualRecipe) -> tuple[Evaluation, float]:
    """The test of a run, and the seconds that reading, building and training took."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, start = Path(scratch, "run"), time.perf_counter()
        base = factual.NETWORK.read(recipe)
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as trained:
            for step in trained.train(base):
                if step.number % 100 == 0:
                    print(f"step {step.number} loss {step.loss:.3f}", file=sys.stderr)
            seconds = time.perf_counter() - start
            (found,) = trained.evaluate(base)
    return found, seconds
