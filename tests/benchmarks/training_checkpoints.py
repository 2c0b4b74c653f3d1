"""Checkpoints of the demo's run: seconds and bytes beside a training step, and going on from one.

Rows of entities, relations and words change with every step; keys of facts, and the index, when
they are encoded anew, which the recipe does every 300 steps.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from models.tasks.geography import load_geography
from tests.benchmarks.runner import Figure, at_most
from workers.networks.kv import geography
from workers.run import SHARE, Run

AFTER_STEPS = (10, 40, 90)
"""Steps at which one is made; the last ones are behind an encoding of all facts."""


def run(quick: bool) -> Iterator[Figure]:
    """Measures in a folder of the working directory, which should be on the disk that counts."""
    recipe = dataclasses.replace(
        geography(quick=quick),
        steps=100,
        hashed_steps=50,
        questions=4_000,
    )
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".training_checkpoints-") as scratch:
        folder = Path(scratch)
        base = load_geography(limit=recipe.places)
        Run.build(folder, recipe, base, lambda what, done, total: None)
        case = f"{base.facts.num_rows:,} facts x {recipe.dim}, batch {recipe.batch}"
        with Run(folder) as training:
            yield from _saved(training, f"{case}, the first")
            whole = training.checkpoints.read().bytes
            steps_s: list[float] = []
            before = 0
            with closing(training.train(base, checkpoint_steps=1_000)) as steps:
                for step in steps:
                    steps_s.append(step.seconds)
                    number = step.number + 1
                    if number in AFTER_STEPS:
                        yield Figure("step_s", case, float(np.median(steps_s)), "s")
                        label = f"{case}, {number - before} steps after the last"
                        encoded = before < recipe.hashed_steps <= number
                        label += ", all facts encoded anew" if encoded else ""
                        for figure in _saved(training, label, whole):
                            rows_alone = figure.name == "copied_bytes" and not encoded
                            yield at_most(0.25, figure) if rows_alone else figure
                        before, steps_s = number, []
                    if number == AFTER_STEPS[-1]:
                        break
                # As it is when a process dies: some steps were taken since.
                next(steps)
            start = time.perf_counter()
            training.checkpoints.restore(training.holder, AFTER_STEPS[-1])
            yield Figure("restore_s", case, time.perf_counter() - start, "s")


def _saved(training: Run, case: str, whole: int | None = None) -> Iterator[Figure]:
    start = time.perf_counter()
    training.save()
    stopped_s = time.perf_counter() - start
    training.checkpoints.wait()
    seconds = time.perf_counter() - start
    yield Figure("stopped_s", f"{case}; until the next step may be taken", stopped_s, "s")
    yield Figure("checkpoint_s", case, seconds, "s")
    yield Figure("pause_s", f"{case}, for {SHARE:.0%} of the time", seconds / SHARE, "s")
    yield Figure("copied_bytes", case, float(training.checkpoints.read().copied), "B", whole)
