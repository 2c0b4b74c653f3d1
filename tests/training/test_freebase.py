"""A base that is never held: made, ingested, learnt and asked, by the same code as at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.tasks import published
from models.tasks.knowledge import TaskDataError
from models.tasks.titles import SCHEMA, Titles
from workers.cli import main
from workers.networks.knowledge import KnowledgeLearner
from workers.run import Run

SETTINGS = (
    *("facts=10000", "shards=2", "probe=4", "batch=64", "negatives=16"),
    *("questions=10000", "test_questions=400"),
    *("steps=240", "hashed_steps=180", "refresh_steps=30"),
)


def settings(*more: str) -> list[str]:
    return [f"--set={each}" for each in (*SETTINGS, *more)]


def test_facts_in_files_are_learnt_and_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    fit = ["fit", "--recipe", "freebase", *settings(), "--out", str(folder)]
    assert main(fit) == 0
    left = {path.name for path in folder.iterdir()}
    assert {"store", "aliases", "titles", "questions"} <= left
    assert not {"source", "ingest"} & left
    with Run(folder) as run:
        hashed, searched = run.evaluate(run.base())
        learner = run.learner
        assert isinstance(learner, KnowledgeLearner)
        asked, taught = (
            learner.known.asks(None, split=split, count=4_000, seed=0, popular_share=0.0)
            for split in ("test", "train")
        )
        read = learner.questions.read([question.text for question in asked])
        at = next(
            q
            for q, mention in enumerate(read.mentions)
            if mention is not None and mention.ambiguity == 1
        )
        [name] = learner.memories.named(np.array([asked[at].subject]))
    print(hashed.hits_1, hashed.more, searched.hits_1, searched.candidate_recall)
    # Subjects and answers are those of the questions; no subject is asked about in both splits.
    assert not {q.subject for q in asked} & {q.subject for q in taught}
    assert all(len(question.answers) for question in asked)
    assert name in asked[at].text
    assert hashed.more["entity linked rightly"] > 0.8
    assert hashed.hits_1 > 0.6
    assert searched.candidate_recall is not None
    assert searched.candidate_recall > 0.9

    capsys.readouterr()
    assert main(["ask", asked[at].text, "--out", str(folder)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"about {name}" in told
    assert "www.freebase.com/m/" not in told


@pytest.mark.parametrize(
    ("network", "more"),
    [
        ("hmn", ("steps=60", "hashed_steps=0", "refresh_steps=20")),
        ("factual", ("steps=120",)),
    ],
)
def test_other_networks_learn_facts_in_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], network: str, more: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    fit = ["fit", "--network", network, "--recipe", "freebase", *settings(*more)]
    assert main([*fit, "--out", str(folder)]) == 0
    with Run(folder) as run:
        figures = run.evaluate(run.base())
        learner = run.learner
        assert isinstance(learner, KnowledgeLearner)
        [asked] = learner.known.asks(None, split="test", count=1, seed=0, popular_share=0.0)
    print([(found.case, found.hits_1, found.candidate_recall) for found in figures])
    # A memory that nothing searches in has no index.
    assert len(figures) == (1 if network == "factual" else 2)
    assert min(found.hits_1 for found in figures) > 0.7
    capsys.readouterr()
    assert main(["ask", asked.text, "--out", str(folder)]) == 0
    assert "about " in capsys.readouterr().out


def write(source: Path) -> str:
    """Writes files of eight people without those of questions, which it returns."""
    source.mkdir()
    subjects = [f"www.freebase.com/m/0{letter}" for letter in "bcdfghjk"]
    (source / published.FACTS).write_text(
        "".join(
            f"{one}\twww.freebase.com/people/person/{relation}\twww.freebase.com/m/0{last}\n"
            for one in subjects
            for relation, last in (("profession", "x"), ("city", "y"))
        )
    )
    people = [f"Ann {name}" for name in "ABCDEFGH"]
    names = {**dict(zip("bcdfghjk", people, strict=True)), "x": "Piano tuner", "y": "Lhasa"}
    (source / published.NAMES).write_text(
        "".join(
            f'<fb:m.0{letter}>\t<fb:type.object.name>\t"{name}"\n' for letter, name in names.items()
        )
        + '<fb:m.0b>\t<fb:common.topic.alias>\t"The \\"A\\""@en .\n'
        + '<fb:m.0zz>\t<fb:type.object.name>\t"In no fact"\n'
    )
    return "".join(
        f"{one}\twww.freebase.com/people/person/{relation}\twww.freebase.com/m/0{last}"
        f"\twhat is the {relation} of {name}?\n"
        for one, name in zip(subjects, people, strict=True)
        for relation, last in (("profession", "x"), ("city", "y"))
    )


def test_files_are_taken_from_a_folder_and_refused_where_they_are_not_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = tmp_path / "source", tmp_path / "run"
    asked = write(source)
    (source / published.TRAIN).write_text(asked)
    fit = ["fit", "--recipe", "freebase", *settings(f"source={source}")]
    fit += ["--set=batch=8", "--set=steps=40", "--out", str(folder)]
    assert main(fit) == 1
    assert f"no {published.TEST} in" in " ".join(capsys.readouterr().out.split())

    (source / published.TEST).write_text(asked)
    assert main(fit) == 0
    with Run(folder) as run:
        hashed, *_ = run.evaluate(run.base())
        assert isinstance(run.learner, KnowledgeLearner)
        aliases = run.learner.questions.aliases
        assert hashed.questions == 16
        assert hashed.more["hits@1 from text to answer, of names of one entity"] > 0.9
        assert run.learner.memories.named(aliases.candidates('the "a"')) == ["Ann A"]
        assert len(aliases) == 11
    capsys.readouterr()
    assert main(["ask", "what is the city of Ann B?", "--out", str(folder)]) == 0
    assert "Lhasa" in capsys.readouterr().out


def test_names_are_kept_of_many_batches(tmp_path: Path) -> None:
    rows = [("One", 0, True), ("1", 0, False), ("Uno", 0, True), ("Three", 2, True)]
    batches = [
        pa.RecordBatch.from_pylist([dict(zip(SCHEMA.names, row, strict=True))], schema=SCHEMA)
        for row in rows
    ]
    titles = Titles.keep(tmp_path / "titles", batches, 4)
    assert titles.of(np.array([2, 1, 0, 3]), ["c", "b", "a", "d"]) == ["Three", "b", "One", "d"]
    assert [batch["alias"][0].as_py() for batch in titles.batches()] == [row[0] for row in rows]
    (tmp_path / "titles" / "rows.npy").unlink()
    with pytest.raises(TaskDataError, match="fit anew"):
        Titles(tmp_path / "titles")


@pytest.mark.parametrize(
    ("setting", "why"),
    [("places=9", "taken whole"), ("apart=true", "taken whole"), ("like=X", "FB2M")],
)
def test_settings_that_files_do_not_have_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, why: str
) -> None:
    fit = ["fit", "--recipe", "freebase", *settings(setting), "--out", str(tmp_path / "run")]
    assert main(fit) == 1
    assert why in capsys.readouterr().out
    assert not (tmp_path / "run" / "recipe.json").exists()
