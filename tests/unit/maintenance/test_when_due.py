"""Which job is due when, and what the index is after it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import Store
from memstore.embedded import EmbeddedMemory
from memstore.index import due, maintenance
from memstore.kernels.near import halves
from tests.congruence.oracle import settle
from tests.unit.maintenance.jobs import (
    LIMIT,
    WIDTH,
    change,
    check,
    eventually,
    job,
    keys,
    make,
    state,
    threads,
)


def test_inline_the_same_calls_make_the_same_index(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        with memstore.open(tmp_path / name) as store:
            memory = make(store, maintenance="inline")
            for seed in range(12):
                memory.append(keys(50, seed))
                change(memory, seed)
            assert threads() == []
            check(memory)
            assert isinstance(memory, EmbeddedMemory)
            version = memory.shards[0].index.version
            assert version.codebook is not None
            made.append(
                (
                    version.number,
                    version.fresh_F.tolist(),
                    version.codebook.centroids_CE.tolist(),
                    [(len(s), s.stale, s.valid.tolist()) for s in version.segments],
                )
            )
    assert made[0] == made[1]


def test_few_segments_are_kept_and_no_row_is_joined_often(store: Store) -> None:
    memory = make(store, 2_000, maintenance="inline", fresh_limit=9)
    for seed in range(60):
        memory.append(keys(10, seed))
        assert isinstance(memory, EmbeddedMemory)
        segments = memory.shards[0].index.version.segments
        sizes = [len(segment) for segment in segments]
        assert len(sizes) <= due.MAX_SEGMENTS
        assert sizes[0] >= due.TIER * sum(sizes[1:])
    # About log n times: a merge at each sealing would have joined 60 · 10 · 60 / 2 rows.
    assert job(memory, "merge").rows < 60 * 10 * 60 / 2 / 3
    check(memory)


def test_clustering_rests_before_it_begins_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store, 300)
    monkeypatch.setattr(maintenance, "REST", 1e6)

    def overwrite_all() -> None:
        for at in range(0, 300, 50):
            memory.write(np.arange(at, at + 50), keys(50, at))
            eventually(lambda: state(memory).fresh <= LIMIT)

    def runs() -> int:
        return job(memory, "measure").runs + job(memory, "cluster").runs

    assert isinstance(memory, EmbeddedMemory)
    maintainer = memory.shards[0].maintainer
    overwrite_all()
    eventually(lambda: maintainer._retry_at["cluster"] > time.monotonic() + 60)
    before = runs()
    for _ in range(3):
        overwrite_all()
    assert "memstore-cluster" in threads()
    assert runs() == before
    check(memory)
    # Who asks for it waits for nothing, and nothing is left to do.
    memory.reindex()
    assert runs() == before + 1
    settle(memory)
    check(memory)


def test_copies_of_fresh_rows_are_among_the_bytes_of_the_index(store: Store) -> None:
    memory = make(store)
    row_bytes = WIDTH * (2 if halves(np.dtype(np.float32)) else 4)
    memory.append(keys(20))
    assert state(memory).index_bytes == 20 * row_bytes
    memory.write(np.arange(5), keys(5))  # what they were is still there
    assert state(memory).index_bytes == 25 * row_bytes
    memory.append(keys(200))
    memory.reindex()
    settle(memory)
    sealed = state(memory).index_bytes
    memory.append(keys(7))
    assert state(memory).index_bytes == sealed + 7 * row_bytes


def test_recall_that_was_lost_clusters_the_rows_anew(store: Store) -> None:
    memory = make(store, 3_000, maintenance="inline", fresh_limit=500, clusters=32, probe=2)
    before = state(memory)
    assert before.recall is not None
    # Rows that lie elsewhere altogether, yet too few to be a turnover of all.
    memory.write(np.arange(2_000), keys(2_000, 1) + 20 * keys(1, 2))
    assert job(memory, "measure").runs == 1
    assert job(memory, "cluster").runs == 2
    after = state(memory)
    assert after.recall is not None
    assert after.recall > 0.9 * before.recall
    check(memory)
