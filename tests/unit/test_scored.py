"""What a search says that it compared: rows, by code or key, and the centroids of lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, Memory, MemoryConfig, SearchOptions, Store, field
from memstore.index import two_tier
from memstore.memory import Array

ROWS, FRESH, ERASED = 3_000, 70, 40
EVERY = 1 << 20
"""Lists, more than there are."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path) as opened:
        yield opened


def filled(store: Store, shards: int = 1, **index: Any) -> Memory:
    """Rows in lists, some of them erased since, and fresh ones; every second is even."""
    rng = np.random.default_rng(0)
    config = MemoryConfig(
        dim=8,
        shards=shards,
        records={"even": "bool"},
        index=IndexConfig(clusters=16, maintenance="inline", **index),
    )
    memory = store.create("m", config)
    keys = rng.standard_normal((ROWS + FRESH, 8)).astype(np.float32)
    even = np.arange(len(keys)) % 2 == 0
    memory.append(keys[:ROWS], records={"even": even[:ROWS]})
    memory.reindex()
    memory.erase(np.arange(ERASED))
    memory.append(keys[ROWS:], records={"even": even[ROWS:]})
    assert sum(shard.fresh for shard in memory.describe().shards) == FRESH
    return memory


def scored(memory: Memory, **options: Any) -> Array:
    queries = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    return memory.search(queries, 3, SearchOptions(**options)).scored_Q


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("codec", ["sq8", "flat"])
def test_all_lists_are_all_rows_and_the_centroids(store: Store, codec: str, shards: int) -> None:
    memory = filled(store, shards, codec=codec)
    live, centroids = ROWS + FRESH - ERASED, 16 * shards
    assert scored(memory, exact=True).tolist() == [live] * 5
    assert scored(memory, probe=EVERY).tolist() == [live + centroids] * 5
    # Of one list a shard only its rows, beside the fresh ones.
    few = scored(memory, probe=1)
    assert (few > FRESH + centroids).all()
    assert (few < (live + centroids) / 4).all()
    # The lists that are drawn are those that were not visited: centroids count once.
    assert scored(memory, probe=1, sample_clusters=EVERY).tolist() == [live + centroids] * 5


def test_packed_codes_are_compared_with_those_of_rows_that_are_gone(store: Store) -> None:
    memory = filled(store, codec="pq4")
    assert (scored(memory, probe=EVERY) >= ROWS + FRESH + 16).all()
    assert (scored(memory, probe=1) < (ROWS + FRESH + 16) / 4).all()


def test_rows_that_do_not_pass_are_not_compared(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = filled(store)
    passing = (ROWS + FRESH - ERASED) // 2
    even = field("even") == True  # noqa: E712
    # So few that they are all scored.
    assert scored(memory, filter=even).tolist() == [passing] * 5
    monkeypatch.setattr(two_tier, "SCAN_ROWS", 0)
    assert scored(memory, filter=even, probe=EVERY).tolist() == [passing + 16] * 5


def test_what_is_added_counts(store: Store) -> None:
    memory = filled(store)
    own, wide = scored(memory, probe=2), scored(memory, probe=2, sample_random=9, seed=0)
    assert (wide - own >= 6).all()
    assert (wide - own <= 9).all()


def test_a_walk_counts_what_it_met(store: Store) -> None:
    memory = filled(store, kind="graph")
    met = scored(memory, probe=10)
    assert (met > 10 + FRESH).all()
    assert (met < ROWS / 2).all()
