"""A knowledge base becomes a file, and that the memories of an ingest."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pyarrow as pa
import pytest

from models.tasks.knowledge import (
    ALIAS_SCHEMA,
    ENTITY_SCHEMA,
    FACT_SCHEMA,
    KnowledgeBase,
)
from models.tasks.named_facts import names_apart, write_named
from models.tasks.taxonomy import PACKAGE
from tests.ingest.made import SMALL, expected, records
from workers import cli
from workers.ingest import ingest
from workers.run import Run


def base_of(names: list[str], facts: list[tuple[int, int, list[int]]]) -> KnowledgeBase:
    return KnowledgeBase(
        pa.table([names, ["taxon"] * len(names), [0] * len(names)], schema=ENTITY_SCHEMA),
        ("parent", "children"),
        pa.table([list(column) for column in zip(*facts, strict=True)], schema=FACT_SCHEMA),
        pa.table([names, list(range(len(names)))], schema=ALIAS_SCHEMA),
    )


def test_names_that_are_shared_are_told_apart() -> None:
    base = base_of(["Morus", "plants", "Morus", "Morus (0)", "Morus"], [(0, 0, [1])])
    names = names_apart(base).to_pylist()
    assert names[1] == "plants"
    assert names[2] == "Morus (2)"
    assert len(set(names)) == 5


def test_a_base_is_ingested_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.tasks.named_facts.BLOCK", 2)
    base = base_of(
        ["root", "Morus", "a b", "Morus"],
        [(0, 1, [1, 2, 3]), (1, 0, [0]), (2, 0, [0]), (3, 0, [0])],
    )
    write_named(base, tmp_path / "facts.arrow")
    report = ingest([tmp_path / "facts.arrow"], tmp_path / "store", layout=SMALL)
    assert (report.given, report.facts, report.entities) == (6, 4, 4)
    below = ["Morus (1)", "a b", "Morus (3)"]
    rows = [("root", "children", name) for name in below]
    assert records(tmp_path / "store") == expected(
        [*rows, *((name, "parent", "root") for name in below)]
    )


@pytest.mark.skipif(not importlib.util.find_spec(PACKAGE), reason=f"{PACKAGE} is not installed")
def test_the_taxonomy_is_exported_and_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "taxonomy.arrow"
    assert cli.main(["export", "taxonomy", "--limit", "2000", "--out", str(file)]) == 0
    with pa.memory_map(str(file)) as source:
        rows = pa.ipc.open_file(source).read_all()
    into = ["--into", str(tmp_path / "store"), "--dim", "8"]
    assert cli.main(["ingest", str(file), *into]) == 0
    assert f"{len(rows):,} rows for a subject and relation" in capsys.readouterr().out
    asked = ["ask", "--facts", str(tmp_path / "store"), "What is the rank of [Mammalia]?"]
    assert cli.main(asked) == 0
    assert "class" in capsys.readouterr().out


@pytest.mark.skipif(not importlib.util.find_spec(PACKAGE), reason=f"{PACKAGE} is not installed")
def test_the_taxonomy_is_exported_and_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = tmp_path / "source", tmp_path / "run"
    export = ["export", "taxonomy", "--limit", "1000", "--out", str(source)]
    assert cli.main([*export, "--questions", "0"]) == 1
    assert not source.exists()
    assert cli.main([*export, "--questions", "4000"]) == 0
    fit = ["fit", "--recipe", "freebase", f"--set=source={source}", "--out", str(folder)]
    few = ("steps=80", "hashed_steps=60", "refresh_steps=20", "batch=64", "questions=4000")
    assert cli.main([*fit, *(f"--set={each}" for each in few)]) == 0
    with Run(folder) as run:
        hashed, _ = run.evaluate(run.base())
    print(hashed.hits_1, hashed.more)
    assert hashed.questions == 400
    assert hashed.hits_1 > 0.8
    capsys.readouterr()
    assert cli.main(["ask", "What is the rank of Mammalia?", "--out", str(folder)]) == 0
    assert "class" in capsys.readouterr().out
