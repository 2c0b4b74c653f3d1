"""Networks with a memory for the episode on stories, from the command line: each task is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.tasks import data
from workers.cli import main
from workers.run import Run

NAMES, PLACES = ("Mary", "John"), ("garden", "office", "kitchen")


def write(folder: Path) -> None:
    """Two tasks: who is where, and whether."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 150), ("test", 6)):
        where, whether = [], []
        for _ in range(count):
            name, place, other = *rng.choice(NAMES, 1), *rng.choice(PLACES, 2)
            went = f"1 {name} went to the {place}.\n"
            where.append(f"{went}2 Where is {name} right now?\t{place}\t1\n")
            answer = "yes" if place == other else "no"
            whether.append(f"{went}2 Is {name} in the {other}?\t{answer}\t1\n")
        (folder / f"qa1_{part}.txt").write_text("".join(where))
        (folder / f"qa6_{part}.txt").write_text("".join(whether))


@pytest.mark.parametrize("model", ["sam", "sdnc"])
def test_stories_are_learnt_and_each_task_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    write(tmp_path / "babi")
    monkeypatch.setenv(data.VARIABLE, str(tmp_path))
    folder = str(tmp_path / "run")
    changes = (
        "steps=80",
        "batch=8",
        "hidden=24",
        "heads=2",
        "width=8",
        "words=32",
        "dense_lr=0.02",
    )
    settings = [f"--set={change}" for change in changes]
    assert main(["fit", "--recipe", f"babi-{model}", *settings, "--out", folder]) == 0
    capsys.readouterr()
    assert main(["evaluate", folder]) == 0
    said = capsys.readouterr().out
    assert "wrong of 6: yes/no questions" in said
    assert "Published: 0.971" in said
    with Run(tmp_path / "run") as run:
        losses = [step.loss for step in run.steps]
        [found] = run.figures
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:3])
    wrong = [
        found.more[f"wrong of {name}"]
        for name in ("1: single supporting fact", "6: yes/no questions")
    ]
    assert found.hits_1 == pytest.approx(1 - np.mean(wrong))
    assert found.more["tasks failed"] == sum(error > 0.05 for error in wrong)
    assert found.questions == 12
