"""Who is alone, and whose reads are short enough for the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, SearchOptions, Store
from memstore.rpc import codec, sizes
from memstore.rpc.alone import ALONE_S, Alone
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from memstore.rpc.v1 import memory_pb2 as pb
from tests.rpc.conftest import WIDTH


def test_company_is_remembered_for_a_while() -> None:
    async def read(alone: Alone, wait_s: float = 0.0) -> bool:
        with alone.reading():
            is_so = await alone.is_so()
            await asyncio.sleep(wait_s)
            return is_so

    async def work() -> None:
        alone = Alone()
        assert await read(alone)
        assert await read(alone)
        assert not any(await asyncio.gather(read(alone), read(alone)))
        assert not await read(alone)
        await asyncio.sleep(ALONE_S)
        assert await read(alone)
        long = asyncio.ensure_future(read(alone, 2 * ALONE_S))
        await asyncio.sleep(0)
        assert not await read(alone)
        await long

    asyncio.run(work())


def test_short_reads(store: Store) -> None:
    asked = pb.GatherRequest(slots=codec.to_tensor(np.arange(100)))
    config = MemoryConfig(dim=2, index="exact", records={"name": "string"})
    memory = store.create("small", config)
    assert sizes.is_short(asked, memory)
    assert not sizes.is_short(pb.GatherRequest(slots=asked.slots, columns=["name"]), memory)
    many = pb.GatherRequest(slots=codec.to_tensor(np.zeros(100_000, np.int64)))
    assert not sizes.is_short(many, memory)
    mapped = store.create("mapped", MemoryConfig(dim=2, index="exact", storage="mapped"))
    assert not sizes.is_short(asked, mapped)


def test_a_filter_is_not_made_in_the_event_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes far longer than its bytes tell, and all other callers would wait for it."""
    threads = []
    made = codec.options_of

    def seen(message: Any) -> SearchOptions:
        threads.append(threading.current_thread().name)
        return made(message)

    monkeypatch.setattr(codec, "options_of", seen)
    store.create("r", MemoryConfig(dim=2, index="exact", records={"n": "int64"}))
    rows = np.ones((3, 2), np.float32)
    with Server(store) as server, memstore.connect(server.address) as client:
        memory = client.memory("r")
        memory.append(rows, records={"n": [1, 2, 3]})
        for among in ([2], range(2, 1_000)):
            found = memory.search(
                rows[:1], 3, SearchOptions(filter=memstore.field("n").is_in(among))
            )
            assert found.counts_Q.tolist() == [min(len(among), 2)]
    few, many = threads
    assert few == "memstore-serve"
    assert many.startswith("memstore-read")


def test_equal_slots_are_asked_for_once_where_they_are_many(client: Client) -> None:
    memory: Any = client.memory("m")
    rows_BD = np.arange(64 * WIDTH, dtype=np.float32).reshape(64, WIDTH)
    memory.append(rows_BD)
    for slots, asked in (
        ([*range(64)][::-1], 64),
        ([*range(63), 0], 64),  # a few
        ([5, 3, 5, 3, 3, 9], 3),
        ([], 0),
    ):
        assert memory.requests.gather(slots).message.slots.shape == [asked]
        found = memory.gather(slots)
        np.testing.assert_array_equal(found.keys_BD, rows_BD[np.array(slots, int)])
        assert found.slots_B.tolist() == slots
        found.keys_BD[:] = 0  # the caller's own
