"""Calls that are wrong on the wire: each a typed error, and the memory as before."""

from __future__ import annotations

import time
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import MemoryConfig, RequestId, SearchOptions, Store
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemoryExists,
    MemstoreError,
    NotFinite,
    Overloaded,
    RequestConflict,
    StoreClosed,
    UnknownMemory,
    UnknownSlot,
    Unreachable,
    Unsupported,
    WrongShape,
    WrongType,
)
from memstore.rpc import codec, columns, failures
from memstore.rpc.client import Client
from memstore.rpc.limits import Limits
from memstore.rpc.server import Server
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import MEMORY_SERVICE, VERBS, path_of
from tests.rpc.conftest import CONFIG, WIDTH

ROWS = np.eye(WIDTH, dtype=np.float32)


def sent(server: Server, verb: str, data: bytes) -> MemstoreError:
    """What bytes of any kind are answered by."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(path_of(MEMORY_SERVICE, verb), None, None)
        with pytest.raises(grpc.RpcError) as refused:
            call(data, timeout=10)
    return failures.from_call(refused.value, server.address)


def tensor(**fields: Any) -> pb.Tensor:
    return pb.Tensor(**{"dtype": "float32", "shape": [1, WIDTH], "data": bytes(4 * WIDTH)} | fields)


@pytest.mark.parametrize("verb", VERBS)
def test_bytes_that_are_no_message(server: Server, verb: str) -> None:
    assert isinstance(sent(server, verb, b"\xff\xff\xff\xff"), InvalidArgument)
    assert isinstance(sent(server, verb, b""), UnknownMemory)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (tensor(dtype="float33"), WrongType),
        (tensor(dtype=""), WrongType),
        (tensor(shape=[2, WIDTH]), WrongShape),
        (tensor(shape=[-1, -WIDTH]), WrongShape),
        (tensor(shape=[2**62, 4]), WrongShape),
        (tensor(shape=[2**62, 0], data=b""), WrongShape),
        (tensor(shape=[0, 2**62], data=b""), WrongShape),
        (tensor(shape=[1, 1, WIDTH]), WrongShape),
        (tensor(shape=[]), WrongShape),
        (tensor(data=bytes(3)), WrongShape),
        (tensor(shape=[1, 2 * WIDTH], data=bytes(8 * WIDTH)), WrongShape),
        (tensor(dtype="bool", data=bytes(WIDTH)), WrongType),
        (tensor(data=np.full(WIDTH, np.nan, np.float32).tobytes()), NotFinite),
    ],
)
def test_tensors_that_lie(
    store: Store, server: Server, keys: pb.Tensor, kind: type[MemstoreError]
) -> None:
    refused = sent(server, "append", pb.AppendRequest(memory="m", keys=keys).SerializeToString())
    assert type(refused) is kind
    assert store.memory("m").describe().rows == 0


def test_records_that_are_none(store: Store, server: Server) -> None:
    store.create("r", MemoryConfig(dim=WIDTH, records={"name": "string"}))
    table = codec.to_stream(pa.table({"name": ["a"]}))
    for data in (b"", b"no stream", table[: len(table) // 2]):
        message = pb.AppendRequest(memory="r", keys=tensor(), records=data)
        assert isinstance(sent(server, "append", message.SerializeToString()), InvalidArgument)
    right = codec.to_stream(pa.table({"name": ["abc", "def"]}))
    ends = np.array([0, 3, 6], np.int32).tobytes()
    assert right.count(ends) == 1
    with pytest.raises(WrongType, match="no Arrow IPC stream"):
        codec.to_table(right.replace(ends, np.array([0, 3, 1_000_000], np.int32).tobytes()))
    assert store.memory("r").describe().rows == 0


def test_streams_whose_schema_lies() -> None:
    """Each word of it is 0, −1 or huge once: what pyarrow fails with is typed all the same."""
    schema = pa.schema([("key", pa.list_(pa.float32(), WIDTH)), ("name", pa.string())])
    table = pa.table([pa.array([[0.0] * WIDTH], schema[0].type), ["a"]], schema=schema)
    data, refused = codec.to_stream(table), 0
    for at in range(0, len(data) - 4, 4):
        for word in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"):
            lies = data[:at] + word + data[at + 4 :]
            for read in (codec.to_table, lambda lies: columns.from_batch(lies, schema)):
                try:
                    read(lies)
                except MemstoreError:
                    refused += 1
    assert refused > 100


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_records_that_would_swell(kind: pa.DataType, compression: Any) -> None:
    table = pa.table({"name": pa.array(["a" * 10_000] * 1_000).cast(kind)})
    if kind == pa.string():
        assert codec.to_table(codec.to_stream(table)) == table
    else:
        with pytest.raises(WrongType, match="as declared"):
            codec.to_table(codec.to_stream(table))
    sink, options = pa.BufferOutputStream(), pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(WrongType, match="compressed"):
        codec.to_table(bytes(sink.getvalue()))
    for nothing in (pa.nulls(10**9), pa.ListArray.from_arrays([0, 3], pa.nulls(3))):
        with pytest.raises(WrongType, match="as declared"):
            codec.to_table(codec.to_stream(pa.table({"name": nothing})))


def test_a_filter_without_end(server: Server) -> None:
    deep = pb.Filter()
    for _ in range(60):
        deep = pb.Filter(**{"not": deep})
    for tree in (pb.Filter(), deep, pb.Filter(compare=pb.Filter.Compare(column="a", op="="))):
        options = pb.SearchOptions(filter=tree, exact=True)
        message = pb.SearchRequest(memory="m", queries=tensor(), k=1, options=options)
        assert isinstance(sent(server, "search", message.SerializeToString()), InvalidArgument)


def test_errors_are_those_of_an_embedded_memory(store: Store, client: Client) -> None:
    embedded, remote = store.memory("m"), client.memory("m")
    remote.append(ROWS)
    calls: list[tuple[Any, ...]] = [
        ("append", ROWS[:, :3]),
        ("append", np.full((1, WIDTH), np.inf)),
        ("append", None),
        ("append", ROWS, ROWS),
        ("write", [0, 0], ROWS[:2]),
        ("write", [9], ROWS[:1]),
        ("write", [0]),
        ("update", [0, 99], ROWS[:2]),
        ("update", [0]),
        ("update", [0], ROWS),
        ("blend", [0], [2.0], ROWS[:1], ROWS[:1]),
        ("blend", [0], [1.0], ROWS[:1] * 2, ROWS[:1]),
        ("touch", [0], -1),
        ("touch", [0], 1, [1.0]),
        ("allocate", 0),
        ("allocate", 77),
        ("allocate", 2**40),
        ("allocate", 2**70),
        ("search", ROWS, 2**70),
        ("erase", [3, 3]),
        ("erase", ["a"]),
        ("search", ROWS, 0),
        ("search", ROWS, 10_000),
        ("search", ROWS, 2, SearchOptions(sample_clusters=1)),
        ("search", ROWS[0], 2),
        ("search", ROWS, 2, SearchOptions(filter=memstore.field("x") == 1)),
        ("gather", [99, 0, 98]),
        ("gather", [[1]]),
        ("lookup", "year", [1], 1),
        ("refresh",),
    ]
    for verb, *arguments in calls:
        raised = []
        for memory in (embedded, remote):
            with pytest.raises(MemstoreError) as error:
                getattr(memory, verb)(*arguments)
            raised.append((type(error.value), str(error.value)))
        if verb == "gather" and len(arguments[0]) == 3:
            assert {kind for kind, _ in raised} == {UnknownSlot}
        elif any(isinstance(given, int) and given == 2**70 for given in arguments):
            assert {kind for kind, _ in raised} == {InvalidArgument}
        else:
            assert raised[0] == raised[1], verb
    assert embedded.describe().rows == len(ROWS)


def test_memories_that_are_not_there_or_there_already(client: Client) -> None:
    with pytest.raises(UnknownMemory):
        client.memory("none")
    with pytest.raises(MemoryExists):
        client.create("m", CONFIG)
    with pytest.raises(InvalidArgument):
        client.create("No such name!", CONFIG)
    with pytest.raises(InvalidArgument):
        client.snapshot("", at="never")
    for name in (5, None, "\ud800"):
        with pytest.raises(InvalidArgument):
            client.memory(name)  # type: ignore[arg-type]
    with pytest.raises(UnknownMemory):
        client.memory("x" * 100_000)
    client.drop("m")
    assert client.list() == []


def test_a_request_of_another_content(client: Client) -> None:
    memory, asked = client.memory("m"), RequestId("me", 1)
    slots = memory.append(ROWS, request_id=asked)
    assert memory.append(ROWS, request_id=asked).tolist() == slots.tolist()
    with pytest.raises(RequestConflict):
        memory.append(2 * ROWS, request_id=asked)
    assert memory.describe().rows == len(ROWS)


def test_more_than_the_server_takes(store: Store) -> None:
    with (
        Server(store, limits=Limits(message_bytes=10_000, calls=0)) as server,
        memstore.connect(server.address, deadline_s=3) as client,
    ):
        with pytest.raises(Overloaded) as refused:
            client.memory("m")
        assert refused.value.retry_after_s > 0
    with (
        Server(store, limits=Limits(message_bytes=10_000)) as server,
        memstore.connect(server.address) as client,
    ):
        memory = client.memory("m")
        with pytest.raises(InvalidArgument, match="larger than max"):
            memory.append(np.zeros((1_000, WIDTH)))
        memory.append(ROWS)
        assert memory.describe().rows == len(ROWS)


def test_a_reply_that_is_too_long(store: Store) -> None:
    with (
        Server(store, limits=Limits(message_bytes=20_000)) as server,
        memstore.connect(server.address, message_bytes=20_000) as client,
        client.session() as session,
    ):
        for memory in (client.memory("m"), session.memory("m")):
            for _ in range(5):
                memory.append(np.zeros((400, WIDTH)))
            with pytest.raises(InvalidArgument, match="the reply would be too long"):
                memory.search(np.zeros((1, WIDTH)), 2_000)
            with pytest.raises(InvalidArgument):
                memory.append(np.zeros((10_000, WIDTH)))
            memory.search(np.zeros((1, WIDTH)), 5)
        before = store.memory("m").describe().rows
        data = pb.AppendRequest(memory="m", keys=pb.Tensor(dtype="uint8", shape=[9_000, 1]))
        data.keys.data = bytes(9_000)
        assert isinstance(sent(server, "append", data.SerializeToString()), InvalidArgument)
        assert store.memory("m").describe().rows == before


def test_deadlines(store: Store, client: Client) -> None:
    memory, embedded = client.memory("m"), store.memory("m")
    with embedded._mutation:  # type: ignore[attr-defined]
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            memory.append(ROWS, deadline_s=0.2)
        assert time.monotonic() - begun < 20
        assert memory.search(ROWS, 1).counts_Q.sum() == 0  # a read waits for no writer
        time.sleep(0.5)  # The server's clock has begun later.
    with pytest.raises(InvalidArgument):
        memory.append(ROWS, deadline_s=0)
    memory.append(ROWS)
    assert embedded.describe().rows == len(ROWS)


def test_a_server_that_is_not_there(server: Server) -> None:
    address = server.address
    client = memstore.connect(address, deadline_s=0.5)
    memory = client.memory("m")
    server.close()
    with pytest.raises((Unreachable, DeadlineExceeded)):
        memory.describe()
    client.close()
    client.close()
    with pytest.raises(StoreClosed):
        memory.describe()
    for address in ("", "host", "host:0", "host:port", ":7", "a:70000"):
        with pytest.raises(InvalidArgument, match="host:port"):
            memstore.connect(address)


def test_what_a_memory_does_not_offer(store: Store, client: Client) -> None:
    client.create("rows", MemoryConfig(dim=WIDTH, index="none"))
    with pytest.raises(Unsupported):
        client.memory("rows").search(ROWS, 1)
