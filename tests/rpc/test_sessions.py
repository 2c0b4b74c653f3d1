"""Sessions: pipelined calls, their order, and a stream that breaks under them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, Store
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ServerFailed,
    StoreClosed,
    UnknownMemory,
    UnknownSlot,
)
from memstore.rpc import codec
from memstore.rpc.client import Client
from memstore.rpc.client_session import Session
from memstore.rpc.limits import Limits
from memstore.rpc.server import Server
from memstore.rpc.target import Target
from memstore.rpc.v1 import memory_pb2 as pb
from tests.rpc.conftest import CONFIG, WIDTH

ROWS = np.eye(WIDTH, dtype=np.float32)


def test_calls_take_effect_in_order_though_none_waits(client: Client) -> None:
    with client.session() as session:
        memory = session.memory("m")
        memory.append(ROWS)
        found = []
        for number in range(1, 101):
            message = pb.WriteRequest(memory="m")
            message.CopyFrom(write(number))
            written = session.begin("write", message)
            found.append((number, memory.search_async(ROWS[:1], 1), written))
        for number, search, written in found:
            assert written.result().applied == 1
            assert search.result().scores_QK[0, 0] == number


def write(number: int) -> pb.WriteRequest:
    keys = np.zeros((1, WIDTH), np.float32)
    keys[0, 0] = number
    slots = codec.to_tensor(np.zeros(1, np.int64))
    asked = pb.RequestId(client="me", number=number)
    return pb.WriteRequest(memory="m", slots=slots, keys=codec.to_tensor(keys), request_id=asked)


def test_a_call_that_is_refused_ends_nothing(client: Client) -> None:
    with client.session() as session:
        memory = session.memory("m")
        memory.append(ROWS)
        with pytest.raises(UnknownSlot):
            memory.gather([99])
        with pytest.raises(UnknownMemory):
            session.memory("none")
        assert memory.search(ROWS, 1).slots_QK[:, 0].tolist() == [0, 1, 2, 3]
    session.close()
    with pytest.raises(StoreClosed):
        memory.gather([0])


def test_more_calls_than_a_stream_may_have_under_way(store: Store) -> None:
    with (
        Server(store, limits=Limits(session_calls=2)) as server,
        memstore.connect(server.address) as client,
        client.session() as session,
    ):
        memory = session.memory("m")
        memory.append(ROWS)
        found = [memory.search_async(ROWS, 2) for _ in range(200)]
        assert all(one.result().slots_QK[0, 0] == 0 for one in found)


def test_a_server_that_comes_back_gets_what_it_did_not_answer(tmp_path: Path) -> None:
    """Updates are neither lost nor done twice, though the server goes away in the middle."""
    path, server = tmp_path / "store", None
    store = memstore.open(path)
    store.create("m", CONFIG).append(np.zeros((1, WIDTH)))
    server = Server(store).start()
    address = server.address
    with memstore.connect(address, deadline_s=60) as client, client.session() as session:
        memory = session.memory("m")
        done = threading.Event()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(300):
                    memory.update([0], np.full((1, WIDTH), -1.0), lr=1.0)
            except BaseException as error:  # noqa: BLE001 - the test looks
                errors.append(error)
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(3):
            done.wait(0.1)
            server.close(0)
            server = Server(store, address).start()
        thread.join()
        assert not errors
        assert memory.gather([0]).keys_BD.tolist() == [[300.0] * WIDTH]  # type: ignore[union-attr]
    server.close()
    store.close()


def test_a_server_that_is_gone_for_good(store: Store) -> None:
    server = Server(store).start()
    with memstore.connect(server.address, deadline_s=1) as client:
        session = client.session()
        memory = session.memory("m")
        server.close(0)
        late = memory.search_async(ROWS, 1)
        with pytest.raises(DeadlineExceeded):
            memory.search(ROWS, 1)
        with pytest.raises(DeadlineExceeded):
            late.result()
        session.close()
        with pytest.raises(StoreClosed):
            memory.search(ROWS, 1)


def test_a_server_that_does_not_answer(store: Store, client: Client) -> None:
    held: Any = store.memory("m")
    with client.session() as session, held._mutation:
        memory = session.memory("m")
        keys = codec.to_tensor(ROWS)
        stuck = session.begin("append", pb.AppendRequest(memory="m", keys=keys), 0.5)
        assert not stuck.done()
        with pytest.raises(DeadlineExceeded):
            stuck.result(10)
        assert memory.search(ROWS, 1).counts_Q.tolist() == [0] * WIDTH


def test_a_search_that_is_cancelled_is_dropped(store: Store, client: Client) -> None:
    held: Any = store.memory("m")
    keys = codec.to_tensor(ROWS)
    with client.session() as session:
        memory, message = session.memory("m"), pb.AppendRequest(memory="m", keys=keys)
        with held._mutation:
            stuck = session.begin("append", message)
            ahead = [memory.search_async(ROWS, 1) for _ in range(3)]
            assert all(found.cancel() for found in ahead[:2])
            assert len([*session._unanswered]) == 2
        assert ahead[2].result(30).counts_Q.tolist() == [1] * WIDTH
        assert stuck.done()
        assert not session._unanswered
        with held._mutation:
            late = session.begin("append", message)
            threading.Timer(0.2, late.cancel).start()
            session.close()  # waits for nothing else


def test_answers_that_are_unknown_end_no_thread() -> None:
    """A newer server's reply, one that is no reply, and streams that end again and again."""

    class Around:
        def send(self, request: Any) -> Any: ...
        def next_request(self) -> Any: ...

    def opened(calls: Any) -> Any:
        for call in calls:
            opens.append(call.number)
            if call.number == 1:
                yield pb.Reply(number=1)
            elif call.number == 2 and len(opens) < 4:
                return  # ends well, and has answered nothing
            else:
                yield pb.Reply(number=call.number, describe=pb.DescribeReply(next_slot=7))

    opens: list[int] = []
    session = Session(opened, Around(), Target("nowhere:1", message_bytes=1_000))
    with pytest.raises(ServerFailed, match="unknown here"):
        session.begin("describe", pb.DescribeRequest()).result(10)
    assert session.begin("describe", pb.DescribeRequest()).result(10).next_slot == 7
    assert opens == [1, 2, 2, 2]
    with pytest.raises(InvalidArgument, match="too long"):
        session.begin("describe", pb.DescribeRequest(memory="x" * 2_000))
    session.close()


