"""Candidates by the longest names in a question, and the rows that names begin with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import NO_SLOT, MemoryConfig
from models.tasks import naming
from models.tasks.linking import AliasIndex
from models.tasks.naming import Namer

ALIASES = [
    ("lonely revolutions", 0),
    ("revolutions", 1),
    ("music genre", 2),
    ("genre", 3),
    ("what dreams may come", 4),
    ("the", 5),
    ("clyde", 6),
    ("clyde", 7),
    ("clyde", 8),
    ("clyde missouri", 7),
]


@pytest.fixture
def index() -> AliasIndex:
    names, entities = zip(*sorted(ALIASES, key=lambda pair: pair[1]), strict=True)
    table = pa.table({"alias": list(names), "entity": pa.array(entities, pa.int64())})
    return AliasIndex.build(table, np.arange(9, 0, -1))


@pytest.mark.parametrize(
    ("text", "names", "entities"),
    [
        # Within a longer name another is none; by words, then by characters.
        ("what music genre is lonely revolutions", ["lonely revolutions", "music genre"], [0, 2]),
        # Stop words and interrogatives name nothing.
        ("who made what dreams may come in the end", [], []),
        # Two of three that bear a name, those in most triples.
        ("Where is Clyde, and what genre?", ["clyde", "genre"], [6, 7, 3]),
        ("clyde of clyde missouri", ["clyde missouri", "clyde"], [7, 6]),
    ],
)
def test_longest_names_come_first(
    index: AliasIndex, text: str, names: list[str], entities: list[int]
) -> None:
    found = Namer(index).read([text, "revolutions"])
    own = found.names_QN[0][found.names_QN[0] != NO_SLOT]
    assert [index.alias(number) for number in own.tolist()] == names
    assert [e for e in found.entities_QE[0].tolist() if e != NO_SLOT] == entities
    assert found.entities_QE[1].tolist()[:1] == [1]


def test_names_and_candidates_are_as_many_as_told(index: AliasIndex) -> None:
    text = "lonely revolutions of a music genre in clyde"
    found = Namer(index, names=2, each=1).read([text])
    assert found.entities_QE.tolist() == [[0, 2]]
    assert Namer(index, names=3, each=3).read([text]).entities_QE.tolist() == [[0, 2, 6, 7, 8]]
    assert Namer(index).read([]).entities_QE.shape == (0, 0)


def test_a_name_begins_as_those_who_bear_it(index: AliasIndex, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((9, 4))
    with memstore.open(tmp_path / "store") as store:
        entities = store.create("entities", MemoryConfig(dim=4, index="none"))
        entities.append(rows)
        lengths = np.arange(1.0, len(index) + 1)
        made = naming.build(
            store, index, entities, lengths, each=2, shards=2, updates="checkpointed"
        )
        found = made.gather(np.arange(len(index)), columns=["name"])
    assert found.keys_BD is not None
    assert found.records is not None
    assert found.records["name"].to_pylist() == [index.alias(i) for i in range(len(index))]
    for number, row in enumerate(found.keys_BD):
        expected = rows[index.bearers(number)[:2]].astype(np.float32).sum(axis=0)
        expected *= lengths[number] / np.linalg.norm(expected)
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_ordinary_words_make_a_name_short() -> None:
    counts = {"music": 99, "genre": 99, "of": 9}
    found = naming.rarity(["music genre", "lonely revolutions", "of", ""], counts, 99)
    np.testing.assert_allclose(found, [0, 2, 0.5, 0], atol=1e-6)
