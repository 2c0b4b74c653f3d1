"""Readers, writers and checkpoints at the same time."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import NO_SLOT, IndexConfig, MemoryConfig, SearchOptions
from memstore.shard import blocks
from memstore.shard.row_view import RowView
from tests.adversarial.stores import keys
from tests.congruence.oracle import live_slots


def test_a_checkpoint_beside_an_append_names_every_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    with memstore.open(path) as store:
        memory = store.create("m", MemoryConfig(dim=3, shards=2))
        memory.append(keys(10))
        write = blocks.write

        def append_then_write(*arguments: Any) -> Any:
            writer = threading.Thread(target=lambda: memory.append(keys(10)))
            writer.start()
            writer.join(60)
            assert not writer.is_alive()  # a checkpoint that is being written keeps nobody off
            return write(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(blocks, "write", append_then_write)
            store.checkpoint()
        crashed = shutil.copytree(path, tmp_path / "crashed")
    with memstore.open(crashed) as store:
        memory = store.memory("m")
        state = memory.describe()
        assert state.rows == state.next_slot  # none is missing, and none is to be given again
        assert live_slots(memory).tolist() == list(range(state.rows))


def test_an_exact_search_beside_an_append_that_moves_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=3, index="exact"))
        monkeypatch.setattr("memstore.shard.region.RESERVED_ROWS", 0)
        memory.append(keys(5))
        memory.erase([0])
        live_rows, appended = RowView.live_rows, []

        def append_first(view: RowView) -> Any:
            monkeypatch.undo()
            appended.append(memory.append(keys(5_000)))
            return live_rows(view)

        monkeypatch.setattr(RowView, "live_rows", append_first)
        assert memory.search(keys(), 4).counts_Q.tolist() == [4]
        assert appended


@pytest.fixture
def fast_switching() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("fast_switching")
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["exact", "clustered"])
def test_searches_beside_mutations(tmp_path: Path, kind: Any, shards: int) -> None:
    rng = np.random.default_rng(0)
    erased: set[int] = set()
    failures: list[BaseException] = []
    searches = 0
    done = threading.Event()
    with memstore.open(tmp_path) as store:
        index = IndexConfig(kind=kind, fresh_limit=64, clusters=8)
        config = MemoryConfig(
            dim=8, shards=shards, index=index, records={"n": "int64"}, lookup=("n",)
        )
        memory = store.create("m", config)
        live = memory.append(rng.normal(size=(200, 8)), records={"n": [0] * 200}).tolist()

        def search(seed: int) -> None:
            nonlocal searches
            queries = np.random.default_rng(seed).normal(size=(4, 8)).astype(np.float32)
            options = SearchOptions(exact=seed % 2 == 0)
            while not done.is_set():
                dead = set(erased)
                result = memory.search(queries, 10, options)
                slots = result.slots_QK[result.slots_QK != NO_SLOT]
                assert not dead & set(slots.tolist())
                assert np.isfinite(result.scores_QK[result.slots_QK != NO_SLOT]).all()
                assert (result.scores_QK[:, 1:] <= result.scores_QK[:, :-1]).all()
                assert result.counts_Q.min() > 0
                assert not dead & set(memory.lookup("n", [0], 5).slots.tolist())
                searches += 1

        def guarded(seed: int) -> None:
            try:
                search(seed)
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        readers = [threading.Thread(target=guarded, args=(seed,)) for seed in range(3)]
        for reader in readers:
            reader.start()
        for step in range(150):
            if failures:
                break
            slots = memory.append(rng.normal(size=(20, 8)), records={"n": [0] * 20})
            live += slots.tolist()
            some = rng.choice(live, 15, replace=False)
            memory.update(some, rng.normal(size=(15, 8)))
            memory.write(some[:5], rng.normal(size=(5, 8)))
            memory.erase(some[5:])
            erased |= set(some[5:].tolist())
            live = [slot for slot in live if slot not in erased]
            if step % 25 == 0:
                memory.reindex()
        done.set()
        for reader in readers:
            reader.join()
        assert failures == []
        assert searches > 3
        assert live_slots(memory).tolist() == live
