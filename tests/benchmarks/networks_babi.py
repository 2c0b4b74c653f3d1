"""Sparse access memory and the sparse DNC on bAbI: one network for all tasks, beside guessing.

Rae et al. 2016, arXiv 1610.09027, table 1, the best of 15 runs each. Guessing gives the answer that
is given most often to the training questions of a task.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.tasks import babi
from models.tasks.babi import Babi
from tests.benchmarks.runner import Curve, Figure, Measured
from workers.networks import sam
from workers.networks.sequences import FAILED, SequenceRecipe
from workers.run import Run

PUBLISHED = {"sam": (0.041, 2), "sdnc": (0.029, 1)}
"""Mean share of wrong answers, and tasks with more than 5 % of them, of 20."""

POINTS = 40
"""Of a curve."""


def run(quick: bool) -> Iterator[Measured]:
    """Trains each network and tests it on every task; quick: some steps, some stories."""
    base = Babi()
    yield from _guessed(base)
    for model in PUBLISHED:
        recipe = sam.babi(model)
        if quick:
            recipe = dataclasses.replace(recipe, steps=12, batch=16, test_episodes=4)
        yield from _trained(recipe, base)


def _guessed(base: Babi) -> Iterator[Figure]:
    errors = []
    for number, stories in base.parts["test"].items():
        guess = babi.commonest(base.parts["train"][number])
        wrong = [answer != guess for story in stories for answer in babi.answers(story)]
        errors.append(float(np.mean(wrong)))
    case = f"{len(errors)} tasks, the commonest answer of each"
    yield Figure("mean_error", case, float(np.mean(errors)), "share")
    yield Figure("failed_tasks", case, float(sum(error > base.failed for error in errors)), "tasks")


def _trained(recipe: SequenceRecipe, base: Babi) -> Iterator[Measured]:
    case = f"{recipe.model}, {recipe.steps:,} steps of {recipe.batch} stories"
    error, failed = PUBLISHED[recipe.model]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as training:
            steps, start = [], time.perf_counter()
            for step in training.train(base, 1_000):
                steps.append(step)
                if step.number % 500 == 0:
                    told = f"{recipe.model} step {step.number} loss {step.loss:.3f} {step.hits:.3f}"
                    print(told, file=sys.stderr)
            seconds = time.perf_counter() - start
            yield Figure("train_s", case, seconds, "s")
            yield Figure("steps_a_second", case, len(steps) / seconds, "steps/s")
            parts = np.array_split(np.arange(len(steps)), min(POINTS, len(steps)))
            points = [
                (float(part[-1] + 1), 1 - float(np.mean([steps[i].hits for i in part])))
                for part in parts
            ]
            plot = "Wrong words of answers to training questions"
            yield Curve(plot, recipe.model, "steps", "share", points)
            yield Figure(
                "training_error",
                f"{case}, the last {1 / len(parts):.1%} of them",
                points[-1][1],
                "share",
            )
            [found] = training.evaluate(base)
            told = f"{case}; peer: published, best of 15"
            yield Figure("mean_error", told, 1 - found.hits_1, "share", error)
            yield Figure("failed_tasks", told, found.more[FAILED], "tasks", float(failed))
            for name, wrong in found.more.items():
                if name != FAILED:
                    yield Figure("error", f"{case}; {name}", wrong, "share")
