"""Indices that rest while rows are loaded, and what is begun when a store is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, MemoryConfig
from memstore.embedded import EmbeddedMemory
from memstore.memory import Array, Memory

LIMIT, ROWS = 100, 1_000
CONFIG = MemoryConfig(dim=8, index=IndexConfig(fresh_limit=LIMIT))


def keys(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((ROWS, 8)).astype(np.float32)


def fresh(memory: Memory) -> int:
    """Rows that are fresh once nothing is left to do."""
    assert isinstance(memory, EmbeddedMemory)
    memory.settle()
    return memory.describe().shards[0].fresh


def test_nothing_is_indexed_before_who_loads_asks_for_it(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", CONFIG)
        with store.loading("m", index=False):
            memory.append(keys(0))
            assert fresh(memory) == ROWS
        assert fresh(memory) == ROWS
        memory.reindex()
        assert fresh(memory) == 0


def test_what_was_left_is_begun_when_a_store_is_opened(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", CONFIG)
        with store.loading("m", index=False):
            memory.append(keys(0))
    with memstore.open(tmp_path / "store", read_only=True) as store:
        assert fresh(store.memory("m")) == ROWS
    with memstore.open(tmp_path / "store") as store:
        assert fresh(store.memory("m")) <= LIMIT


def test_a_load_that_fails_leaves_an_index_that_keeps_up(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", CONFIG)

        def cut_off() -> None:
            with store.loading("m", index=False):
                memory.append(keys(0))
                raise OSError("no more")

        with pytest.raises(OSError, match="no more"):
            cut_off()
        memory.append(keys(1))
        assert fresh(memory) <= LIMIT
