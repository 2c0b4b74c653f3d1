"""Jobs that stop where a test says, and what is looked at of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from memstore import IndexConfig, Memory, MemoryConfig, SearchOptions, Store
from memstore.embedded import EmbeddedMemory
from memstore.memory import Array, JobDescription, ShardDescription, Slots
from tests.congruence.oracle import live_slots, settle

WIDTH, LIMIT = 6, 32
EVERY = SearchOptions(probe=1_000_000)
EXACT = SearchOptions(exact=True)


def keys(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


def make(store: Store, rows: int = 0, **index: Any) -> Memory:
    given: dict[str, Any] = {"clusters": 4, "codec": "flat", "fresh_limit": LIMIT} | index
    config = MemoryConfig(dim=WIDTH, index=IndexConfig(**given), optimizer="sgd")
    memory = store.create("m", config)
    if rows:
        memory.append(keys(rows))
        memory.reindex()
        settle(memory)
    return memory


def threads() -> list[str]:
    """Those of jobs."""
    jobs = ("memstore-seal", "memstore-cluster")
    return [t.name for t in threading.enumerate() if t.name in jobs]


def state(memory: Memory) -> ShardDescription:
    return memory.describe().shards[0]


def job(memory: Memory, kind: str) -> JobDescription:
    return next(job for job in state(memory).jobs if job.kind == kind)


def eventually(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not what():
        assert time.monotonic() < until
        time.sleep(0.002)


def check(memory: Memory) -> None:
    """Every live row is proposed from exactly one place, and is found as by exact search."""
    assert isinstance(memory, EmbeddedMemory)
    for shard in memory.shards:
        version = shard.index.version
        held = [np.flatnonzero(np.unpackbits(s.valid, bitorder="little")) for s in version.segments]
        proposed = np.sort(np.concatenate([version.fresh_F, *held]))
        assert proposed.tolist() == shard.rows.live_rows().tolist()
        for segment, rows in zip(version.segments, held, strict=True):
            assert len(segment) - segment.stale == len(rows)
    queries, k = keys(5, 99), max(memory.describe().rows, 1)
    found, true = memory.search(queries, k, EVERY), memory.search(queries, k, EXACT)
    assert found.slots_QK.tolist() == true.slots_QK.tolist()
    assert found.scores_QK.tolist() == true.scores_QK.tolist()


class Gate:
    """Holds a part of a job until it is opened, then lets it run as it is."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        real = getattr(owner, name)

        def gated(*arguments: Any) -> Any:
            found = real(*arguments)
            self.reached.set()
            assert self._open.wait(30)
            return found

        patch.setattr(owner, name, gated)

    def wait(self) -> None:
        assert self.reached.wait(30)

    def open(self) -> None:
        self._open.set()


def change(memory: Memory, seed: int = 7) -> Slots:
    """Changes rows in every way, some that a job has read among them; returns those erased."""
    slots = live_slots(memory)
    few = np.random.default_rng(seed).permutation(slots)[:25]
    memory.write(few[:5], keys(5, seed))
    memory.blend(few[5:10], np.ones(5), keys(5, seed) * 0 + 1, keys(5, seed + 1))
    memory.erase(few[10:15])
    memory.update(few[15:20], keys(5, seed + 2), lr=9.0)
    memory.allocate(3)
    memory.append(keys(4, seed + 3))
    return few[10:15]
