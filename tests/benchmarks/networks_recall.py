"""Associative recall by sparse access memory: trained by a curriculum, tested on longer episodes.

Pairs of a key of 24 bits and a value of 8, a pair a step, then keys; full backpropagation through
time. Rae et al. 2016, section 4.3, train past length 4,000 and to 10,000, in days, and test up to
200,000.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.runner import Curve, Figure, Measured, at_least, at_most
from workers.networks import sam
from workers.networks.sequences import SequenceRecipe
from workers.run import Run

PAIRS, MINUTES, WRONG = 100, 60, 0.05
"""What training reaches at least, what it takes at most, what is wrong at most at 20 times that."""


def run(quick: bool) -> Iterator[Measured]:
    """Trains by the recipe `recall`, and tests at the trained length and at 2, 5 and 20 times."""
    recipe = sam.NETWORK.recipes["recall"]()
    assert isinstance(recipe, SequenceRecipe)
    if quick:
        recipe = dataclasses.replace(recipe, steps=3_000, longest=32, test_episodes=16)
    with tempfile.TemporaryDirectory() as scratch:
        folder, start = Path(scratch, "run"), time.perf_counter()
        base = sam.NETWORK.read(recipe)
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as trained:
            points = list[tuple[float, int]]()
            for step in trained.train(base):
                minutes = (time.perf_counter() - start) / 60
                if not points or step.level != points[-1][1]:
                    points += [(minutes, step.level)]
                    print(
                        f"{minutes:.1f} min, step {step.number}: {step.level} pairs",
                        file=sys.stderr,
                    )
            minutes = (time.perf_counter() - start) / 60
            found = trained.evaluate(base)
    case = f"recall, LSTM {recipe.hidden}, heads {recipe.heads}, batch {recipe.batch}"
    case += f", {recipe.steps} steps"
    level = Figure("trained_length", case, points[-1][1], "pairs")
    taken = Figure("training", case, minutes, "min")
    yield level if quick else at_least(PAIRS, level)
    yield taken if quick else at_most(MINUTES, taken)
    for test in found:
        name = f"{case}; tested on {test.case}"
        wrong = Figure("wrong", name, 1 - test.hits_1, "share of values")
        yield at_most(WRONG, wrong) if test is found[-1] and not quick else wrong
        yield Figure("answering_rate", name, test.questions / test.seconds, "episodes/s")
    yield Curve(
        "Associative recall: the longest episodes of training",
        "memstore SAM",
        "minutes",
        "pairs",
        [*points, (minutes, points[-1][1])],
        log_y=True,
    )
