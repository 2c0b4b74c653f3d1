"""Memories of one name, one after the other, of one server: as `test_incarnations` of several."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, SearchOptions, Store, files
from memstore.durable import manifest
from memstore.durable.restoring import restore_into
from memstore.errors import UnknownMemory
from memstore.memory import Array, Memory
from memstore.placement import Part
from memstore.rpc import bulk
from memstore.rpc.administration import StoreRequests
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from tests.rpc.conftest import CONFIG, WIDTH
from tests.rpc.test_transfer import table

ONES = np.ones((12, WIDTH), np.float32)
OTHER = "another was made under its name"


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-9, 10, (count, WIDTH)).astype(np.float32)


CHANGES: dict[str, Callable[[Memory], object]] = {
    "append": lambda m: m.append(rows(3)),
    "write": lambda m: m.write(range(12), ONES),
    "update": lambda m: m.update(range(12), ONES, lr=1.0),
    "blend": lambda m: m.blend(range(12), np.ones(12), ONES, ONES),
    "touch": lambda m: m.touch(range(12), 3),
    "allocate": lambda m: m.allocate(2),
    "erase": lambda m: m.erase(range(12)),
}


def is_whole(memory: Memory) -> None:
    """Whether the 12 rows that were appended to a memory are there as they were, and no others."""
    np.testing.assert_array_equal(memory.gather(range(12)).keys_BD, rows(12))
    assert memory.describe().next_slot == 12


def again(client: Client) -> Memory:
    """Another memory in the place of the one that is there."""
    client.drop("m")
    memory = client.create("m", CONFIG)
    memory.append(rows(12))
    return memory


def test_a_mutation_of_the_former_memory_changes_not_the_new_one(client: Client) -> None:
    with client.session() as session:
        formers = [client.memory("m"), session.memory("m")]
        memory = again(client)
        for former in formers:
            for change in CHANGES.values():
                with pytest.raises(UnknownMemory, match=OTHER):
                    change(former)
            # What only reads goes by the name.
            is_whole(former)
            assert former.search(rows(2, 1), 12).counts_Q.tolist() == [12, 12]
    is_whole(memory)
    memory.update([0], ONES[:1], lr=1.0)


def test_it_is_so_for_what_is_awaited_loaded_and_dropped(client: Client, server: Server) -> None:
    former = client.memory("m")
    made = former.describe().made

    async def awaited() -> None:
        async with memstore.connect_async(server.address) as other:
            late = await other.memory("m")
            await asyncio.to_thread(again, client)
            with pytest.raises(UnknownMemory, match=OTHER):
                await late.update(range(12), ONES, lr=1.0)

    asyncio.run(awaited())
    memory = client.memory("m")
    late, streams = bulk.messages("m", CONFIG, made, table(3), None, None), client.bulk()
    with pytest.raises(UnknownMemory, match=OTHER):
        streams.end(streams.begin(late, None))
    with pytest.raises(UnknownMemory, match=OTHER):
        client.send(StoreRequests().drop("m", made))
    is_whole(memory)
    # Who knows of no number, as a program in another language may, goes by the name.
    client.send(StoreRequests().drop("m"))
    assert client.list() == []


def test_a_refresh_of_the_former_memory_encodes_nothing(client: Client) -> None:
    encoding = EncodingConfig(key={"a": "m"})
    config = MemoryConfig(dim=WIDTH, records={"a": "int64"}, encoding=encoding, index="exact")
    client.memory("m").append(rows(12))
    former = client.create("sums", config)
    client.drop("sums")
    client.create("sums", config).append(records={"a": [0, 1]})
    client.memory("m").update([0], ONES[:1], lr=1.0)
    drifted = client.memory("sums").describe().drift
    assert drifted
    with pytest.raises(UnknownMemory, match=OTHER):
        former.refresh()
    assert client.memory("sums").describe().drift == drifted
    assert client.memory("sums").refresh().encoded > 0


def test_what_is_restored_is_another_memory(tmp_path: Path, client: Client, store: Store) -> None:
    former = client.memory("m")
    former.append(rows(12))
    uri = str(tmp_path / "snapshots")
    client.snapshot(uri)
    made = [former.describe().made]
    client.drop("m")
    client.restore(uri)
    with pytest.raises(UnknownMemory, match=OTHER):
        former.erase(range(12))
    is_whole(client.memory("m"))
    made.append(client.memory("m").describe().made)
    # By itself, in other shards, and into a store that is open.
    memstore.restore(uri, tmp_path / "as it was")
    memstore.restore(uri, tmp_path / "cut", shards=3)
    with memstore.open(tmp_path / "into") as into:
        restore_into(into, uri)
    for name in ("as it was", "cut", "into"):
        with memstore.open(tmp_path / name) as other:
            is_whole(other.memory("m"))
            made.append(other.memory("m").describe().made)
    assert len({*made}) == 5
    assert min(made) > 0
    # Parts count what they make and drop.
    for shards in (None, 4):
        for number in range(2):
            path = tmp_path / f"{shards} {number}"
            if shards is None and number:
                continue  # of the one shard it has none
            memstore.restore(uri, path, shards=shards, part=Part(number, 2))
            with memstore.open(path, part=Part(number, 2)) as part:
                memory: Any = part.memory("m")
                assert (memory.made, part.turn) == (1, 1)


def test_the_number_outlives_checkpoints_logs_and_processes(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with memstore.open(path) as store:
        made = store.create("m", CONFIG).describe().made
        store.memory("m").append(rows(6))
        shutil.copytree(path, tmp_path / "killed")
        store.checkpoint()
        store.memory("m").append(rows(12)[6:])
    for kept, count in ((path, 12), (tmp_path / "killed", 6)):
        for _ in range(2):
            with memstore.open(kept) as store:
                found = store.memory("m").describe()
                assert (found.made, found.rows) == (made, count)


def test_a_memory_from_before_there_were_numbers_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with memstore.open(path) as store:
        store.create("m", CONFIG).append(rows(12))
    body = manifest.read(path / manifest.NAME)
    del body["memories"]["m"]["made"]
    files.replace_json(path / manifest.NAME, body)
    with (
        memstore.open(path) as store,
        Server(store) as server,
        memstore.connect(server.address) as client,
    ):
        old = client.memory("m")
        is_whole(old)
        assert old.describe().made == 0
        assert old.touch(range(12), 1).applied == 12
        # One that has a number is another than it: who comes late for that is refused.
        memory = again(client)
        assert memory.describe().made > 0
        client.drop("m")
        store.create("m", CONFIG)
        with pytest.raises(UnknownMemory, match=OTHER):
            memory.update([0], ONES[:1], lr=1.0)


def test_embedded_the_former_memory_takes_nothing(store: Store) -> None:
    former: Any = store.memory("m")
    store.drop("m")
    store.create("m", CONFIG).append(rows(12))
    for change in CHANGES.values():
        with pytest.raises(UnknownMemory, match="was dropped"):
            change(former)
    is_whole(store.memory("m"))
    assert store.memory("m").search(rows(1), 3, SearchOptions(exact=True)).counts_Q.tolist() == [3]
