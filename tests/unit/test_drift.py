"""Drift: bounds that hold, rows that become fresh by themselves, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memstore
from memstore import IndexConfig, Memory, MemoryConfig, OptimizerConfig
from memstore.config import DRIFT_LIMIT, OptimizerKind
from memstore.embedded import EmbeddedMemory
from memstore.index.drift import Drift, Sealing
from memstore.memory import Array, ShardDescription, Slots

WIDTH = 4


def make(store: memstore.Store, rows: Array, **index: Any) -> EmbeddedMemory:
    given: dict[str, Any] = {"clusters": 2, "fresh_limit": 50, "maintenance": "inline"} | index
    config = MemoryConfig(dim=WIDTH, index=IndexConfig(**given), optimizer="sgd")
    memory = store.create("m", config)
    memory.append(rows)
    memory.reindex()
    assert isinstance(memory, EmbeddedMemory)
    return memory


def fresh(memory: EmbeddedMemory) -> list[int]:
    rows: list[int] = memory.shards[0].index.version.fresh_F.tolist()
    return rows


def state(memory: Memory) -> ShardDescription:
    return memory.describe().shards[0]


def unit_rows(rows: int) -> Array:
    """Rows of length 2 along the first axis."""
    keys = np.zeros((rows, WIDTH), np.float32)
    keys[:, 0] = 2
    return keys


def push(memory: Memory, slots: Any, way: float) -> None:
    """Moves rows so far along the second axis."""
    grads = np.zeros((len(slots), WIDTH), np.float32)
    grads[:, 1] = -way
    memory.update(slots, grads, lr=1.0)


def test_a_row_past_its_bound_is_fresh_and_counts_anew_once_it_is_sealed(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = make(store, unit_rows(10), drift_limit=0.5)
        push(memory, [3, 4], 0.9)
        assert fresh(memory) == []
        assert state(memory).drift == pytest.approx(0.45)
        assert state(memory).drifted == 0
        push(memory, [4, 4, 7], 0.1)
        assert fresh(memory) == [4]
        assert state(memory).drift == pytest.approx(0.45)
        memory.reindex()
        assert fresh(memory) == []
        assert state(memory).drift == 0
        push(memory, [4], 1.0)  # its length is √(4 + 1.1²) now
        assert fresh(memory) == []
        assert state(memory).drift == pytest.approx(1 / (4 + 1.1**2) ** 0.5)


def test_rows_that_drift_are_sealed_again_by_themselves(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = make(store, unit_rows(100), drift_limit=0.5, fresh_limit=20)
        push(memory, np.arange(30), 1.5)
        assert fresh(memory) == []
        assert state(memory).drift == 0
        assert sum(job.rows for job in state(memory).jobs if job.kind == "seal") == 30
        push(memory, np.arange(30), 0.5)
        assert fresh(memory) == []
        assert state(memory).drift == pytest.approx(0.5 / 2.5)


@pytest.mark.parametrize("verb", ["write", "blend", "allocate", "erase"])
def test_a_row_written_over_drifts_no_more(tmp_path: Path, verb: str) -> None:
    with memstore.open(tmp_path) as store:
        memory = make(store, unit_rows(10), drift_limit=0.5)
        push(memory, [0], 0.9)
        ones = np.ones((1, WIDTH), np.float32)
        if verb == "write":
            memory.write([0], ones)
        elif verb == "blend":
            memory.blend([0], [1.0], ones, ones)
        elif verb == "allocate":
            memory.touch(np.arange(1, 10), 1)
            assert memory.allocate(1).tolist() == [0]
        else:
            memory.erase([0])
        assert fresh(memory) == ([] if verb == "erase" else [0])
        assert state(memory).drift == 0


def test_a_row_of_zeros_is_fresh_once_it_moves(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = make(store, np.zeros((5, WIDTH), np.float32), drift_limit=100)
        memory.update([1], np.zeros((1, WIDTH)), lr=1.0)
        assert fresh(memory) == []
        push(memory, [1], 1e-6)
        assert fresh(memory) == [1]


def test_values_do_not_drift(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        index = IndexConfig(clusters=2, drift_limit=0.01)
        memory = store.create("m", MemoryConfig(dim=WIDTH, value_dim=2, index=index))
        memory.append(unit_rows(5), np.ones((5, 2)))
        memory.reindex()
        memory.update([0], value_grads=np.ones((1, 2)))
        assert memory.describe().shards[0].drift == 0


def test_without_a_limit_rows_drift_and_are_never_fresh(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = make(store, unit_rows(10), drift_limit=None)
        push(memory, [0, 1, 2], 20.0)
        push(memory, [3], 2 * DRIFT_LIMIT - 0.01)
        assert fresh(memory) == []
        assert state(memory).drift == pytest.approx(10)
        assert state(memory).drifted == pytest.approx(0.3)


def test_drift_and_age_are_kept_by_a_checkpoint(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = make(store, unit_rows(10), drift_limit=0.5)
        push(memory, [3], 0.9)
        push(memory, [5], 1.1)
        described = state(memory)
        assert described.sealed_age == 2
    with memstore.open(tmp_path) as store:
        again = store.memory("m")
        assert isinstance(again, EmbeddedMemory)
        memory = again
        # Of the rows, pages that were touched are counted: fewer after they were read anew.
        assert replace(state(memory), row_bytes=0) == replace(described, row_bytes=0)
        assert fresh(memory) == [5]
        push(memory, [3], 0.2)
        assert fresh(memory) == [3, 5]
        memory.reindex()
        assert state(memory).sealed_age == 0


@given(
    kind=st.sampled_from(get_args(OptimizerKind)),
    seed=st.integers(0, 2**20),
    max_norm=st.sampled_from([None, 1.0]),
)
def test_the_bound_is_one(kind: OptimizerKind, seed: int, max_norm: float | None) -> None:
    rng = np.random.default_rng(seed)
    optimizer = OptimizerConfig(kind=kind, max_norm=max_norm, weight_decay=0.1)
    index = IndexConfig(clusters=2, drift_limit=None, maintenance="inline")
    memory = EmbeddedMemory("m", MemoryConfig(dim=WIDTH, index=index, optimizer=optimizer))
    keys = rng.normal(size=(20, WIDTH)).astype(np.float32)
    memory.append(keys)
    memory.reindex()
    for _ in range(5):
        slots = rng.integers(0, 20, 12)
        memory.update(slots, rng.normal(size=(12, WIDTH)), lr=0.2)
        now = memory.gather(np.arange(20)).keys_BD
        assert now is not None
        moved = np.linalg.norm(now - keys, axis=1) / np.linalg.norm(keys, axis=1)
        shard = memory.shards[0]
        bounds = shard.index.drift.bounds(shard.rows.travel_N[:20])
        assert (bounds >= moved * (1 - 1e-4) - 1e-6).all()


def test_rows_beyond_what_was_ever_sealed_are_not_past_anything() -> None:
    drift = Drift(0.5)
    travel = np.array([0.0, 5.0, 5.0])
    assert drift.past(np.arange(3), travel).tolist() == []
    sealing = Sealing(lambda rows: np.ones((len(rows), 1), np.float32), lambda rows: travel[rows])
    sealing(np.array([0, 1]))
    drift.sealed(sealing)
    drift.forget(np.array([1, 2]))
    now: Slots = np.array([2, 1, 0, 0])
    assert drift.past(now, np.array([9.0, 9.0, 0.6, 0.6])).tolist() == [0]
