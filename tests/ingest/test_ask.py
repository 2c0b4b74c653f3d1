"""What was ingested is asked: by names and words alone, of a store and of one that is served."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import memstore
from memstore.rpc.server import Server
from models.tasks.knowledge import TaskDataError
from tests.ingest.made import write_tsv
from workers import cli
from workers.facts import FactTold, answer, opened
from workers.ingest import Layout, ingest

ROWS = [
    ("Kismet", "directed_by", "William Dieterle"),
    ("Kismet", "starred_actors", "Marlene Dietrich"),
    ("Kismet", "starred_actors", "Edward Arnold"),
    ("Kismet", "release year", "1944"),
    ("The Devil", "directed_by", "Edward Arnold"),
    ("Edward Arnold", "born in", "Boston"),
    ("new_york", "part of", "USA"),
    ("m.02", "film/film/directed_by", "m.03"),
    *(("Iliad", "has line", f"line {i}") for i in range(20)),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask")
    source = write_tsv(folder / "films.tsv", ROWS)
    ingest([source], folder / "films", layout=Layout(dim=8, shards=2, index="exact"))
    return folder / "films"


@pytest.mark.parametrize(
    ("question", "entity", "best"),
    [
        ("Who directed Kismet?", "Kismet", [("directed_by", ["William Dieterle"])]),
        ("who directed kismet", "Kismet", [("directed_by", ["William Dieterle"])]),
        (
            "Which actors starred in Kismet?",
            "Kismet",
            [("starred_actors", ["Edward Arnold", "Marlene Dietrich"])],
        ),
        # The longest name: not that of the year, nor a part of another.
        ("Where was Edward Arnold born in 1944?", "Edward Arnold", [("born in", ["Boston"])]),
        ("What is new york part of?", "new_york", [("part of", ["USA"])]),
        ("Of which year is [Kismet] of William Dieterle?", "Kismet", [("release year", ["1944"])]),
        ("who directed m.02?", "m.02", [("film/film/directed_by", ["m.03"])]),
        ("How old is Kismet?", "Kismet", []),
        ("Who was Marlene Dietrich?", "Marlene Dietrich", []),
        ("Who wrote Faust?", "", []),
        ("", "", []),
        ("¿[]?", "", []),
    ],
)
def test_the_facts_whose_relation_is_named_are_told(
    store: Path, question: str, entity: str, best: list[tuple[str, list[str]]]
) -> None:
    with opened(str(store)) as base:
        found = answer(base, question)
    assert found.entity == entity
    assert [(fact.relation, fact.objects) for fact in found.facts if fact.shared] == best
    about = {relation for subject, relation, _ in ROWS if subject == entity}
    assert {fact.relation for fact in found.facts} == about


def test_of_a_long_list_the_first_are_told(store: Path) -> None:
    with opened(str(store)) as base:
        [told] = answer(base, "Which line has the Iliad?").facts
    assert told == FactTold("has line", told.objects, more=True, shared=2)
    assert len(set(told.objects)) == len(told.objects) == 8


def test_from_the_command_line_of_a_store_and_of_a_server(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = ("Who directed Kismet?", "How old is Kismet?", "Who wrote [b]?", "Who is USA?")
    assert cli.main(["ask", "--facts", str(store), *questions]) == 0
    said = capsys.readouterr().out
    assert "about Kismet" in said
    assert "directed_by → William Dieterle" in said
    assert "No relation of its facts is named by a word of the question" in said
    assert "No name that I know is in the question" in said
    assert "No fact is about it" in said
    with memstore.open(store) as open_, Server(open_) as server:
        assert cli.main(["ask", "--facts", server.address, *questions]) == 0
    assert capsys.readouterr().out == said


def test_what_is_no_base_of_facts_says_what_to_do(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        assert cli.main(["ask", *words, "Who?"]) == 1
        return " ".join(capsys.readouterr().out.split())

    # A store is no run, wherever it is.
    for where in (str(store), "ray:memstore/facts", "127.0.0.1:7437"):
        assert f"`memtrain ask --facts {where}` answers" in said("--out", where)
    assert "run `memtrain fit`" in said("--out", str(tmp_path / "none"))
    with memstore.open(tmp_path / "other") as other:
        other.create("entities", memstore.MemoryConfig(dim=2))
    assert "`memtrain ingest FILE … --into" in said("--facts", str(tmp_path / "other"))
    assert "NotAStore" in said("--facts", str(tmp_path / "none"))


def test_a_base_that_was_built_for_a_run_is_asked_of_the_run(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    with memstore.open(tmp_path / "store") as changed:
        changed.drop("facts")
        config = changed.memory("entities").config
        changed.drop("entities")
        for name in ("entities", "facts"):
            changed.create(name, memstore.MemoryConfig(dim=2, records=config.records))
    with (
        pytest.raises(TaskDataError, match="memtrain ask --out RUN"),
        opened(str(tmp_path / "store")),
    ):
        raise AssertionError("it was opened")
