"""Rows that are gone: a block of them takes no memory once nobody reads it, nor any disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, Memory, MemoryConfig, SearchOptions
from memstore.durable.checkpoints import base_of
from memstore.durable.verify import verify
from memstore.shard.blocks import BLOCK_ROWS
from memstore.shard.rows import RowTable
from memstore.shard.shard import Shard
from memstore.store import Store

D, ROWS = 64, 6 * BLOCK_ROWS
GONE = 4 * BLOCK_ROWS
CONFIG = MemoryConfig(dim=D, value_dim=2, optimizer="adam", index=IndexConfig(kind="clustered"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", CONFIG)
        keys_ND = np.random.default_rng(0).standard_normal((ROWS, D)).astype(np.float32)
        memory.append(keys_ND, keys_ND[:, :2])
        memory.update(np.arange(ROWS), np.ones((ROWS, D), np.float32), lr=0.1)
        yield store


def shard_of(memory: Memory) -> Shard:
    (shard,) = base_of(memory).shards  # type: ignore[arg-type]
    return shard


def erase(memory: Memory, first: int = 0, end: int = GONE) -> None:
    """A few at a time, as services do."""
    for start in range(first, end, 100):
        memory.erase(np.arange(start, min(start + 100, end)))


def is_clear(table: RowTable, first: int, end: int) -> bool:
    return not any(array[first:end].any() for array in table.arrays().values())


def test_memory_of_whole_blocks_is_given_back_and_the_others_stay(store: Store) -> None:
    memory = store.memory("m")
    table = shard_of(memory).rows
    before, left = table.bytes, np.arange(GONE + 50, ROWS)
    kept, query = memory.gather(left), np.ones((1, D), np.float32)
    erase(memory, end=GONE + 50)
    found = memory.search(query, 10, SearchOptions(exact=True))
    shard_of(memory).clear()
    store.checkpoint()
    assert table.bytes < before * 0.45
    assert is_clear(table, 0, GONE)
    assert table.keys_ND[GONE : GONE + 50].any()  # others of their block are there
    assert table.live == ROWS - GONE - 50
    again = memory.gather(left)
    assert again.keys_BD is not None
    assert kept.keys_BD is not None
    assert again.keys_BD.tobytes() == kept.keys_BD.tobytes()
    after = memory.search(query, 10, SearchOptions(exact=True))
    assert after.slots_QK.tolist() == found.slots_QK.tolist()
    assert after.scores_QK.tolist() == found.scores_QK.tolist()
    with pytest.raises(memstore.errors.UnknownSlot):
        memory.gather([3])


def test_who_reads_finds_what_was_there(store: Store) -> None:
    memory = store.memory("m")
    shard = shard_of(memory)
    keys_ND = shard.rows.keys_ND.copy()
    memory.append(np.ones((1, D), np.float32), np.ones((1, 2), np.float32))
    view = shard.rows.view
    # Another who came later, and goes on for longer, keeps what went after it came.
    erase(memory, end=BLOCK_ROWS)
    later = shard.rows.view
    erase(memory, BLOCK_ROWS)
    shard.clear()
    assert view.keys(np.arange(GONE)).tobytes() == keys_ND[:GONE].tobytes()
    del view
    shard.clear()
    assert is_clear(shard.rows, 0, BLOCK_ROWS)
    assert later.keys(np.arange(BLOCK_ROWS, GONE)).tobytes() == keys_ND[BLOCK_ROWS:GONE].tobytes()
    del later
    shard.clear()
    assert is_clear(shard.rows, 0, GONE)


def test_a_checkpoint_has_the_rows_of_its_moment(store: Store, tmp_path: Path) -> None:
    memory = store.memory("m")
    table = shard_of(memory).rows
    keys_ND, frozen = table.keys_ND.copy(), base_of(memory).frozen  # type: ignore[arg-type]
    made = store._contents._checkpoints["m"]
    with frozen():
        moment = made.begin()
    assert moment is not None
    erase(memory)
    shard_of(memory).clear()
    assert is_clear(table, 0, GONE)
    (of_shard,) = moment.shards
    written = dict(of_shard.cut.blocks(shard_of(memory).writers))
    assert sorted(written) == list(range(ROWS // BLOCK_ROWS))
    for block, arrays in written.items():
        rows = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
        assert arrays["keys"].tobytes() == keys_ND[rows].tobytes()
        assert arrays["alive"].all()
    made.abandon(moment)


@pytest.mark.parametrize("covered", [False, True])
def test_a_store_that_is_opened_again_has_none_of_it(
    store: Store, tmp_path: Path, covered: bool
) -> None:
    memory = store.memory("m")
    store.checkpoint()
    size = _block_bytes(tmp_path / "store")
    erase(memory)
    if covered:
        store.checkpoint()
        memory.erase([ROWS - 1])
        store.checkpoint()  # empties the file of the first, of which little is wanted
        assert _block_bytes(tmp_path / "store") < size / 2
    shutil.copytree(tmp_path / "store", tmp_path / "copy")  # as a crash would leave it
    left = np.arange(GONE, ROWS - 1)
    with memstore.open(tmp_path / "copy") as copy:
        again = copy.memory("m")
        table = shard_of(again).rows
        shard_of(again).clear()
        assert table.bytes < shard_of(memory).rows.bytes * 1.1
        assert is_clear(table, 0, GONE)
        here, there = again.gather(left), memory.gather(left)
        assert here.keys_BD is not None
        assert there.keys_BD is not None
        assert here.keys_BD.tobytes() == there.keys_BD.tobytes()
        slot = again.append(np.ones((1, D), np.float32), np.ones((1, 2), np.float32))
        assert slot.tolist() == [ROWS]
    assert list(verify(tmp_path / "copy")) == []


def test_a_row_that_comes_late_is_new() -> None:
    table = RowTable(CONFIG)
    rows_B = np.arange(2 * BLOCK_ROWS)
    some_B = rows_B[rows_B != 7]  # given out, and on its way from another server
    keys_BD, values_BV = np.ones((len(some_B), D), np.float32), np.ones((len(some_B), 2), "f4")
    table.put(some_B, keys_BD, values_BV)
    table.usage.priority_N[some_B] = 3.0
    table.kill(some_B)
    blocks_K = table.unread()
    assert blocks_K.tolist() == [0, 1]
    table.clear(blocks_K)
    table.put(np.array([7]), keys_BD[:1], values_BV[:1])
    assert table.usage.priority_N[7] == -np.inf
    assert table.keys_ND[7].all()
    assert table.live == 1
    table.kill(np.array([7]))
    table.put(np.array([8]), keys_BD[:1], values_BV[:1])  # before anybody asked
    assert table.unread().tolist() == []


def _block_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("blocks-*.bin"))
