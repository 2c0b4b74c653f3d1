"""Runs of one recipe under several seeds, for benchmarks of networks; no benchmark itself."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tests.benchmarks.runner import Figure
from workers import networks
from workers.figures import Evaluation
from workers.recipe import Recipe
from workers.run import Run

SEEDS = 3

SAID_S = 30.0
"""How often it is said how far training is."""

R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class Trained:
    """What came of a run.  seconds: of its training alone."""

    seconds: float
    evaluations: list[Evaluation]


def seeds_of(recipe: R, *, quick: bool) -> list[R]:
    """The recipe under each seed; quick: under one."""
    return [dataclasses.replace(recipe, seed=seed) for seed in range(1 if quick else SEEDS)]


def told(case: str, runs: Sequence[object]) -> str:
    """A case, with the seeds that a figure is the mean of."""
    return f"{case}, seed 0" if len(runs) == 1 else f"{case}, mean of {len(runs)} seeds"


def trained(recipe: Recipe, base: Any) -> Trained:
    """Builds and trains a run, and tests it."""
    with training(recipe, base) as (run, seconds):
        return Trained(seconds, run.evaluate(base))


@contextlib.contextmanager
def training(recipe: Recipe, base: Any) -> Iterator[tuple[Run, float]]:
    """A run that was built and trained, as long as it is asked, and the seconds of its training."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as run:
            start = said = time.perf_counter()
            for step in run.train(base, recipe.steps):
                if time.perf_counter() - said > SAID_S:
                    said = time.perf_counter()
                    line = f"{recipe.task}, seed {recipe.seed}, step {step.number}: {step.loss:.4f}"
                    print(line, file=sys.stderr, flush=True)
            yield run, time.perf_counter() - start


def read(recipe: Recipe) -> Any:
    """What the recipe is trained on; raises where its data are missing."""
    return networks.of(recipe).read(recipe)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def wanted(target: float, figure: Figure, why: str = "") -> Figure:
    """At least so much of a share, whatever stands beside it.  why: it is known to be missed."""
    met = figure.value >= target
    said = f"at least {target:g} share{'' if met or not why else f'; {why}'}"
    return dataclasses.replace(figure, target=said, met=met)


def spread(case: str, what: str, values: Sequence[float], unit: str = "share") -> Iterator[Figure]:
    """How far the best is from the worst; of one nothing."""
    if len(values) > 1:
        yield Figure("spread", f"{case}, {what}", float(np.ptp(values)), unit)
