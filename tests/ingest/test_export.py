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
