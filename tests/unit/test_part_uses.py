"""Which slots a part row is a part of, against looking at every record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memstore
from memstore import EncodingConfig, MemoryConfig
from memstore.encoded import EncodedMemory
from memstore.part_uses import PartUses

COLUMNS = ("a", "b")


@given(st.data())
def test_it_is_its_twin(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1_000)))
    slots = np.flatnonzero(rng.random(60) < 0.7)
    named: dict[str, Any] = {c: rng.integers(0, 9, len(slots)) for c in COLUMNS}
    asked = {c: np.flatnonzero(rng.random(12) < 0.3) for c in COLUMNS}

    def blocks() -> Iterator[tuple[Any, pa.Table]]:
        for at in np.array_split(np.arange(len(slots)), 3):
            yield slots[at], pa.table({c: named[c][at] for c in COLUMNS})

    uses = PartUses(blocks(), COLUMNS)
    for column, counts in uses.counts(asked).items():
        assert counts.tolist() == [np.count_nonzero(named[column] == row) for row in asked[column]]
    hit = np.isin(named["a"], asked["a"]) | np.isin(named["b"], asked["b"])
    assert uses.slots(asked).tolist() == slots[hit].tolist()
    assert uses.slots({"b": asked["b"]}).tolist() == slots[np.isin(named["b"], asked["b"])].tolist()


def test_of_nothing_there_is_nothing() -> None:
    uses = PartUses([], COLUMNS)
    assert uses.counts({"a": np.array([3])})["a"].tolist() == [0]
    assert uses.slots({"a": np.array([3]), "b": np.array([0])}).tolist() == []


@pytest.mark.parametrize("shards", [1, 3])
def test_it_is_made_anew_once_records_came_and_only_then(tmp_path: Any, shards: int) -> None:
    with memstore.open(tmp_path) as store:
        words = store.create("words", MemoryConfig(dim=4, index="none"))
        words.append(np.eye(4, dtype=np.float32))
        encoding = EncodingConfig(key={"a": "words", "b": "words"})
        records = dict.fromkeys(COLUMNS, "int64")
        config = MemoryConfig(dim=4, shards=shards, records=records, encoding=encoding)
        facts = store.create("facts", config)
        assert isinstance(facts, EncodedMemory)
        facts.append(records={"a": [0, 1, 2], "b": [1, 1, 3]})
        assert facts.refresh(limit=1).encoded == 0
        assert facts._uses is None, "nothing drifted: nothing is looked at"
        before = facts.uses
        words.update([1], np.ones((1, 4)), lr=0.5)
        assert facts.refresh().encoded == 2
        facts.erase([0])
        assert facts.uses is before
        facts.write([2], records={"a": [1], "b": [1]})
        facts.append(records={"a": [3], "b": [3]})
        assert facts.uses.slots({"a": np.array([1])}).tolist() == [1, 2]
        words.update([1, 3], np.ones((2, 4)), lr=0.5)
        assert facts.refresh().encoded == 3
        keys = facts.gather([1, 2, 3]).keys_BD
        parts = words.gather([0, 1, 2, 3]).keys_BD
        assert keys is not None
        assert parts is not None
        np.testing.assert_allclose(keys, parts[[1, 1, 3]] + parts[[1, 1, 3]], rtol=1e-6)
