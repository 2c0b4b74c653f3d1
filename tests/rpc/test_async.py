"""The asyncio client: its errors, its loop, and what becomes of a call that is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import ClientTls, MemoryConfig, RequestId, Store
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemoryExists,
    MemstoreError,
    Overloaded,
    StoreClosed,
    Unauthenticated,
    UnknownMemory,
    UnknownSlot,
    Unreachable,
)
from memstore.rpc.limits import Limits
from memstore.rpc.security import Tokens, add_token
from memstore.rpc.server import Server
from memstore.rpc.tls import ServerTls
from tests.rpc.certificates import make
from tests.rpc.conftest import CONFIG, WIDTH

ROWS = np.eye(WIDTH, dtype=np.float32)


@contextmanager
def no_reads(server: Server) -> Iterator[None]:
    """Keeps all that a server reads with busy."""
    free = threading.Event()
    workers = server._pools.readers._max_workers
    busy = [server._pools.readers.submit(free.wait) for _ in range(workers)]
    try:
        yield
    finally:
        free.set()
        for one in busy:
            one.result()


async def until_idle(server: Server) -> None:
    while server.gate.all.calls:
        await asyncio.sleep(0.01)


def test_the_verbs_of_a_store(server: Server, tmp_path: Path) -> None:
    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            made = await client.create("other", CONFIG)
            assert (made.name, made.config) == ("other", CONFIG)
            assert await client.list() == ["m", "other"]
            with pytest.raises(MemoryExists):
                await client.create("other", CONFIG)
            await client.mark("here")
            assert await client.marks() == ["here"]
            taken = await client.snapshot(str(tmp_path / "copy"), at="here")
            assert taken.bytes > 0
            await client.unmark("here")
            await client.drop("other")
            with pytest.raises(UnknownMemory):
                await client.memory("other")
            memory = await client.memory("m")
            with pytest.raises(UnknownSlot):
                await memory.gather([7])
            with pytest.raises(InvalidArgument, match="shape"):
                await memory.append(np.zeros((1, WIDTH + 1)))
            await memory.reindex()
            assert await client.marks() == []

    asyncio.run(work())


BAD: list[Callable[[Any], Any]] = [
    lambda memory: memory.append(np.zeros((1, WIDTH + 1))),
    lambda memory: memory.append([["a"] * WIDTH]),
    lambda memory: memory.append(np.full((1, WIDTH), np.nan)),
    lambda memory: memory.append(ROWS, np.zeros((WIDTH, 1))),
    lambda memory: memory.append(ROWS, step=-1),
    lambda memory: memory.append(ROWS, deadline_s=0),
    lambda memory: memory.append(2 * ROWS, request_id=RequestId("me", 1)),
    lambda memory: memory.write([0, 0], ROWS[:2]),
    lambda memory: memory.write([99], ROWS[:1]),
    lambda memory: memory.update([0], ROWS[:1], lr=-1.0),
    lambda memory: memory.blend([0], [1.0, 2.0], ROWS[:1], ROWS[:1]),
    lambda memory: memory.touch([0], "now"),
    lambda memory: memory.allocate(-1),
    lambda memory: memory.erase([99]),
    lambda memory: memory.search(ROWS, 0),
    lambda memory: memory.search(ROWS, 2**63),
    lambda memory: memory.search(ROWS, 5_000),
    lambda memory: memory.gather([99]),
    lambda memory: memory.gather([0], columns=["none"]),
    lambda memory: memory.lookup("none", [1], 1),
    lambda memory: memory.refresh(),
]


def test_errors_are_those_of_the_synchronous_client(store: Store) -> None:
    """The same class and the same text, over calls and over sessions."""
    store.memory("m").append(ROWS, request_id=RequestId("me", 1))

    def run(runner: asyncio.Runner, bad: Callable[[Any], Any], memory: Any) -> Any:
        return runner.run(bad(memory))

    def error_of(call: Callable[[], Any]) -> tuple[type, str]:
        with pytest.raises(MemstoreError) as raised:
            call()
        return type(raised.value), str(raised.value)

    with (
        Server(store, limits=Limits(message_bytes=30_000)) as server,
        memstore.connect(server.address, message_bytes=30_000) as client,
        client.session() as session,
        asyncio.Runner() as runner,
    ):
        other = memstore.connect_async(server.address, message_bytes=30_000)
        streamed = other.session()
        pairs = [(client.memory("m"), runner.run(other.memory("m")))]
        pairs += [(session.memory("m"), runner.run(streamed.memory("m")))]
        for bad in BAD:
            for memory, awaited in pairs:
                told = error_of(partial(bad, memory))
                assert error_of(partial(run, runner, bad, awaited)) == told
        runner.run(streamed.close())
        runner.run(other.close())
    assert store.memory("m").describe().rows == WIDTH


def test_the_example_of_the_docs(store: Store, server: Server) -> None:
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    code = text.split("## asyncio")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("127.0.0.1:7437", server.address), names)
    store.create("facts", CONFIG).append(ROWS)
    assert asyncio.run(names["ask"](ROWS)).tolist() == [0, 1, 2, 3]


def test_tls_and_tokens(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="without TLS"):
        memstore.connect_async("192.0.2.7:80", token="me.secret")
    files, path = make(tmp_path), tmp_path / "tokens.json"
    token = add_token(path, "reader", "read")
    tls, mine = ServerTls(files.certificate, files.key), ClientTls(files.authority)

    async def work(address: str) -> None:
        async with memstore.connect_async(address, tls=mine, token=token) as client:
            assert token not in repr(client)
            assert await client.list() == ["m"]
            async with client.session() as session:
                memory = await session.memory("m")
                assert (await memory.search(ROWS, 1)).counts_Q.tolist() == [0] * WIDTH
        async with memstore.connect_async(address, tls=mine) as client:
            with pytest.raises(Unauthenticated):
                await client.list()
            session = client.session()
            with pytest.raises(Unauthenticated):
                await session.memory("m")
            with pytest.raises(StoreClosed):
                await session.memory("m")

    with Server(store, tls=tls, tokens=Tokens(path)) as server:
        asyncio.run(work(server.address))


def test_deadlines_and_overload(store: Store, server: Server) -> None:
    held: Any = store.memory("m")

    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            memory = await client.memory("m")
            with held._mutation, pytest.raises(DeadlineExceeded):
                await memory.append(ROWS, deadline_s=0.2)
            with pytest.raises(InvalidArgument, match="deadline_s"):
                await memory.append(ROWS, deadline_s=0)

    async def refused(address: str) -> None:
        async with memstore.connect_async(address, deadline_s=0.5) as client:
            with pytest.raises(Overloaded) as refused:
                await client.memory("m")
            assert refused.value.retry_after_s > 0

    asyncio.run(work())
    with Server(store, limits=Limits(calls=0)) as full:
        asyncio.run(refused(full.address))


def test_a_server_that_is_not_there(server: Server) -> None:
    async def work() -> None:
        client = memstore.connect_async(server.address, deadline_s=0.5)
        memory = await client.memory("m")
        server.close()
        with pytest.raises((Unreachable, DeadlineExceeded)):
            await memory.describe()
        await client.close()
        await client.close()
        for late in (memory.describe(), client.list(), client.session().memory("m")):
            with pytest.raises(StoreClosed):
                await late

    asyncio.run(work())


def test_closing_ends_the_calls_under_way(server: Server) -> None:
    async def work() -> None:
        client = memstore.connect_async(server.address)
        memory, session = await client.memory("m"), client.session()
        streamed = await session.memory("m")
        with no_reads(server):
            reads = [asyncio.ensure_future(m.search(ROWS, 1)) for m in (memory, streamed)]
            await asyncio.sleep(0.1)
            await client.close()
            for read in reads:
                with pytest.raises(StoreClosed):
                    await read
            with pytest.raises(StoreClosed):
                await streamed.search(ROWS, 1)
            await session.close()

    asyncio.run(work())


def test_a_client_belongs_to_the_loop_of_its_first_call(server: Server) -> None:
    client = memstore.connect_async(server.address)  # where no loop runs
    session = client.session()

    async def first() -> Any:
        await client.list()
        return await session.memory("m")

    with asyncio.Runner() as one, asyncio.Runner() as other:
        memory: Any = one.run(first())
        with pytest.raises(InvalidArgument, match="no event loop"):
            memory.search_async(ROWS, 1)
        for work in (client.list, client.close, session.close, lambda: session.memory("m")):
            with pytest.raises(InvalidArgument, match="another event loop"):
                other.run(work())
        assert one.run(client.list()) == ["m"]
        one.run(session.close())
        one.run(client.close())

    async def again() -> None:
        with pytest.raises(StoreClosed):
            async with client:
                pass

    asyncio.run(again())


def test_a_read_that_is_cancelled_is_ended(server: Server) -> None:
    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            memory = await client.memory("m")
            await memory.append(ROWS)
            with no_reads(server):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(memory.describe(), 0.2)
                await until_idle(server)
            assert (await memory.gather([0])).slots_B.tolist() == [0]

    asyncio.run(work())


def test_a_mutation_that_is_cancelled_is_done_once(store: Store, server: Server) -> None:
    held: Any = store.memory("m")

    async def work() -> None:
        async with memstore.connect_async(server.address) as client, client.session() as session:
            for number, memory in enumerate(
                [await client.memory("m"), await session.memory("m")], 1
            ):
                asked = RequestId("me", number)
                with held._mutation, pytest.raises(TimeoutError):
                    await asyncio.wait_for(memory.append(ROWS, request_id=asked), 0.2)
                slots = await memory.append(ROWS, request_id=asked)
                assert (await memory.append(ROWS, request_id=asked)).tolist() == slots.tolist()
                assert (await memory.describe()).rows == number * WIDTH

    asyncio.run(work())


@pytest.mark.parametrize("over_session", [False, True])
def test_no_shard_is_left_half_changed(store: Store, server: Server, over_session: bool) -> None:
    """Cancelled at any time, an update has moved all rows of a shard or none."""
    rng = np.random.default_rng(0)
    store.create("two", MemoryConfig(dim=WIDTH, index="exact", optimizer="sgd", shards=2))
    store.memory("two").append(np.zeros((6, WIDTH)))
    calls = 150

    async def work() -> int:
        done = 0
        async with memstore.connect_async(server.address) as client:
            session = client.session()
            memory = await (session if over_session else client).memory("two")
            for _ in range(calls):
                move = memory.update(range(6), np.full((6, WIDTH), -1.0), lr=1.0)
                task = asyncio.ensure_future(move)
                try:
                    await asyncio.wait_for(task, rng.uniform(0, 0.006))
                    done += 1
                except TimeoutError:
                    pass
            await session.close()
        await until_idle(server)
        return done

    done = asyncio.run(work())
    keys = store.memory("two").gather(np.arange(6)).keys_BD
    assert keys is not None
    for shard in (keys[::2], keys[1::2]):
        assert len(np.unique(shard)) == 1
        assert done <= shard[0, 0] <= calls
