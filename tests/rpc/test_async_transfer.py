"""Load and Export of the asyncio client, beside what they share with the synchronous one: its loop,
batches that come asynchronously, and what becomes of a stream that is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import MemoryConfig, Store
from memstore.errors import InvalidArgument, MemstoreError, StoreClosed, UnknownMemory
from memstore.rpc.server import Server
from tests.rpc.conftest import CONFIG, WIDTH
from tests.rpc.test_transfer import rows_of, table


async def until_rows(store: Store, count: int) -> None:
    """Waits on the loop, which is free meanwhile."""
    async with asyncio.timeout(60):
        while rows_of(store, "m") != count:
            await asyncio.sleep(0.01)


async def none_is_loading(store: Store) -> None:
    async with asyncio.timeout(60):
        while store._loading is not None:
            await asyncio.sleep(0.01)


def test_what_one_memory_exports_another_loads_as_it_comes(store: Store, server: Server) -> None:
    store.create("other", CONFIG)
    store.memory("m").append(np.random.default_rng(0).random((9_000, WIDTH), np.float32))

    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            done = await client.load("other", client.export("m"))
            assert (done.rows, done.first, done.last) == (9_000, 0, 8_999)
            batches = [batch async for batch in client.export("other", [7, 3])]
            assert [batch["slot"].to_pylist() for batch in batches] == [[7, 3]]

    asyncio.run(work())
    one, other = (store.memory(name).gather(np.arange(9_000)).keys_BD for name in ("m", "other"))
    np.testing.assert_array_equal(one, other)


def test_a_load_waits_for_batches_while_the_loop_is_free(store: Store, server: Server) -> None:
    go_on = threading.Event()

    def slow() -> Iterator[pa.Table]:
        yield table(5)
        assert go_on.wait(60)
        yield table(6)

    async def awaited(free: asyncio.Event) -> AsyncIterator[pa.Table]:
        yield table(5)
        await free.wait()
        yield table(6)

    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            loading = asyncio.create_task(client.load("m", slow()))
            await until_rows(store, 5)
            go_on.set()
            assert (await loading).rows == 11
            free = asyncio.Event()
            loading = asyncio.create_task(client.load("m", awaited(free)))
            await until_rows(store, 16)
            free.set()
            assert (await loading).rows == 11

    asyncio.run(work())
    assert rows_of(store, "m") == 22


def test_what_the_batches_raise_is_raised_and_nothing_is_loaded(
    store: Store, server: Server
) -> None:
    async def failing() -> AsyncIterator[pa.Table]:
        yield table(5)
        raise ValueError("no more")

    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            with pytest.raises(ValueError, match="no more"):
                await client.load("m", failing())
            await none_is_loading(store)
            assert rows_of(store, "m") == 0
            with pytest.raises(UnknownMemory):
                await client.load("none", failing())
            with pytest.raises(InvalidArgument, match="deadline_s"):
                await client.load("m", table(1), deadline_s=0)
            with pytest.raises(InvalidArgument, match="deadline_s"):
                client.export("m", deadline_s=0)

    asyncio.run(work())


def test_a_load_that_is_cancelled_is_taken_back(store: Store, server: Server) -> None:
    """In the middle of its batches, wherever these come from."""
    over = threading.Event()

    def slow() -> Iterator[pa.Table]:
        yield table(5)
        over.wait(60)

    async def never() -> AsyncIterator[pa.Table]:
        yield table(5)
        await asyncio.Event().wait()

    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            for batches in (slow(), never()):
                loading = asyncio.create_task(client.load("m", batches))
                await until_rows(store, 5)
                loading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await loading
                over.set()
                await until_rows(store, 0)
                await none_is_loading(store)
            assert (await client.load("m", table(3))).rows == 3

    asyncio.run(work())


def test_closing_ends_the_streams_under_way(store: Store, server: Server) -> None:
    store.create("wide", MemoryConfig(dim=1_024, index="none")).append(np.ones((20_000, 1_024)))

    async def never() -> AsyncIterator[pa.Table]:
        yield table(5)
        await asyncio.Event().wait()

    async def work() -> None:
        client = memstore.connect_async(server.address)
        loading = asyncio.create_task(client.load("m", never()))
        await until_rows(store, 5)
        batches = client.export("wide")
        await anext(batches)
        await client.close()
        with pytest.raises(StoreClosed):
            await loading
        with pytest.raises(StoreClosed):
            async for _ in batches:
                pass
        await until_rows(store, 0)
        for late in (client.load("m", table(1)), anext(client.export("m"))):
            with pytest.raises(StoreClosed):
                await late

    asyncio.run(work())


def test_an_export_that_nobody_reads_on_is_ended(store: Store, server: Server) -> None:
    store.create("wide", MemoryConfig(dim=1_024, index="none")).append(np.ones((64_000, 1_024)))

    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            batches = client.export("wide")
            await anext(batches)
            assert server._handlers.transfers._exports == 1
            await batches.aclose()  # type: ignore[attr-defined]
            async with asyncio.timeout(60):
                while server._handlers.transfers._exports:
                    await asyncio.sleep(0.01)

    asyncio.run(work())


def test_a_server_that_is_gone_is_told(server: Server) -> None:
    async def work() -> None:
        async with memstore.connect_async(server.address, deadline_s=0.5) as client:
            await client.list()
            await asyncio.to_thread(server.close)
            with pytest.raises(MemstoreError):
                await anext(client.export("m", deadline_s=0.5))
            with pytest.raises(MemstoreError):
                await client.load("m", table(1), deadline_s=0.5)

    asyncio.run(work())
