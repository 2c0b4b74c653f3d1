"""Rows of relations that begin as the words of their names: how much each word counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import memstore
from tests.ingest.made import SMALL, write_tsv
from workers.ingest import ingest
from workers.ingest.spelling import spelt


def test_the_last_part_of_a_name_says_what_it_is() -> None:
    names = ["a.com/people/person/place_of_birth", "film.film.directed_by", "::"]
    words, owners, counts = spelt(names)
    assert list(zip(words, owners.tolist(), counts.tolist(), strict=True)) == [
        ("place", 0, 1.0),
        ("of", 0, 1.0),
        ("birth", 0, 1.0),
        ("person", 0, 0.5),
        ("people", 0, 0.25),
        ("com", 0, 0.125),
        ("a", 0, 0.0625),
        ("directed", 1, 1.0),
        ("by", 1, 1.0),
        ("film", 1, 0.5),
        ("film", 1, 0.25),
    ]
    assert not spelt([])[0]


def test_a_relation_begins_nearest_to_the_words_that_ask_for_it(tmp_path: Path) -> None:
    """Among some that share the words before these."""
    asked = [("born", "town"), ("home", "town"), ("home", "port"), ("born", "year")]
    rows = [(f"s{i}", f"/one/two/{a}_{b}", "o") for i, (a, b) in enumerate(asked)]
    rows += [("s9", "//", "o")]
    source = write_tsv(tmp_path / "facts.tsv", rows)
    ingest([source], tmp_path / "store", layout=replace(SMALL, dim=64, spelt=True))
    with memstore.open(tmp_path / "store") as store:
        relations, words = store.memory("relations"), store.memory("words")
        keys_BD = relations.gather(np.arange(5)).keys_BD
        named = relations.gather(np.arange(5), vectors=False, columns=["name"]).records
        assert keys_BD is not None
        assert named is not None
        names = named["name"].to_pylist()
        for spoken in asked:
            slots = words.lookup("word", list(spoken), 1).slots
            rows_BD = words.gather(slots).keys_BD
            assert rows_BD is not None
            best = int(np.argmax(keys_BD @ rows_BD.sum(axis=0)))
            assert names[best] == f"/one/two/{'_'.join(spoken)}"
        # One without words is drawn; all are as long as each other.
        np.testing.assert_allclose(np.linalg.norm(keys_BD, axis=1), 1.5, rtol=1e-5)
