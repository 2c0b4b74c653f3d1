"""The key-value network over documents, and over facts several away, from the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memstore.errors import InvalidArgument
from models.tasks.data import VARIABLE
from tests.training import articles, chained, small
from workers.cli import main
from workers.networks.kv import KVRecipe
from workers.run import Run

SMALL = ["steps=80", "batch=32", "dim=32", "row_lr=0.3", "questions=500", "test_questions=100"]


def fitted(folder: Path, recipe: str, *settings: str) -> Run:
    told = [f"--set={setting}" for setting in (*SMALL, *settings)]
    assert main(["fit", "--network", "kv", "--recipe", recipe, *told, "--out", str(folder)]) == 0
    return Run(folder)


@pytest.mark.parametrize("settings", [(), ("centre=true",)])
def test_windows_and_titles_are_learnt_and_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: tuple[str, ...],
) -> None:
    articles.write(tmp_path / "data")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    with fitted(tmp_path / "run", "films-windows-title", *settings) as run:
        (found,) = run.evaluate(run.base())
    assert found.hits_1 > 0.8
    assert found.candidate_recall is not None
    assert found.candidate_recall > 0.95
    assert set(found.kinds) == {"starred_actors", "acted in", "release_year", "has_genre"}
    assert found.more["entity linked rightly"] == 1.0
    assert found.confusion is None
    capsys.readouterr()
    assert main(["ask", "who stars in [Story 7]", "--out", str(tmp_path / "run")]) == 0
    assert "window" in capsys.readouterr().out


def test_sentences_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    articles.write(tmp_path / "data")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    with fitted(tmp_path / "run", "films-sentences", "steps=60") as run:
        (found,) = run.evaluate(run.base())
        losses = [step.loss for step in run.steps]
    assert losses[-1] < losses[0]
    assert 0.1 < found.hits_1 <= 1.0


@pytest.mark.parametrize("settings", [("apart=true",), ("follow=true", "hop_loss=true")])
def test_answers_two_facts_away_are_read_by_two_hops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    chained.write(tmp_path / "data")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    with fitted(tmp_path / "run", "metaqa-2hop", *settings) as run:
        (found,) = run.evaluate(run.base())
    assert found.candidate_recall is not None
    assert found.candidate_recall > 0.95
    assert found.hits_1 > 0.8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reads": "pages"}, "reads is unknown: got 'pages'"),
        ({"reads": "sentences", "title": True}, "centre and title are of windows"),
        ({"reads": "windows", "window": 6}, "a window has a centre: got 6"),
        ({"reads": "windows", "away": 2}, "several facts away"),
        ({"follow": True}, "nothing leads to"),
        ({"hop_loss": True}, "nothing leads to"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(said)):
        KVRecipe(**settings)


def test_a_task_without_texts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = KVRecipe(task="tests.training.small:task", reads="windows", places=50)
    with pytest.raises(InvalidArgument, match="has no texts"):
        Run.build(tmp_path / "run", recipe, small.base(50), lambda *told: None)
