"""Limits of a server and quotas of its callers: what is beyond them is refused, and not done."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import prometheus_client
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import memstore
from memstore import MemoryConfig, SearchOptions, Store, field
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemoryInUse,
    MemstoreError,
    NotAllowed,
    Overloaded,
    Unauthenticated,
)
from memstore.filters import MAX_SIZE
from memstore.metrics import registry
from memstore.rpc import codec, failures, limits, sizes
from memstore.rpc.client import Client
from memstore.rpc.limits import Gate, Limits
from memstore.rpc.quotas import Bucket, Quota
from memstore.rpc.receiving import Places, received
from memstore.rpc.security import Caller, Tokens, add_token
from memstore.rpc.server import Server
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import MEMORY_SERVICE, path_of
from memstore.rpc.wire import MOST_PARTS, SMALL_BYTES, parsed
from tests.rpc.conftest import WIDTH

ROWS = np.eye(WIDTH, dtype=np.float32)


@contextmanager
def served(
    store: Store, tmp_path: Path, limits: Limits = Limits(), **quota: float
) -> Iterator[tuple[Server, Client]]:
    """A server that knows one caller, who has this quota, and waits for nothing."""
    path = tmp_path / "tokens.json"
    token = add_token(path, "me", "write", quota=Quota(**quota))
    with (
        Server(store, tokens=Tokens(path), limits=limits) as server,
        memstore.connect(server.address, token=token, deadline_s=60) as client,
    ):
        yield server, client


def once(client: Client, verb: str, message: Any, deadline_s: float = 30) -> Any:
    """A call that is sent once, whatever comes back."""
    answer: Future[Any] = Future()

    def work() -> None:
        with grpc.insecure_channel(client._target.address) as channel:
            stub = channel.unary_unary(path_of(MEMORY_SERVICE, verb), None, None)
            try:
                data = message.SerializeToString()
                answer.set_result(stub(data, timeout=deadline_s, metadata=client._target.metadata))
            except grpc.RpcError as error:
                answer.set_exception(failures.from_call(error, "it"))

    threading.Thread(target=work, daemon=True).start()
    return answer


def refusals(times: int, call: Callable[[], Any]) -> list[Overloaded]:
    """Those among so many calls in a row."""
    found = []
    for _ in range(times):
        try:
            call()
        except Overloaded as refused:
            found.append(refused)
    return found


def append(rows: int = 1) -> pb.AppendRequest:
    return pb.AppendRequest(memory="m", keys=codec.to_tensor(np.ones((rows, WIDTH), np.float32)))


def wait_for(seen: Callable[[], bool]) -> None:
    while not seen():
        threading.Event().wait(0.01)


def test_a_bucket_lends_and_is_paid_back() -> None:
    bucket = Bucket(10.0, now=0.0)
    assert bucket.wait_s(0.0) == 0
    bucket.draw(35.0)  # a second's worth is there; 25 are lent
    assert bucket.wait_s(0.0) == pytest.approx(2.6, abs=1e-3)
    assert bucket.wait_s(2.5) > 0
    assert bucket.wait_s(2.61) == 0
    for _ in range(10):
        bucket.draw(1.0)
    assert bucket.wait_s(2.61) == pytest.approx(0.99, abs=0.02)
    assert bucket.wait_s(1_000.0) == 0
    bucket.draw(10.0)  # never more than a second's worth is kept
    assert bucket.wait_s(1_000.0) > 0


@pytest.mark.parametrize("unary", [True, False])
def test_a_quota_of_requests(store: Store, tmp_path: Path, unary: bool) -> None:
    with served(store, tmp_path, requests_per_s=2) as (server, client):
        describe = pb.DescribeRequest(memory="m")
        if unary:
            refused = refusals(10, lambda: once(client, "describe", describe).result(30))
        else:
            with client.session() as session:
                refused = refusals(10, lambda: session.begin("describe", describe).result(30))
        assert refused
        assert all(0 < one.retry_after_s <= 1 for one in refused)
        assert all("quota of requests" in str(one) for one in refused)
        assert server.gate.refused["me", "requests_per_s"] == len(refused)
        scraped = prometheus_client.generate_latest(registry(store, server.gate.refused)).decode()
        told = 'memstore_refused_total{caller="me",limit="requests_per_s"} '
        assert f"{told}{float(len(refused))}" in scraped


def test_a_quota_of_bytes_and_of_rows(store: Store, tmp_path: Path) -> None:
    store.create("big", MemoryConfig(dim=2, index="exact")).append(np.zeros((5_000, 2)))
    slots = codec.to_tensor(np.arange(5_000))
    gather = pb.GatherRequest(memory="big", slots=slots)
    quotas: list[dict[str, Any]] = [{"bytes_per_s": 100.0}, {"rows_per_s": 500.0}]
    for quota in quotas:
        with served(store, tmp_path, **quota) as (server, client):
            once(client, "gather", gather).result(30)  # is larger than a second, and is lent
            with pytest.raises(Overloaded, match="quota of") as refused:
                once(client, "gather", gather).result(30)
            # About so many seconds' worth were taken, and one was there.
            assert refused.value.retry_after_s > 5
            assert [*server.gate.refused] == [("me", *quota)]


def test_a_quota_is_read_again_with_the_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with served(store, tmp_path, rows_per_s=0.001) as (server, client):
        once(client, "append", append(1_000)).result(30)
        with pytest.raises(Overloaded):
            once(client, "append", append()).result(30)
        token = add_token(path, "me", "write")
        with memstore.connect(server.address, token=token) as again:
            once(again, "append", append()).result(30)
    assert store.memory("m").describe().rows == 1_001


def test_a_quota_is_that_of_its_token_alone(store: Store, tmp_path: Path) -> None:
    other = add_token(tmp_path / "tokens.json", "other", "read")
    with served(store, tmp_path, requests_per_s=0.001) as (server, client):
        describe = pb.DescribeRequest(memory="m")
        assert len(refusals(3, lambda: once(client, "describe", describe).result(30))) == 2
        with memstore.connect(server.address, token=other) as another:
            for _ in range(3):
                once(another, "describe", describe).result(30)
    for bad in (0, -1, float("nan"), float("inf"), "5", True):
        with pytest.raises(InvalidArgument, match="rows_per_s"):
            Quota(rows_per_s=bad)  # type: ignore[arg-type]


def test_calls_of_one_caller_and_of_all(store: Store, tmp_path: Path) -> None:
    limits = Limits(calls=4, caller_calls=2)
    other = add_token(tmp_path / "tokens.json", "other", "write")
    embedded: Any = store.memory("m")
    with served(store, tmp_path, limits) as (server, client):
        with memstore.connect(server.address, token=other) as another:
            with embedded._mutation:
                held = [once(client, "append", append()) for _ in range(2)]
                wait_for(lambda: server.gate.all.calls == 2)
                with pytest.raises(Overloaded, match="you have too many calls"):
                    once(client, "describe", pb.DescribeRequest(memory="m")).result(30)
                held += [once(another, "append", append()) for _ in range(2)]
                wait_for(lambda: server.gate.all.calls == 4)
                with pytest.raises(Overloaded, match="the server has too many calls"):
                    once(another, "describe", pb.DescribeRequest(memory="m")).result(30)
            for answer in held:
                answer.result(30)
            once(client, "describe", pb.DescribeRequest(memory="m")).result(30)
        wait_for(lambda: server.gate.all.calls == 0)
        assert server.gate.all.bytes == 0


def test_bytes_of_calls_that_wait_in_a_session(store: Store, tmp_path: Path) -> None:
    limits = Limits(message_bytes=100_000, caller_bytes=250_000, held_bytes=500_000)
    embedded: Any = store.memory("m")
    with served(store, tmp_path, limits) as (server, client):
        with client.session() as session:
            with embedded._mutation:
                sent = [session.begin("append", append(5_000)) for _ in range(8)]  # 80 KB each
                wait_for(lambda: server.gate.refused["me", "caller_bytes"] == 5)
                assert 240_000 < server.gate.all.bytes <= 250_000
            done = [one for one in sent if one.exception(30) is None]
            refused = [one.exception() for one in sent if one.exception() is not None]
        assert len(done) == 3
        assert all(isinstance(one, Overloaded) and one.retry_after_s > 0 for one in refused)
        wait_for(lambda: server.gate.all.calls == server.gate.all.streams == 0)
        assert server.gate.all.bytes == 0
    assert store.memory("m").describe().rows == 3 * 5_000


def test_streams_of_one_caller(store: Store, tmp_path: Path) -> None:
    limits = Limits(streams=6, caller_streams=2)
    with served(store, tmp_path, limits) as (server, client):
        sessions = [client.session() for _ in range(2)]
        for session in sessions:
            session.memory("m")
        assert server.gate.all.streams == 2
        with grpc.insecure_channel(server.address) as channel:
            stub = channel.stream_stream(path_of(MEMORY_SERVICE, "session"), None, None)
            with pytest.raises(grpc.RpcError) as refused:
                next(stub(iter([]), metadata=client._target.metadata))
        assert isinstance(failures.from_call(refused.value, "it"), Overloaded)
        for session in sessions:
            session.close()
        wait_for(lambda: server.gate.all.streams == 0)
        client.session().memory("m")


def test_a_connection_where_nobody_answers_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ANSWER_S", 0.2)
    with (
        memstore.open(tmp_path / "empty") as empty,
        Server(empty, limits=Limits(keepalive_s=1)) as server,
        socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as mute,
    ):
        mute.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        mute.settimeout(30)
        while mute.recv(1 << 16):
            pass


def test_watches_are_streams_of_nobody(store: Store, tmp_path: Path) -> None:
    with served(store, tmp_path, Limits(caller_streams=3)) as (server, client):
        with grpc.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
            for watch in watches:
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as refused:
                next(health.Watch(health_pb2.HealthCheckRequest()))
            assert isinstance(failures.from_call(refused.value, "it"), Overloaded)
            assert health.Check(health_pb2.HealthCheckRequest()).status == 1
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                health.Check(health_pb2.HealthCheckRequest(service="none"))
            client.session().memory("m")  # others have their own
        wait_for(lambda: server.gate.all.streams <= 1)


def test_reflection_is_for_those_with_a_token(store: Store, tmp_path: Path) -> None:
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with (
        served(store, tmp_path) as (server, client),
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.ServerReflectionInfo(iter(asked)))
        assert isinstance(failures.from_call(refused.value, "it"), Unauthenticated)
        [reply] = stub.ServerReflectionInfo(iter(asked), metadata=client._target.metadata)
        assert MEMORY_SERVICE in {one.name for one in reply.list_services_response.service}


@pytest.mark.parametrize("unary", [True, False])
def test_what_waits_for_a_thread_is_not_begun_too_late(
    store: Store, tmp_path: Path, unary: bool
) -> None:
    embedded: Any = store.memory("m")
    with served(store, tmp_path, Limits(writers=1)) as (server, client):  # noqa: SIM117
        with client.session() as session:
            with embedded._mutation:
                first = once(client, "append", append())
                wait_for(lambda: len(server._pools.writers._given) == 1)
                if unary:
                    late = once(client, "append", append(100), 2.0)
                else:
                    late = session.begin("append", append(100), 2.0)
                wait_for(lambda: late.done() or len(server._pools.writers._given) == 2)
                over_there = time.monotonic() + 2.0  # the server counts from when it gets a call
                with pytest.raises(DeadlineExceeded):
                    late.result(30)
                wait_for(lambda: time.monotonic() > over_there)
            first.result(30)
            wait_for(lambda: server.gate.all.calls == 0)
    assert embedded.describe().rows == 1


def test_what_is_cancelled_is_dropped(store: Store, tmp_path: Path) -> None:
    embedded: Any = store.memory("m")
    with served(store, tmp_path, Limits(writers=1)) as (server, client):
        session = client.session()
        memory = session.memory("m")
        with embedded._mutation:
            first = once(client, "append", append())
            wait_for(lambda: len(server._pools.writers._given) == 1)
            for _ in range(5):
                session.begin("append", append(100))
            wait_for(lambda: server.gate.all.calls == 6)
            session._stream.cancel()
            session._give_up(memstore.MemstoreError("gone"))
            wait_for(lambda: server.gate.all.calls == 1)
        first.result(30)
        assert server.gate.all.bytes <= 100
        assert memory.name == "m"
    assert embedded.describe().rows == 1


def test_a_server_ends_though_a_memory_is_in_the_middle_of_something(store: Store) -> None:
    embedded: Any = store.memory("m")
    server = Server(store).start()
    with memstore.connect(server.address) as client, embedded._mutation:
        stuck = once(client, "append", append())
        wait_for(lambda: server.gate.all.calls == 1)
        server.close(0.2)
        with pytest.raises(MemstoreError):
            stuck.result(30)
    wait_for(lambda: embedded.describe().rows == 1)  # what was begun goes on behind


def test_replies_that_would_be_too_long_are_not_even_begun(store: Store) -> None:
    memory = store.create("wide", MemoryConfig(dim=1_000, index="exact"))
    memory.append(np.zeros((1, 1_000)))
    gather = pb.GatherRequest(memory="wide", slots=codec.to_tensor(np.zeros(1_000, np.int64)))
    assert sizes.replied("gather", gather, memory) == 1_000 * (8 + 4_000)
    queries = pb.Tensor(dtype="float32", shape=[500, 1_000], data=bytes(4 * 500 * 1_000))
    search = pb.SearchRequest(memory="wide", queries=queries, k=2_000)
    assert sizes.replied("search", search, memory) == 500 * 2_000 * 13
    widened = pb.SearchRequest(memory="m", queries=queries, k=2_000)
    widened.options.union = True
    memory = store.memory("m")
    memory.append(np.zeros((100_000, WIDTH)))
    with pytest.raises(InvalidArgument, match="too many candidates"):
        sizes.check("search", widened, memory, 64 << 20)
    lies = pb.Tensor(dtype="float32", shape=[2**62, 0])
    for count in (-(2**63), -1, 0, 2**62):
        asked = pb.SearchRequest(memory="m", queries=lies, k=count)
        assert sizes.replied("search", asked, memory) == 0
        assert sizes.replied("allocate", pb.AllocateRequest(n=count), memory) <= 0
    with (
        Server(store, limits=Limits(message_bytes=1 << 20)) as server,
        memstore.connect(server.address) as client,
        pytest.raises(InvalidArgument, match="would be too long"),
    ):
        once(client, "gather", gather).result(30)


@pytest.mark.parametrize(
    "made",
    [
        lambda: pb.SearchRequest(options={"filter": {"all": {"filters": [{}] * (MOST_PARTS + 1)}}}),
        lambda: pb.LookupRequest(texts={"values": [""] * (MOST_PARTS + 1)}),
        lambda: pb.LookupRequest(integers={"values": [1] * (5 << 20)}),
        lambda: pb.Call(append={"keys": {"shape": [1] * (5 << 20)}}),
    ],
)
def test_messages_of_too_many_parts(made: Callable[[], Any]) -> None:
    message = made()
    data = message.SerializeToString()
    with pytest.raises(InvalidArgument, match="too many parts"):
        parsed(type(message), data)
    # Whatever is laid before them.
    with pytest.raises(InvalidArgument):
        parsed(type(message), b"\x0b" + data)
    with pytest.raises(InvalidArgument):
        parsed(type(message), b"\xfa\xff\x7f\x00" + data)


def test_the_largest_filter_is_taken(store: Store) -> None:
    among = field("number").is_in(range(MAX_SIZE - 1))
    message = pb.SearchRequest(memory="m", options=codec.to_options(SearchOptions(filter=among)))
    came = parsed(pb.SearchRequest, message.SerializeToString())
    assert codec.options_of(came).filter == among


def test_messages_of_few_parts_may_be_long() -> None:
    keys = codec.to_tensor(np.zeros((1_000_000, WIDTH), np.float32))
    call = pb.Call(number=7, append=pb.AppendRequest(memory="m", keys=keys))
    came = parsed(pb.Call, call.SerializeToString())
    assert (came.number, came.append.memory) == (7, "m")
    assert codec.to_array("keys", came.append.keys).shape == (1_000_000, WIDTH)
    values = [*range(500_000)]
    lookup = pb.LookupRequest(integers={"values": values})
    assert parsed(pb.LookupRequest, lookup.SerializeToString()) == lookup
    for cut in (10, SMALL_BYTES + 1):
        with pytest.raises(InvalidArgument, match="malformed"):
            parsed(pb.Call, call.SerializeToString()[:cut])


def test_a_memory_in_use_tells_nothing_of_others(store: Store, tmp_path: Path) -> None:
    store.create("secret", MemoryConfig(dim=2, index="exact"))
    token = add_token(tmp_path / "tokens.json", "some", "write", ["m"])
    with (
        served(store, tmp_path) as (server, _),
        memstore.connect(server.address, token=token) as client,
        store.loading("m", "secret", by=object()),
    ):
        for way in (client, client.session()):
            with pytest.raises(MemoryInUse, match="is in use") as refused:
                way.memory("m").append(ROWS)
            assert "secret" not in str(refused.value)
            assert str(store.path) not in str(refused.value)


def test_limits_that_are_none() -> None:
    for bad in (
        {"message_bytes": 0},
        {"calls": -1},
        {"session_calls": 0},
        {"held_bytes": 1_000},
        {"caller_bytes": (64 << 20) + 1},
    ):
        with pytest.raises(InvalidArgument, match=next(iter(bad))):
            Limits(**bad)


def test_a_gate_counts_out_what_it_counted_in() -> None:
    gate = Gate(Limits(message_bytes=100, caller_bytes=200, held_bytes=300))
    me, you = Caller("me", "read"), Caller("you", "read")
    mine, yours = gate.call(me), gate.call(you)
    mine.take(150)
    with pytest.raises(Overloaded, match="your calls hold too many bytes"):
        mine.take(100)
    with pytest.raises(Overloaded, match="the server holds too many bytes"):
        yours.take(160)
    yours.add(160)  # of a change, which is told all the same
    mine.leave()
    mine.leave()
    mine.add(50)
    assert (gate.all.calls, gate.all.bytes) == (1, 160)
    yours.leave()
    assert (gate.all.calls, gate.all.bytes) == (0, 0)
    with pytest.raises(NotAllowed):
        me.check("write", "m")


def test_messages_that_are_slow_lose_their_places_to_those_who_wait() -> None:
    mine, ours = Places(8), Places(4)

    async def stuck() -> bytes:
        await asyncio.sleep(60)
        return b""

    async def quick() -> bytes:
        return b"it"

    async def work() -> None:
        slow = [asyncio.create_task(received(stuck, 60, mine, ours)) for _ in range(4)]
        await asyncio.sleep(0)
        given_up = asyncio.create_task(received(quick, 60, mine, ours))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await received(quick, 60, mine, ours) == b"it"
        # Half of them keep theirs, those that began first; of the others one was enough.
        assert [task.done() for task in slow] == [False, False, True, False]
        with pytest.raises(Overloaded, match="too slowly while others waited"):
            await slow[2]
        assert (
            await asyncio.gather(*(received(quick, 60, mine, ours) for _ in range(9)))
            == [b"it"] * 9
        )
        assert not slow[3].done()  # nobody waited for its place any more
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)
        with pytest.raises(DeadlineExceeded, match="did not come"):
            await received(stuck, 0.01, mine, ours)

    asyncio.run(work())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dim", 65_537),
        ("value_dim", 10**9),
        ("shards", 1_025),
        ("shards", 10**400),
        ("capacity", 2**63),
        ("index", {"clusters": 10**30}),
        ("index", {"fresh_limit": 10**30}),
        ("index", {"probe": 10**30}),
        ("index", {"patience_s": 1e300}),
        ("records", {f"c{i}": "int64" for i in range(1_025)}),
        ("records", {"x" * 256: "int64"}),
        ("records", "ab"),
        ("records", [["a"]]),
        ("lookup", 5),
        ("encoding", {"key": "ab"}),
    ],
)
def test_memories_that_nobody_could_mean(client: Client, key: str, value: Any) -> None:
    import json

    text = json.dumps({"dim": 4} | {key: value})
    with pytest.raises(InvalidArgument):
        codec.config_of(text)
    with grpc.insecure_channel(client._target.address) as channel:
        stub = channel.unary_unary("/memstore.v1.AdminService/Create", None, None)
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            stub(pb.CreateRequest(memory="new", config=text).SerializeToString(), timeout=30)
    assert client.list() == ["m"]
