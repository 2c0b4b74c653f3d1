"""The best rows are found, whatever became of those that were better, and where scores cancel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, MemoryConfig
from memstore.memory import Array
from tests.congruence.drawn import EVERY_LIST
from tests.congruence.oracle import best, inner_products


def rows_by_score(rows: int) -> Array:
    """Keys whose inner product with (1, 0) is rows, rows − 1, …: slot 0 scores highest."""
    return np.stack([np.arange(rows, 0, -1), np.zeros(rows)], axis=1).astype(np.float32)


QUERY = np.array([[1, 0]], np.float32)


def make_clustered(
    path: Path, rows: int, fresh_limit: int
) -> tuple[memstore.Store, memstore.Memory]:
    index = IndexConfig(
        clusters=4,
        probe=EVERY_LIST,
        codec="flat",
        fresh_limit=fresh_limit,
        maintenance="inline",
    )
    store = memstore.open(path)
    memory = store.create("m", MemoryConfig(dim=2, index=index))
    memory.append(rows_by_score(rows))
    memory.reindex()
    return store, memory


def test_erasing_the_best_rows_leaves_the_next_best(tmp_path: Path) -> None:
    store, memory = make_clustered(tmp_path, 2_000, 4_000)
    with store:
        memory.erase(np.arange(1_000))
        assert memory.search(QUERY, 5).slots_QK.tolist() == [[1000, 1001, 1002, 1003, 1004]]


def test_rewriting_the_best_rows_leaves_the_next_best_while_they_are_fresh(tmp_path: Path) -> None:
    store, memory = make_clustered(tmp_path, 400, 200)
    with store:
        memory.write(np.arange(100), np.zeros((100, 2), np.float32))
        assert memory.describe().shards[0].fresh == 100
        assert memory.search(QUERY, 5).slots_QK.tolist() == [[100, 101, 102, 103, 104]]


def test_rewriting_the_best_rows_leaves_the_next_best_once_they_are_sealed(tmp_path: Path) -> None:
    store, memory = make_clustered(tmp_path, 400, 50)
    with store:
        memory.write(np.arange(100), np.zeros((100, 2), np.float32))
        assert memory.describe().shards[0].fresh == 0
        assert memory.search(QUERY, 5).slots_QK.tolist() == [[100, 101, 102, 103, 104]]


@pytest.mark.parametrize("shards", [1, 3])
def test_exact_search_finds_the_best_where_scores_cancel(tmp_path: Path, shards: int) -> None:
    # Sums of ±1e4 leave differences of 1e-3: a matrix product may rank them otherwise.
    rng = np.random.default_rng(0)
    keys = rng.choice([-1e4, 1e4], (500, 32)).astype(np.float32)
    keys += rng.normal(scale=1e-3, size=keys.shape).astype(np.float32)
    queries = np.ones((3, 32), np.float32)
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=32, shards=shards, index="exact"))
        memory.append(keys)
        found = memory.search(queries, 20)
    slots, _ = best(np.arange(500), inner_products(queries, keys)[0], 20)
    assert found.slots_QK.tolist() == [slots] * 3
