"""Sessions of the asyncio client: their order, streams that break, and calls that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import Store
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ServerFailed,
    StoreClosed,
    UnknownMemory,
    UnknownSlot,
)
from memstore.rpc.async_session import AsyncSession
from memstore.rpc.limits import Limits
from memstore.rpc.server import Server
from memstore.rpc.target import Target
from memstore.rpc.v1 import memory_pb2 as pb
from tests.rpc.conftest import CONFIG, WIDTH

ROWS = np.eye(WIDTH, dtype=np.float32)


def test_calls_take_effect_in_order_though_none_waits(store: Store) -> None:
    """Also where more are made than a stream may have under way."""

    async def work(address: str) -> None:
        async with memstore.connect_async(address) as client, client.session() as session:
            memory = await session.memory("m")
            await memory.append(ROWS)
            calls = []
            for number in range(1, 101):
                written = asyncio.create_task(memory.write([0], number * ROWS[:1]))
                calls.append((written, asyncio.create_task(memory.search(ROWS[:1], 1))))
            for number, (written, search) in enumerate(calls, 1):
                assert (await written).applied == 1
                assert (await search).scores_QK[0, 0] == number
            ahead = [memory.search_async(ROWS, 2) for _ in range(50)]
            assert [(await found).counts_Q.sum() for found in ahead] == [2 * WIDTH] * 50

    with Server(store, limits=Limits(session_calls=2)) as server:
        asyncio.run(work(server.address))


def test_a_call_that_is_refused_ends_nothing(server: Server) -> None:
    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            async with client.session() as session:
                memory = await session.memory("m")
                await memory.append(ROWS)
                with pytest.raises(UnknownSlot):
                    await memory.gather([99])
                with pytest.raises(UnknownMemory):
                    await session.memory("none")
                await memory.reindex()
                found = await memory.search(ROWS, 1)
                assert found.slots_QK[:, 0].tolist() == [0, 1, 2, 3]
            await session.close()
            with pytest.raises(StoreClosed):
                await memory.gather([0])

    asyncio.run(work())


def test_a_server_that_comes_back_gets_what_it_did_not_answer(tmp_path: Path) -> None:
    """Updates are neither lost nor done twice, though the server goes away in the middle."""
    with memstore.open(tmp_path / "store") as store:
        store.create("m", CONFIG).append(np.zeros((1, WIDTH)))
        server = Server(store).start()

        def restart() -> None:
            nonlocal server
            server.close(0)
            server = Server(store, server.address).start()

        async def work(address: str) -> None:
            client = memstore.connect_async(address, deadline_s=60)
            async with client, client.session() as session:
                memory = await session.memory("m")
                step = np.full((1, WIDTH), -1.0)
                for _ in range(4):
                    moves = [
                        asyncio.create_task(memory.update([0], step, lr=1.0)) for _ in range(100)
                    ]
                    await moves[10]
                    await asyncio.to_thread(restart)
                    assert all(done.applied == 1 for done in await asyncio.gather(*moves))

        asyncio.run(work(server.address))
        server.close()
        keys = store.memory("m").gather([0]).keys_BD
        assert keys is not None
        assert keys.tolist() == [[400.0] * WIDTH]


def test_a_server_that_is_gone_for_good(store: Store) -> None:
    server = Server(store).start()

    async def work() -> None:
        async with memstore.connect_async(server.address, deadline_s=1) as client:
            session = client.session()
            memory = await session.memory("m")
            await asyncio.to_thread(server.close, 0)
            late = memory.search_async(ROWS, 1)
            with pytest.raises(DeadlineExceeded):
                await memory.search(ROWS, 1)
            with pytest.raises(DeadlineExceeded):
                await late
            await session.close()
            with pytest.raises(StoreClosed):
                await memory.search(ROWS, 1)

    asyncio.run(work())


def test_a_server_that_does_not_answer(store: Store, server: Server) -> None:
    held: Any = store.memory("m")

    async def work() -> None:
        async with memstore.connect_async(server.address) as client, client.session() as session:
            memory = await session.memory("m")
            with held._mutation:
                with pytest.raises(DeadlineExceeded):
                    await memory.append(ROWS, deadline_s=0.5)
                assert (await memory.search(ROWS, 1)).counts_Q.tolist() == [0] * WIDTH

    asyncio.run(work())


def opening(replies: Callable[[Any], AsyncIterator[Any]]) -> Any:
    """Opens streams of these replies."""

    async def opened(calls: Any) -> Any:
        return replies(calls)

    return opened


class Around:
    async def send(self, request: Any) -> Any: ...
    def next_request(self) -> Any: ...


def test_answers_that_are_unknown_end_no_session() -> None:
    """A newer server's reply, one that is no reply, and streams that end again and again."""
    opens: list[int] = []

    async def opened(calls: Any) -> Any:
        async for call in calls:
            opens.append(call.number)
            if call.number == 1:
                yield pb.Reply(number=1)
            elif call.number == 2 and len(opens) < 4:
                return  # ends well, and has answered nothing
            elif call.number == 3:
                raise ValueError("no reply")
            else:
                yield pb.Reply(number=call.number, describe=pb.DescribeReply(next_slot=7))

    async def work() -> None:
        async with AsyncSession(
            opening(opened), Around(), Target("nowhere:1", message_bytes=1_000)
        ) as session:
            with pytest.raises(ServerFailed, match="unknown here"):
                await session.begin("describe", pb.DescribeRequest())
            reply = await session.begin("describe", pb.DescribeRequest())
            assert reply.next_slot == 7
            assert opens == [1, 2, 2, 2]
            with pytest.raises(InvalidArgument, match="too long"):
                session.begin("describe", pb.DescribeRequest(memory="x" * 2_000))
            with pytest.raises(ServerFailed, match="could not be read"):
                await session.begin("describe", pb.DescribeRequest())
            with pytest.raises(StoreClosed):
                session.begin("describe", pb.DescribeRequest())

    asyncio.run(work())


def test_what_is_cancelled_before_it_is_sent_is_not_sent() -> None:
    sent: list[int] = []

    async def opened(calls: Any) -> Any:
        async for call in calls:
            sent.append(call.number)
            yield pb.Reply(number=call.number, describe=pb.DescribeReply())

    async def work() -> None:
        async with AsyncSession(opening(opened), Around(), Target("nowhere:1")) as session:
            answers = [session.begin("describe", pb.DescribeRequest()) for _ in range(3)]
            answers[1].cancel()
            await answers[2]

    asyncio.run(work())
    assert sent == [1, 3]


def test_closing_waits_for_nothing_that_was_cancelled(store: Store, server: Server) -> None:
    held: Any = store.memory("m")

    async def work() -> None:
        async with memstore.connect_async(server.address) as client:
            session = client.session()
            memory = await session.memory("m")
            with held._mutation:
                stuck = asyncio.create_task(memory.append(ROWS))
                await asyncio.sleep(0.1)
                stuck.cancel()
                await session.close()

    asyncio.run(work())


def test_an_event_loop_that_ends_under_a_session(store: Store, server: Server) -> None:
    held: Any = store.memory("m")
    told: list[BaseException | None] = []

    async def work() -> None:
        client = memstore.connect_async(server.address)
        memory = await client.session().memory("m")
        request = memory.requests.append(ROWS)
        session: Any = memory._session
        answer = session.begin(request.verb, request.message)
        answer.add_done_callback(lambda one: told.append(one.exception()))
        await asyncio.sleep(0.1)

    with held._mutation:
        asyncio.run(work())
    assert isinstance(told[0], StoreClosed)
