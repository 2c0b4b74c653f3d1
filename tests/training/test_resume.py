"""A run that is killed at any point and goes on has, to the bit, what one has that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from memstore import SearchOptions
from memstore.memory import Array
from tests.conftest import LONG
from tests.training import small
from workers.run import Run

ROOT = Path(__file__).parents[2]
KILLS = 30 if LONG else 2
PATIENCE_S = 500.0


class Seen(NamedTuple):
    """Of a run that is over: losses and hits of its steps, rows, dense weights, what it finds."""

    curve: list[tuple[int, float, float]]
    arrays: list[Array]


def seen(folder: Path) -> Seen:
    with Run(folder) as run:
        assert run.trained
        arrays = [weight.detach().numpy() for weight in run.learner.module.parameters()]
        for name in ("words", "entities", "relations", "facts"):
            memory = run.holder.memory(name)
            keys_BD = memory.gather(np.arange(memory.describe().next_slot)).keys_BD
            assert keys_BD is not None
            arrays.append(keys_BD)
        found = memory.search(arrays[-1][:50], 10, SearchOptions(probe=2))
        curve = [(step.number, step.loss, step.hits) for step in run.steps]
        return Seen(curve, [*arrays, found.slots_QK, found.scores_QK])


def memtrain(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "workers.cli", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def trains(process: subprocess.Popen[str], folder: Path, after: int) -> int:
    """Waits until a run has a checkpoint later than of a step; returns of which."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        steps = [int(path.name[5:13]) for path in folder.glob("checkpoints/step-????????")]
        if max(steps, default=-1) > after or process.poll() is not None:
            return max(steps, default=-1)
        time.sleep(0.01)
    raise AssertionError("no checkpoint came")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output


@pytest.mark.timeout(3_600)
def test_a_run_that_is_killed_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    base, recipe = small.base(), small.recipe()
    Run.build(whole, recipe, base, lambda what, done, total: None)
    with Run(whole) as run:
        (facts,) = {shard.rows for shard in run.holder.memory("facts").describe().shards}
        assert facts > 2_048  # or it would be searched row by row
        assert len(list(run.train(base, checkpoint_steps=1_000))) == recipe.steps
    expected = seen(whole)

    draws = random.Random(1)
    command: tuple[object, ...] = (
        *("fit", "--recipe", "tests.training.small:recipe", "--out", killed),
        *("--checkpoint-steps", 4),
    )
    last = -1
    for _ in range(KILLS):
        process = memtrain(*command)
        last = trains(process, killed, last)
        time.sleep(draws.uniform(0.0, 1.5))
        process.send_signal(signal.SIGKILL)
        code, output = ended(process)
        if code == 0:
            break  # it was faster
        assert code == -signal.SIGKILL, output
        command = ("resume", killed, "--checkpoint-steps", 4)

    # The last of its lives is ended gently, and says how to go on.
    process = memtrain(*command)
    trains(process, killed, last)
    process.send_signal(signal.SIGINT)
    code, output = ended(process)
    # It may come when all is done, and the interpreter alone has to end.
    assert code in (0, 130, -signal.SIGINT), output
    code, output = ended(memtrain("resume", killed))
    assert code == 0, output

    found = seen(killed)
    assert found.curve == expected.curve
    for a, b in zip(found.arrays, expected.arrays, strict=True):
        assert np.array_equal(a, b)
    assert (killed / "training.png").exists()
