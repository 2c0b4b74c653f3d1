"""A network of one's own in the frame that all networks share."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memstore.errors import InvalidArgument
from models.tasks import data
from tests.training import echoes, films, small
from workers import networks, recipes
from workers.cli import main
from workers.run import Run

OWN = "tests.training.echoes:network"


def curve(folder: Path) -> list[tuple[int, float, int]]:
    with Run(folder) as run:
        return [(step.number, step.loss, step.level) for step in run.steps]


def test_one_without_memories_is_trained_gone_on_with_and_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its curriculum depends on what was learnt: what goes on has the level that it had."""
    fit = ("fit", "--network", OWN, "--checkpoint-steps", "7", "--out")
    assert main([*fit, str(tmp_path / "whole")]) == 0
    recipe = echoes.EchoRecipe()
    Run.build(tmp_path / "cut", recipe, echoes.task(), lambda *told: None)
    with Run(tmp_path / "cut") as run:
        steps = run.train(echoes.task(), 1_000)
        for _ in range(23):
            next(steps)
        steps.close()
    assert main(["resume", str(tmp_path / "cut")]) == 0
    expected = curve(tmp_path / "whole")
    assert curve(tmp_path / "cut") == expected
    assert len(expected) == recipe.steps
    levels = [level for _, _, level in expected]
    assert (levels[0], levels[-1]) == (1, recipe.longest)
    with Run(tmp_path / "whole") as one, Run(tmp_path / "cut") as other:
        named = dict(other.learner.module.named_parameters())
        for name, weight in one.learner.module.named_parameters():
            np.testing.assert_array_equal(weight.detach(), named[name].detach())

    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "cut")]) == 0
    said = capsys.readouterr().out
    assert f"length {recipe.longest}" in said
    assert "Published: 0.999, nobody. It was longer." in said
    assert "candidate recall" not in said
    assert main(["ask", "Where?", "--out", str(tmp_path / "cut")]) == 1
    assert "answers no questions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "network", "said"),
    [
        ("geography", "kw", "no such network: got 'kw'"),
        ("geography", OWN, "no such recipe: got 'geography', expected one of ['echo']"),
        ("tests.training.small:recipe", OWN, "is of another network: got 'kv'"),
        ("tests.training.small:base", "tests.training.small:task", "is none: got Task"),
        ("tests.training.test_networks:swapped", None, "got KVRecipe, expected EchoRecipe"),
    ],
)
def test_what_does_not_fit_a_network_is_refused(name: str, network: str | None, said: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(said)):
        recipes.recipe_of(name, network=network)


def test_questions_in_a_published_format_are_learnt_and_told_with_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    films.write(tmp_path / "data")
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "data"))
    folder = tmp_path / "run"
    assert main(["fit", "--recipe", "tests.training.films:recipe", "--out", str(folder)]) == 0
    assert main(["evaluate", str(folder)]) == 0
    assert "Published: 0.962" in capsys.readouterr().out
    with Run(folder) as run:
        hashed, _ = run.figures
    assert (hashed.case, hashed.candidate_recall) == ("key hashing", 1.0)
    assert hashed.hits_1 > 0.8
    assert hashed.more["first answer is an object of the fact asked for"] == hashed.hits_1


def swapped() -> object:
    return replace(small.recipe(), network=OWN)


def test_a_task_of_another_kind_is_refused(tmp_path: Path) -> None:
    recipe = replace(small.recipe(), task="tests.training.echoes:task")
    with pytest.raises(InvalidArgument, match=r"is not for this network: got Copying"):
        networks.of(recipe).read(recipe)


def test_a_recipe_is_the_same_after_a_run_folder() -> None:
    from dataclasses import asdict

    for name, make in recipes.known().items():
        made = recipes.recipe_of(name)
        assert recipes.from_dict(asdict(made)) == made == make()
