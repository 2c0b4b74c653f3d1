"""The asyncio client of several servers: its threads, its loop, and servers that move."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import MemoryConfig, RequestId, service
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemoryExists,
    ShardUnavailable,
    StoreClosed,
    UnknownMemory,
)
from memstore.finding import Found
from memstore.rpc import async_spread
from memstore.rpc.async_spread import AsyncSpreadMemory
from tests.congruence.spread import Servers
from tests.rpc.spread.moving import CONFIG, COUNT, EXACT, WIDTH, again, down, rows


def connect(servers: Servers, deadline_s: float = 120.0, **options: Any) -> Any:
    return memstore.connect_async(servers.servers[1].address, deadline_s=deadline_s, **options)


class Stuck:
    """Keeps the writers of all parts of a memory waiting."""

    def __init__(self, servers: Servers) -> None:
        self._locks = [held._mutation for held in servers.held("m")]

    def __enter__(self) -> None:
        for lock in self._locks:
            lock.acquire()

    def __exit__(self, *_: object) -> None:
        for lock in self._locks:
            lock.release()


def test_the_verbs_of_a_store_on_several_servers(servers: Servers) -> None:
    async def work() -> None:
        async with connect(servers) as client:
            memory = await client.create("m", CONFIG)
            assert isinstance(memory, AsyncSpreadMemory)
            assert (memory.name, memory.config) == ("m", CONFIG)
            assert await client.list() == ["m"]
            with pytest.raises(MemoryExists):
                await client.create("m", CONFIG)
            with pytest.raises(UnknownMemory):
                await client.memory("none")
            await client.mark("here")
            assert await client.marks() == ["here"]
            assert (await client.load("m", [])).rows == 0
            assert (await client.load("m", pa.table({"key": list(rows(20))}))).last == 19
            batches = [batch async for batch in client.export("m")]
            assert [slot for batch in batches for slot in batch["slot"].to_pylist()] == [*range(20)]
            with pytest.raises(InvalidArgument, match="shape"):
                await memory.append(np.zeros((1, WIDTH + 1)))
            with pytest.raises(InvalidArgument, match="deadline_s"):
                await memory.append(rows(1), deadline_s=0)
            await client.drop("m")
            assert [store.list() for store in servers.stores] == [[]] * COUNT

    asyncio.run(work())


def test_more_calls_at_once_than_threads(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_spread, "THREADS", 3)

    async def work() -> None:
        async with connect(servers) as client, asyncio.TaskGroup() as group:
            memory = await client.create("m", CONFIG)
            await memory.append(rows(20))
            many = [group.create_task(memory.gather([i])) for i in [*range(20)] * 3]
        found = [task.result().keys_BD[0].tolist() for task in many]
        assert found == rows(20).tolist() * 3

    asyncio.run(work())


def test_a_call_waits_for_a_thread_no_longer_than_its_deadline(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_spread, "THREADS", 1)

    async def work() -> None:
        async with connect(servers) as client:
            memory = await client.create("m", CONFIG)
            await memory.append(rows(20))
            with Stuck(servers):
                first = asyncio.create_task(memory.erase([0]))
                await asyncio.sleep(0)
                with pytest.raises(DeadlineExceeded, match="threads"):
                    await memory.erase([1], deadline_s=0.1)
            assert (await first).applied == 1
            assert (await memory.erase([1])).applied == 1

    asyncio.run(work())


def test_a_mutation_that_is_cancelled_is_done_once(servers: Servers) -> None:
    async def work() -> None:
        async with connect(servers) as client:
            memory = await client.create("m", CONFIG)
            await memory.append(np.zeros((20, WIDTH)))
            move: Any = (range(20), np.full((20, WIDTH), -1.0))
            asked: Any = {"lr": 1.0, "request_id": RequestId("me", 1)}
            with Stuck(servers), pytest.raises(TimeoutError):
                await asyncio.wait_for(memory.update(*move, **asked), 0.2)
            for _ in range(2):
                assert (await memory.update(*move, **asked)).applied == 20
            assert (await memory.gather(range(20))).keys_BD.tolist() == [[1.0] * WIDTH] * 20

    asyncio.run(work())


def test_arguments_are_those_that_there_were_when_the_call_began(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_spread, "THREADS", 1)

    async def work() -> None:
        async with connect(servers) as client:
            config = MemoryConfig(dim=WIDTH, shards=5, index="exact", records={"n": "int64"})
            memory = await client.create("m", config)
            await memory.append(rows(20), records={"n": [0] * 20})
            slots, keys, records = np.arange(5), rows(5, 1), {"n": [1, 2, 3, 4, 5]}
            with Stuck(servers):
                first = asyncio.create_task(memory.erase([19]))
                await asyncio.sleep(0)
                writing = asyncio.create_task(memory.write(slots, keys, records=records))
                await asyncio.sleep(0)
                slots += 9
                keys[:] = 0
                records["n"].clear()
            await first
            assert (await writing).applied == 5
            found = await memory.gather(range(5), columns=["n"])
            np.testing.assert_array_equal(found.keys_BD, rows(5, 1))
            assert found.records["n"].to_pylist() == [1, 2, 3, 4, 5]

    asyncio.run(work())


def test_servers_are_found_where_they_went(tmp_path: Path, servers: Servers) -> None:
    """All of them: none is left where the client was told that it is."""

    async def work() -> None:
        async with connect(servers) as client:
            memory = await client.create("m", CONFIG)
            await memory.append(rows(20))
            for number in range(COUNT):
                await asyncio.to_thread(down, servers, number)
                await asyncio.to_thread(again, servers, tmp_path, number)
                found = await memory.search(rows(2), 20, EXACT)
                assert found.counts_Q.tolist() == [20, 20]
            assert await client.list() == ["m"]
            assert (await (await client.memory("m")).append(rows(1))).tolist() == [20]

    asyncio.run(work())


def test_an_address_that_is_looked_up(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(tuple(server.address for server in servers.servers))
    monkeypatch.setattr(
        service, "finder", lambda address: {"ray:a/b": lambda deadline_s: found}[address]
    )

    async def work() -> None:
        async with memstore.connect_async("ray:a/b", deadline_s=120.0) as client:
            memory = await client.create("m", CONFIG)
            assert len((await memory.describe()).shards) == CONFIG.shards

    asyncio.run(work())


def test_who_is_told_to_asks_the_next_server_where_one_is_not_there(servers: Servers) -> None:
    async def ask() -> None:
        addresses = ",".join(server.address for server in servers.servers)
        async with memstore.connect_async(addresses, deadline_s=120.0, fan_out=False) as client:
            memory = await client.create("m", CONFIG)
            assert not isinstance(memory, AsyncSpreadMemory)
            assert len(await memory.append(rows(20))) == 20
            await asyncio.to_thread(down, servers, 0)
            at = np.flatnonzero(np.arange(20) % 5 % COUNT != 0)
            assert len((await memory.gather(at)).slots_B) == len(at)
            assert (await memory.touch(at, 1)).applied == len(at)
            await asyncio.to_thread(down, servers, 1)
        async with memstore.connect_async(addresses, deadline_s=3.0, fan_out=False) as client:
            memory = await client.memory("m")
            with pytest.raises(ShardUnavailable):
                await memory.gather(at)

    asyncio.run(ask())


def test_who_is_told_to_asks_the_next_server_where_one_hangs(servers: Servers) -> None:
    async def ask(hung: str) -> None:
        addresses = f"{hung},{servers.servers[0].address}"
        async with memstore.connect_async(addresses, deadline_s=4.0, fan_out=False) as client:
            with pytest.raises(DeadlineExceeded):
                await client.list()
            assert await client.list() == []

    with socket.create_server(("127.0.0.1", 0)) as hung:  # nobody takes what comes
        asyncio.run(ask(f"127.0.0.1:{hung.getsockname()[1]}"))


def test_a_drop_is_of_the_memory_that_there_was_when_it_was_asked_for(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with connect(servers) as client, connect(servers) as other:
            await client.create("m", CONFIG)
            send = client.send

            async def late(request: Any) -> Any:
                if request.verb == "drop":
                    await other.drop("m")
                    await (await other.create("m", CONFIG)).append(rows(20))
                return await send(request)

            monkeypatch.setattr(client, "send", late)
            with pytest.raises(UnknownMemory, match="another was made under its name"):
                await client.drop("m")
            assert (await (await other.memory("m")).gather([0])).keys_BD.shape == (1, WIDTH)

    asyncio.run(work())


def test_a_closed_client_says_so_also_to_those_who_wait(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_spread, "THREADS", 2)

    async def work() -> None:
        client = connect(servers)
        memory = await client.create("m", CONFIG)
        await memory.append(rows(20))
        with Stuck(servers):
            calls = [asyncio.create_task(memory.erase([i])) for i in range(6)]
            await asyncio.sleep(0.1)
            await client.close()
            for call in calls:
                with pytest.raises(StoreClosed):
                    await call
        for late in (memory.describe(), client.list(), client.memory("m")):
            with pytest.raises(StoreClosed):
                await late

    asyncio.run(work())


def test_a_memory_belongs_to_the_loop_of_its_client(servers: Servers) -> None:
    client = connect(servers)
    with asyncio.Runner() as one, asyncio.Runner() as other:
        memory = one.run(client.create("m", CONFIG))
        with pytest.raises(InvalidArgument, match="another event loop"):
            other.run(memory.describe())
        assert one.run(memory.describe()).name == "m"
        one.run(client.close())
