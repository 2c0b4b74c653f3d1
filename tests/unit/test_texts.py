"""Texts of any length are found by lookup: numpy keeps those of up to 15 bytes otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig


@pytest.mark.parametrize("size", [15, 16, 255, 256, 3_000])
@pytest.mark.parametrize("shards", [1, 3])
def test_texts_of_any_length(tmp_path: Path, size: int, shards: int) -> None:
    names = [f"{i:x>{size}}" for i in range(300)]
    names[0] = "short"
    config = MemoryConfig(dim=2, shards=shards, records={"name": "string"}, lookup=("name",))
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", config)
        for first in (0, 200):
            part = names[first : first + 200]
            memory.append(np.zeros((len(part), 2)), records={"name": part})
        for slot, name in enumerate(names):
            assert memory.lookup("name", [name], 3).slots.tolist() == [slot]
        asked = [*reversed(names), "x" * size, names[7] + "x"]
        found = memory.lookup("name", asked, 3)
        assert found.slots.tolist() == [*reversed(range(300))]
        assert np.diff(found.offsets).tolist() == [1] * 300 + [0, 0]
