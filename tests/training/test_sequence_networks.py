"""Networks with a memory for the episode, from the command line: trained, gone on with, tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memstore.errors import InvalidArgument
from models.tasks.sequences import Copy
from workers.cli import main
from workers.group import Group
from workers.learner import Step
from workers.networks.sequences import SequenceLearner, SequenceRecipe
from workers.recipes import recipe_of
from workers.run import Run

OWN = "tests.training.test_sequence_networks"


def task() -> Copy:
    return Copy(3)


def recipe() -> SequenceRecipe:
    """Copies one or two items of three bits, in seconds."""
    return SequenceRecipe(
        task=f"{OWN}:task",
        steps=300,
        batch=8,
        dense_lr=0.02,
        hidden=32,
        width=12,
        words=16,
        level=1,
        longest=2,
        bound=0.3,
        window=5,
        test_episodes=20,
    )


def curve(folder: Path) -> list[tuple[int, float, int]]:
    with Run(folder) as run:
        return [(step.number, step.loss, step.level) for step in run.steps]


def test_the_learning_rate_falls_to_0_by_the_last_step() -> None:
    cooling = replace(recipe(), steps=10, cooldown=0.5)
    learner = SequenceLearner(cooling, Group())
    rates = []
    for step in range(10):
        learner.prepare(step)
        rates.append(learner.dense.param_groups[0]["lr"])
    assert rates == pytest.approx([0.02] * 6 + [0.016, 0.012, 0.008, 0.004])


def test_no_level_begins_once_the_learning_rate_falls() -> None:
    rising = replace(recipe(), steps=8, cooldown=0.5, level=1, longest=64, bound=9.0, window=1)
    learner = SequenceLearner(rising, Group())
    levels = []
    for number in range(8):
        learner.took(Step(number=number, kind="copy", loss=1.0, hits=1.0, seconds=0.1))
        levels.append(learner.curriculum.level)
    assert levels == [2, 4, 8, 16, 16, 16, 16, 16]


def test_a_copy_is_learnt_and_levels_rise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "run")
    assert main(["fit", "--network", "sam", "--recipe", f"{OWN}:recipe", "--out", folder]) == 0
    steps = curve(tmp_path / "run")
    levels = [level for _, _, level in steps]
    assert (levels[0], levels[-1]) == (1, 2)
    assert levels == sorted(levels)
    capsys.readouterr()
    assert main(["evaluate", folder]) == 0
    said = capsys.readouterr().out
    assert "2 items" in said
    assert "40 items" in said
    with Run(tmp_path / "run") as run:
        trained, twice, *_ = run.figures
    assert trained.hits_1 > 0.75
    assert twice.questions == 24  # whole batches
    assert trained.more["share of answers wrong"] == pytest.approx(1 - trained.hits_1)
    assert trained.more["cost of an answer"] < 1.5  # of three bits


def test_what_goes_on_has_the_losses_of_a_run_that_was_not_interrupted(tmp_path: Path) -> None:
    short = recipe_of(f"{OWN}:recipe", ["steps=60"])
    assert isinstance(short, SequenceRecipe)
    for name in ("whole", "cut"):
        Run.build(tmp_path / name, short, task(), lambda *told: None)
        with Run(tmp_path / name) as run:
            steps = run.train(task(), 1_000)
            for step in steps:
                if name == "cut" and step.number == 42:
                    # It takes back what it changed in the memories of the episode.
                    run.learner.evaluate(task())
                    steps.close()
    with Run(tmp_path / "cut") as run:
        assert len(list(run.train(task(), 1_000))) == 17
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    with Run(tmp_path / "whole") as one, Run(tmp_path / "cut") as other:
        assert one.learner.position() == other.learner.position()
        named = dict(other.learner.module.named_parameters())
        for name, weight in one.learner.module.named_parameters():
            np.testing.assert_array_equal(weight.detach(), named[name].detach())


@pytest.mark.parametrize("model", ["ntm", "dam"])
def test_the_dense_twins_learn_the_same_way(tmp_path: Path, model: str) -> None:
    settings = [f"--set={setting}" for setting in (f"model={model}", "steps=120")]
    fit = ["fit", "--recipe", f"{OWN}:recipe", *settings, "--out", str(tmp_path / "run")]
    assert main(fit) == 0
    losses = [loss for _, loss, _ in curve(tmp_path / "run")]
    assert np.mean(losses[:5]) > 2.5  # of three bits
    assert np.mean(losses[-20:]) < 1.5
    with Run(tmp_path / "run") as run:
        found = run.evaluate(task())
    assert [test.bytes for test in found] == sorted(test.bytes or 0 for test in found)


def test_what_no_run_can_be_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no such model: got 'smm', expected 'sam'"):
        recipe_of("recall", ["model=smm"])
    with pytest.raises(InvalidArgument, match="window is out of range"):
        SequenceRecipe(window=0)
