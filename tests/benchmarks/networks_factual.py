"""The factual memory network on MetaQA, two and three facts away: answers, cells, seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tests.benchmarks.runner import Figure
from tests.benchmarks.seeded import mean, read, seeds_of, spread, told, trained, wanted
from workers.networks import factual

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
        base = read(recipe)
        runs = [trained(one, base) for one in seeds_of(recipe, quick=quick)]
        found = [one.evaluations[0] for one in runs]
        questions = found[0].questions
        case = f"MetaQA, {hops} facts away, {questions:,} questions, {recipe.steps} steps"
        case = told(case, runs)
        answered = [one.more["hits@1 from text to answer"] for one in found]
        hits = Figure(
            "hits_at_1",
            f"{case}; peer: published, KV-MemNN",
            mean(answered),
            "share",
            factual.NETWORK.published[recipe.task].figure,
        )
        yield hits if quick else wanted(target, hits)
        yield from spread(case, "hits@1", answered)
        yield Figure("hits_at_1_linked", case, mean([one.hits_1 for one in found]), "share")
        recalls, scored = zip(*((one.candidate_recall, one.scored) for one in found), strict=True)
        yield Figure("candidate_recall", case, mean(recalls), "share")
        yield Figure("cells_scored", case, mean(scored), "cells a question")
        seconds = mean([one.seconds for one in found])
        yield Figure("answering_rate", case, questions / seconds, "questions/s")
        yield Figure("train_s", case, mean([one.seconds for one in runs]), "s")
