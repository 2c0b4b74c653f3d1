"""Long calls: reads are cut and joined, mutations are sent in pieces and done as one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, RequestId, SearchOptions, Store
from memstore.errors import (
    InvalidArgument,
    MemstoreError,
    NotAllowed,
    NotFinite,
    Overloaded,
    RequestConflict,
    TooLong,
    Unauthenticated,
    UnknownSlot,
)
from memstore.rpc import codec, cutting, failures
from memstore.rpc.limits import Limits
from memstore.rpc.security import Tokens, add_token
from memstore.rpc.server import Server
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import MEMORY_SERVICE, path_of
from tests.rpc.conftest import CONFIG, WIDTH

MOST = 20_000
"""Bytes of a message here."""


@pytest.fixture
def narrow(store: Store) -> Iterator[Server]:
    """A server that takes short messages alone."""
    limits = Limits(message_bytes=MOST, call_bytes=1_700_000, held_bytes=2_000_000)
    with Server(store, limits=limits) as server:
        yield server


def connected(server: Server) -> Any:
    return memstore.connect(server.address, message_bytes=MOST)


def keys(count: int) -> Any:
    return np.random.default_rng(count).standard_normal((count, WIDTH), np.float32)


def wait_for(what: Any) -> None:
    ends = time.monotonic() + 120
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_long_mutation_is_one(store: Store, narrow: Server) -> None:
    embedded = store.memory("m")
    with connected(narrow) as client:
        memory = client.memory("m")
        before = embedded.describe().shards[0].row_version
        memory.append(keys(2_000), request_id=RequestId("me", 1))
        assert embedded.describe().shards[0].row_version == before + 1
        np.testing.assert_array_equal(embedded.gather(np.arange(2_000)).keys_BD, keys(2_000))
        # A retry, and one of another content.
        again = memory.append(keys(2_000), request_id=RequestId("me", 1))
        assert again.tolist() == [*range(2_000)]
        with pytest.raises(RequestConflict):
            memory.append(2 * keys(2_000), request_id=RequestId("me", 1))
        wrong = keys(2_000)
        wrong[-1, -1] = np.nan
        with pytest.raises(NotFinite):
            memory.append(wrong)
        with pytest.raises(UnknownSlot):
            memory.update([*range(1_999), 5_000], keys(2_000), lr=1.0)
        np.testing.assert_array_equal(embedded.gather(np.arange(2_000)).keys_BD, keys(2_000))
        done = memory.update(np.arange(2_000), keys(2_000), lr=1.0)
        assert done.applied == 2_000
        assert not np.any(embedded.gather(np.arange(2_000)).keys_BD)
        with pytest.raises(TooLong, match="reply"):
            memory.append(keys(3_000))  # whose slots are too many
        with pytest.raises(TooLong, match="put together"):
            memory.update(np.arange(2_000).repeat(60), keys(120_000))
        assert embedded.describe().rows == 2_000


def test_long_reads_are_joined(store: Store, narrow: Server) -> None:
    config = MemoryConfig(
        dim=WIDTH,
        value_dim=2,
        shards=3,
        records={"name": "string", "tags": "list<int64>"},
        lookup=("name", "tags"),
    )
    embedded = store.create("r", config)
    names = ["x" * (3_000 if i % 400 == 0 else 3) + str(i) for i in range(4_000)]
    tags = [[i % 50] * (i % 3) for i in range(4_000)]
    embedded.append(keys(4_000), keys(4_000)[:, :2], records={"name": names, "tags": tags})
    with connected(narrow) as client:
        memory = client.memory("r")
        slots = np.random.default_rng(0).integers(0, 4_000, 9_000)
        for columns in ((), ("name", "tags")):
            for vectors in (True, False):
                one = embedded.gather(slots, columns=columns, vectors=vectors)
                two = memory.gather(slots, columns=columns, vectors=vectors)
                for name in ("slots_B", "generations_B", "keys_BD", "values_BV"):
                    np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
                assert one.records == two.records
        for options in (SearchOptions(exact=True), SearchOptions()):
            near, far = (it.search(keys(3_000), 7, options) for it in (embedded, memory))
            for name in ("slots_QK", "scores_QK", "proposal_QK", "counts_Q", "row_versions_S"):
                np.testing.assert_array_equal(getattr(near, name), getattr(far, name))
        asked = [*names[:1_500], "none", *names[:50]]
        for column, values in (("name", asked), ("tags", np.arange(60))):
            cursor = None
            while cursor is None or (cursor >= 0).any():
                found = [it.lookup(column, values, 20, cursor) for it in (embedded, memory)]
                for name in ("slots", "offsets", "truncated_Q", "cursor"):
                    one, two = (getattr(it, name) for it in found)
                    np.testing.assert_array_equal(one, two)
                cursor = found[0].cursor
        with pytest.raises(UnknownSlot):
            memory.gather([*range(4_000), 9_999])
        # What cannot be cut: one query, and queries that look at each other's.
        with pytest.raises(TooLong):
            memory.search(keys(1), 3_000)
        union = SearchOptions(union=True, exact=True)
        near, far = (it.search(keys(1_000)[:12], 5, union) for it in (embedded, memory))
        np.testing.assert_array_equal(near.slots_QK, far.slots_QK)
        with pytest.raises(TooLong):
            memory.search(keys(1_500), 5, union)
        with pytest.raises(TooLong), client.session() as session:
            session.memory("r").append(keys(2_000), keys(2_000)[:, :2])


def pieces(message: Any, verb: str = "Append", said: int | None = None) -> list[bytes]:
    data = message.SerializeToString()
    made = [pb.Piece.FromString(piece) for piece in cutting.pieces(verb, data, 1_000)]
    if said is not None:
        made[0].bytes = said
    made[0].verb = verb
    return [piece.SerializeToString() for piece in made]


def append(count: int) -> pb.AppendRequest:
    return pb.AppendRequest(memory="m", keys=codec.to_tensor(keys(count)))


def sent(server: Server, messages: Any) -> MemstoreError:
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_unary(path_of(MEMORY_SERVICE, "assemble"), None, None)
        with pytest.raises(grpc.RpcError) as refused:
            call(iter(messages), timeout=20)
    return failures.from_call(refused.value, server.address)


def test_pieces_that_are_wrong(store: Store, narrow: Server) -> None:
    whole = pieces(append(1_000))
    size = len(append(1_000).SerializeToString())
    for messages, kind in (
        ([], InvalidArgument),
        ([b"\xff"], InvalidArgument),
        ([*whole[:3], b"\xff"], InvalidArgument),
        (whole[:-1], InvalidArgument),
        (whole[1:], InvalidArgument),
        (pieces(append(1_000), said=size + 1), InvalidArgument),
        (pieces(append(1_000), said=size - 1), InvalidArgument),
        (pieces(append(1_000), said=0), TooLong),
        (pieces(append(1_000), said=-1), TooLong),
        (pieces(append(1_000), said=1_700_001), TooLong),
        (pieces(append(1_000), said=2**62), TooLong),
        (pieces(append(1_000), "Drop"), InvalidArgument),
        (pieces(append(1_000), "Session"), InvalidArgument),
        (pieces(pb.SearchRequest(memory="m", k=1), "Search"), InvalidArgument),
    ):
        assert type(sent(narrow, messages)) is kind
        wait_for(lambda: not narrow.gate.all.bytes)
    assert store.memory("m").describe().rows == 0


def test_calls_half_sent(store: Store, narrow: Server) -> None:
    first, over = pieces(append(100_000))[0], threading.Event()

    def half() -> Iterator[bytes]:
        yield first
        over.wait(30)

    channel = grpc.insecure_channel(narrow.address)
    call = channel.stream_unary(path_of(MEMORY_SERVICE, "assemble"), None, None)
    for way in ("cancelled", "late"):
        begun = call.future(half(), timeout=5.0 if way == "late" else None)
        wait_for(lambda: narrow.gate.all.bytes > 1_000_000)
        refused = sent(narrow, pieces(append(60_000)))
        assert isinstance(refused, Overloaded)
        assert refused.retry_after_s > 0
        if way == "cancelled":
            begun.cancel()
        with connected(narrow) as client:  # others' shorter ones go on
            assert client.memory("m").search(keys(1_500), 1).counts_Q.sum() == 0
        wait_for(lambda: not narrow.gate.all.bytes)
    over.set()
    channel.close()
    assert store.memory("m").describe().rows == 0


def test_pieces_that_are_refused_while_they_are_sent(store: Store, narrow: Server) -> None:
    """The asyncio client loses some of the answers, and asks again."""

    async def refused() -> None:
        async with memstore.connect_async(narrow.address, message_bytes=MOST) as client:
            memory = await client.memory("m")
            for _ in range(60):
                with pytest.raises(TooLong, match="too long to be put together"):
                    await memory.append(keys(200_000))

    asyncio.run(refused())
    assert store.memory("m").describe().rows == 0


def test_who_may_send_pieces(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = add_token(path, "reader", "read")
    with Server(store, tokens=Tokens(path), limits=Limits(message_bytes=MOST)) as server:
        assert isinstance(sent(server, pieces(append(10))), Unauthenticated)
        with memstore.connect(server.address, token=token, message_bytes=MOST) as client:
            memory = client.memory("m")
            with pytest.raises(NotAllowed):
                memory.append(keys(3_000))
            assert memory.search(keys(3_000), 1).counts_Q.sum() == 0
    assert store.memory("m").describe().rows == 0


def test_a_server_that_takes_less_than_its_client(store: Store, narrow: Server) -> None:
    with memstore.connect(narrow.address) as client:
        memory = client.memory("m")
        with pytest.raises(TooLong):
            memory.append(keys(3_000))
        store.memory("m").append(keys(9_000))
        found = memory.gather(np.arange(9_000)).keys_BD
        np.testing.assert_array_equal(found, keys(9_000))
        assert memory.search(keys(9_000), 3).counts_Q.sum() == 27_000
    assert store.create("n", CONFIG).describe().rows == 0
