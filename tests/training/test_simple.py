"""Simple questions, from the command line: learnt, tested, gone on with, linked to another base."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from memstore.errors import InvalidArgument
from models.simple_qa import Facts
from models.tasks import data, simple_questions
from models.tasks.knowledge import (
    ALIAS_SCHEMA,
    ENTITY_SCHEMA,
    KnowledgeBase,
    Triples,
    group_facts,
)
from models.tasks.simple_questions import SimpleQuestions
from tests.training import simples
from workers import path_accuracy, recipes
from workers.cli import main
from workers.linked import Linked
from workers.networks.hmn_simple import NamedLearner
from workers.networks.simple import SimpleLearner, SimpleRecipe
from workers.run import Run


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simples.write(tmp_path / "data")
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "data"))


CELLS = ("steps=100", "batch=32", "dim=24", "shards=2", "probe=4", "refresh_steps=25")
SMALL = ("steps=80", "batch=32", "dim=24", "negatives=16", "shards=2")


def fit(task: str, out: Path, *more: str) -> int:
    told = [f"--set={setting}" for setting in (*SMALL, *more)]
    return main(["fit", "--network", "simple", "--recipe", task, *told, "--out", str(out)])


@contextlib.contextmanager
def trained(folder: Path, *more: str) -> Iterator[tuple[Run, SimpleLearner, SimpleQuestions]]:
    """A run on the questions of DBpedia, without the command line."""
    base = simple_questions.load_dbpedia()
    recipe = recipes.recipe_of("simple-dbpedia", (*SMALL, *more))
    Run.build(folder, recipe, base, lambda *told: None)
    with Run(folder) as run:
        for _ in run.train(base, 1_000):
            pass
        assert isinstance(run.learner, SimpleLearner)
        yield run, run.learner, base


@pytest.mark.parametrize("task", ["simple-dbpedia", "simple-freebase"])
def test_subjects_never_asked_about_are_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    assert fit(task, tmp_path / "run") == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "Published: 0.627" in said
    assert "candidate recall" in said
    with Run(tmp_path / "run") as run:
        facts, pairs = run.figures
    assert facts.candidate_recall == 1.0
    assert facts.hits_1 > 0.9
    assert facts.more["subject right"] == 1.0
    assert facts.hits_1 > facts.more["most frequent relation of the longest name"] + 0.1
    assert pairs.hits_1 > 0.8
    assert pairs.scored is not None
    assert facts.scored is not None
    assert pairs.scored > facts.scored
    assert sum(count for count, _, _ in facts.kinds.values()) == facts.questions


def test_a_typed_question_is_answered_by_its_fact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trained(tmp_path / "run") as (_, learner, base):
        told = learner.reply([q.text for q in base.test], searched=False)
    names, relations = base.base.entities["name"].to_pylist(), base.base.relations
    right = 0
    for question, reply in zip(base.test, told, strict=True):
        best = reply.facts[0]
        assert names[question.subject] in reply.candidates
        assert best.subject in reply.candidates
        scores = [fact.weights[0] for fact in reply.facts]
        assert scores == sorted(scores, reverse=True)
        assert max(map(abs, scores)) < 1.0001
        asked = {relations[relation] for relation in question.relations}
        right += best.subject == names[question.subject] and best.relation in asked
    assert right > 0.9 * len(told)
    ask = ["ask", "--out", str(tmp_path / "run")]
    assert main([*ask, "where was person zu3 born?", "where is nowhere?"]) == 0
    first, second = capsys.readouterr().out.split("where is nowhere?")
    assert "about Person Zu3\n  Town Zi" in first
    assert "Person Zu3 · " in first
    assert "no name I know" in second
    for wrong, why in (("--search", "not searched for"), ("--plot=hops.png", "no hops to draw")):
        assert main([*ask, wrong, "where was person zu3 born?"]) == 1
        assert why in capsys.readouterr().out


@pytest.mark.parametrize("read", ["clusters", "exact", "all"])
def test_the_fact_asked_for_is_found_among_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], read: str
) -> None:
    folder = tmp_path / "run"
    settings = [f"--set={setting}" for setting in (*CELLS, f"read={read}")]
    fit = ["fit", "--network", "hmn", "--recipe", "simple-dbpedia", *settings]
    assert main([*fit, "--out", str(folder)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(folder)]) == 0
    assert "candidate recall" in capsys.readouterr().out
    with Run(folder) as run:
        named, searched = run.figures
        assert isinstance(run.learner, NamedLearner)
        facts = run.learner.memories.facts.describe().rows
    assert named.hits_1 > 0.8
    assert searched.hits_1 > 0.8
    assert searched.candidate_recall is not None
    assert searched.candidate_recall >= searched.hits_1
    assert named.scored is not None
    assert searched.scored is not None
    # All cells are scored but where clusters propose; of candidates only their own facts.
    assert (searched.scored < facts) == (read == "clusters")
    assert named.scored < searched.scored
    ask = ["ask", "--out", str(folder), "where was person zu3 born?"]
    for how in ([], ["--search"]):
        assert main([*ask, *how]) == 0
        assert "Person Zu3 · " in capsys.readouterr().out


def test_cells_that_were_learnt_in_two_goes_are_those_of_one(tmp_path: Path) -> None:
    base = simple_questions.load_dbpedia()
    settings = (*CELLS, "steps=24", "refresh_steps=10", "sample_random=8")
    recipe = recipes.recipe_of("simple-dbpedia", settings, "hmn")
    losses = {}
    for name, first in (("whole", 1_000), ("cut", 9)):
        Run.build(tmp_path / name, recipe, base, lambda *told: None)
        with Run(tmp_path / name) as run:
            taken = run.train(base, 1_000)
            for _ in itertools.islice(taken, first):
                pass
            taken.close()
    assert main(["resume", str(tmp_path / "cut")]) == 0
    for name in ("whole", "cut"):
        with Run(tmp_path / name) as run:
            losses[name] = [step.loss for step in run.steps]
    assert len(losses["whole"]) == 24
    assert losses["cut"] == losses["whole"]


def test_a_base_of_simple_questions_is_taken_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", "--network", "hmn", "--recipe", "simple-dbpedia", "--set=places=9"]
    assert main([*fit, "--out", str(tmp_path / "run")]) == 1
    assert "taken whole" in capsys.readouterr().out


def test_one_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    settings = ["steps=30", "objects=2"]
    assert fit("simple-freebase", tmp_path / "whole", *settings) == 0
    base = simple_questions.load_freebase()
    with Run(tmp_path / "whole") as run:
        losses, recipe = [step.loss for step in run.steps], run.recipe
    Run.build(tmp_path / "cut", recipe, base, lambda *told: None)
    with Run(tmp_path / "cut") as run:
        taken = run.train(base, 1_000)
        for _ in range(9):
            next(taken)
        taken.close()
    assert main(["resume", str(tmp_path / "cut")]) == 0
    with Run(tmp_path / "cut") as run:
        assert [step.loss for step in run.steps] == losses


def test_what_is_drawn_is_wrong_but_for_the_first(tmp_path: Path) -> None:
    with trained(tmp_path / "run", "steps=1", "objects=1") as (_, learner, base):
        taught = learner.data(base)
        _, facts = learner.draw(taught, 3).batch
        _, again = learner.draw(taught, 3).batch
    right = {(q.subject, r) for q in base.taught for r in q.relations}
    assert isinstance(facts, Facts)
    assert facts.objects_QKO is not None
    np.testing.assert_array_equal(facts.subject_QK, again.subject_QK)
    pairs = np.stack([facts.subject_QK, facts.relation_QK], -1)
    assert pairs.shape == (32, 17, 2)
    for row, objects in zip(pairs.tolist(), facts.objects_QKO[..., 0], strict=True):
        assert tuple(row[0]) in right
        assert row[0] not in row[1:]
        wrong = {tuple(pair) for pair in row[1:]} - {(-1, -1)}
        assert wrong
        # Among them facts that are made up of the right subject and another relation.
        made = [k for k, pair in enumerate(row) if k >= 9 and pair[0] == row[0][0]]
        assert all(objects[k] == objects[0] for k in made)


def test_facts_of_another_base_answer_without_training(tmp_path: Path) -> None:
    names = ["Person Zu3", "Somebody New", "A Thing"]
    facts = Triples(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([2, 2, 2, 2]))
    weights = np.array([2, 2, 4])
    base = KnowledgeBase(
        pa.table([names, ["kind"] * 3, weights], schema=ENTITY_SCHEMA),
        ("wrote", "was born where"),
        group_facts(facts, weights),
        pa.table([names, range(3)], schema=ALIAS_SCHEMA),
    )
    with trained(tmp_path / "run") as (run, learner, _):
        linked = Linked(run.holder, learner.module, learner.reader, base)
        chosen = linked.choose(
            ["where was person zu3 born", "which book was wrote by somebody new", "who is it"]
        )
    assert linked.shared == 0.5
    best = chosen.scores_QK.argmax(axis=1)
    every = np.arange(3)
    found = chosen.subject_QK[every, best], chosen.relation_QK[every, best]
    assert [pair.tolist() for pair in found] == [[0, 1, -1], [1, 0, -1]]


def test_the_most_frequent_relation_is_that_of_training() -> None:
    facts = Facts(np.array([[3, 3, 5], [4, -1, -1]]), np.array([[0, 2, 1], [1, -1, -1]]))
    counts = np.array([1, 9, 4])
    found = path_accuracy.most_frequent(facts, np.array([3, 3]), counts)
    assert found.tolist() == [2, -1]


def test_settings_out_of_range_are_refused() -> None:
    for setting in ("margin=-1", "names=0", "objects=-1", "dim=0", "updates=sometimes"):
        with pytest.raises(InvalidArgument, match=setting.partition("=")[0]):
            recipes.recipe_of("simple-dbpedia", [setting], "simple")
    assert isinstance(recipes.recipe_of("simple-freebase"), SimpleRecipe)