def test_a_session_remembers_no_memory(store: Store) -> None:
    from memstore.rpc.server_session import Asked
    from memstore.rpc.server_session import Session as Served

    kept: list[Any] = []

    async def do(*_: Any) -> Any:
        raise UnknownMemory("none")

    async def calls() -> Any:
        for number in range(50):
            describe = pb.DescribeRequest(memory=f"m{number}")
            yield Asked(pb.Call(number=number, describe=describe))

    async def work() -> None:
        session = Served(do, 4)
        kept.extend([reply.number async for reply in session.replies(calls())])
        await asyncio.sleep(0)
        assert session._before == {}

    asyncio.run(work())
    assert kept == list(range(50))


def test_searches_ahead_have_the_answers_of_others(client: Client) -> None:
    rng = np.random.default_rng(0)
    client.create("big", MemoryConfig(dim=WIDTH, index="exact"))
    with client.session() as session:
        memory: Any = session.memory("big")
        memory.append(rng.normal(size=(500, WIDTH)))
        queries = rng.normal(size=(20, 3, WIDTH))
        ahead = [memory.search_async(some, 4) for some in queries]
        for some, later in zip(queries, ahead, strict=True):
            now = client.memory("big").search(some, 4)
            for name, array in vars(later.result()).items():
                np.testing.assert_array_equal(array, getattr(now, name), err_msg=name)


def test_a_server_is_started_once_and_closed_at_any_time(store: Store) -> None:
    Server(store).close()  # never started
    server = Server(store).start()
    with pytest.raises(StoreClosed):
        server.start()
    server.close()
    server.close()
    with pytest.raises(StoreClosed):
        server.start()
    taken = Server(store).start()
    with pytest.raises(InvalidArgument, match="cannot listen"):
        Server(store, taken.address).start()
    taken.close()
