"""The networks over a knowledge base, from the command line: trained, tested and gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.tasks import metaqa
from models.tasks.data import VARIABLE
from tests.training import chained
from workers.cli import main
from workers.networks.hmn_recipe import HMNRecipe
from workers.networks.knowledge import KnowledgeLearner
from workers.run import Run


@pytest.fixture
def chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chained.write(tmp_path / "data")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))


def hmn() -> HMNRecipe:
    return HMNRecipe(
        task="tests.training.small:task",
        places=600,
        dim=16,
        shards=2,
        probe=4,
        batch=32,
        steps=60,
        refresh_steps=20,
        sample_random=8,
        questions=600,
        test_questions=100,
    )


@pytest.mark.parametrize("read", ["clusters", "exact", "all"])
def test_hmn_learns_by_what_is_proposed(tmp_path: Path, read: str) -> None:
    recipe = f"{__name__}:hmn"
    fit = ["fit", "--network", "hmn", "--recipe", recipe, "--out", str(tmp_path / "run")]
    assert main([*fit, "--set", f"read={read}"]) == 0
    with Run(tmp_path / "run") as run:
        _, searched = run.evaluate(run.base())
        facts = run.learner.describe()
    assert searched.hits_1 > 0.8
    assert searched.candidate_recall is not None
    assert searched.candidate_recall >= searched.hits_1
    every = float(facts.split()[0].replace(",", ""))
    assert searched.scored is not None
    # All cells are scored but where clusters propose.
    assert (searched.scored < every) == (read == "clusters")


def test_factual_follows_facts_and_goes_on_where_it_was(
    tmp_path: Path, chains: None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        f"--set={s}" for s in ("steps=60", "batch=32", "dim=32", "row_lr=0.2", "questions=400")
    ]
    fit = ["fit", "--network", "factual", "--recipe", "metaqa-2hop", *settings, "--out"]
    assert main([*fit, str(tmp_path / "whole")]) == 0
    with Run(tmp_path / "whole") as run:
        (found,) = run.evaluate(run.base())
        steps = [step.loss for step in run.steps]
        recipe = run.recipe
    assert found.hits_1 > 0.9
    assert found.more["entity linked rightly"] == 1.0
    assert set(found.kinds) <= {
        "directed → has_genre",
        "directed → starred_actors",
        "acted in → has_genre",
        "acted in → directed_by",
    }
    base = metaqa.load_metaqa()
    Run.build(tmp_path / "cut", recipe, base, lambda *told: None)
    with Run(tmp_path / "cut") as run:
        taken = run.train(base, 1_000)
        for _ in range(10):
            next(taken)
        taken.close()
    assert main(["resume", str(tmp_path / "cut")]) == 0
    with Run(tmp_path / "cut") as run:
        assert [step.loss for step in run.steps] == steps
    capsys.readouterr()
    question = "who directed the films starring [Person 3]"
    plot = tmp_path / "plots" / "hops.png"
    asked = ["ask", question, "--out", str(tmp_path / "cut"), "--plot"]
    assert main([*asked, str(plot)]) == 0
    said = capsys.readouterr().out
    assert "Person" in said
    assert str(plot) in said.replace("\n", "")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main([*asked, str(plot.with_suffix(".txt"))]) == 1
    assert "expected FILE.png" in capsys.readouterr().out
    with Run(tmp_path / "cut") as run:
        assert isinstance(run.learner, KnowledgeLearner)
        [told] = run.learner.reply([question], searched=False)
    # Each of two layers gave its weight to what it follows.
    first, *then = told.facts
    assert (first.subject, first.relation) == ("Person 3", "acted in")
    assert first.weights[0] > 0.9
    assert {fact.relation for fact in then} == {"directed_by"}
    assert all(fact.weights[0] < 0.1 < fact.weights[1] for fact in then)
