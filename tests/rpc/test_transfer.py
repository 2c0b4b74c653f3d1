"""Load and Export: all of it or nothing, whatever becomes of the stream; the same rows again."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, RequestId, SearchOptions, Store
from memstore.config import DType
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemoryInUse,
    MemstoreError,
    NotAllowed,
    NotFinite,
    Overloaded,
    RequestConflict,
    RequestTooOld,
    StoreClosed,
    TooLong,
    UnknownMemory,
    UnknownSlot,
    Unreachable,
    Unsupported,
    WrongShape,
    WrongType,
)
from memstore.rpc import bulk, columns, failures
from memstore.rpc.client import Client
from memstore.rpc.limits import Limits
from memstore.rpc.security import ROLES, Tokens, add_token
from memstore.rpc.server import Server
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import MEMORY_SERVICE, path_of
from tests.faults.changes import died
from tests.rpc.awaited import AwaitedTransfers
from tests.rpc.conftest import CONFIG, WIDTH

RECORDS = {"name": "string", "year": "int32", "tags": "list<string>"}


def table(count: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((count, WIDTH), np.float32)
    return columns.table_of(keys, None, None)


def rich(count: int, config: MemoryConfig) -> pa.Table:
    rng = np.random.default_rng(count)
    vectors = {
        name: pa.array(list(rng.standard_normal((count, width), np.float32)))
        for name, width in (("key", config.dim), ("value", config.value_dim))
        if width
    }
    records = {
        "name": [f"row {i}" for i in range(count)],
        "year": pa.array(range(count), pa.int32()),
        "tags": [["a"] * (i % 3) for i in range(count)],
    }
    return pa.table(vectors | records)


def rows_of(store: Store, name: str) -> int:
    return store.memory(name).describe().rows


def read(batches: Iterator[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(list(batches))


@pytest.fixture(params=[memstore.connect, AwaitedTransfers], ids=["called", "awaited"])
def client(server: Server, request: Any) -> Iterator[Client]:
    with request.param(server.address) as client:
        yield client


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("values", [None, 3])
def test_what_is_exported_loads_into_another(
    store: Store, client: Client, dtype: DType, values: int | None
) -> None:
    config = MemoryConfig(
        dim=WIDTH, value_dim=values, dtype=dtype, shards=3, records=RECORDS, lookup=("name",)
    )
    for name in ("one", "two", "three"):
        client.create(name, config)
    rows = rich(20_000, config)
    done = client.load("one", rows)
    assert (done.rows, done.first, done.last) == (20_000, 0, 19_999)
    one = store.memory("one")
    slots = np.arange(20_000)
    found = one.gather(slots, columns=list(RECORDS))
    assert found.records == rows.select(list(RECORDS))
    assert found.keys_BD is not None
    np.testing.assert_array_equal(
        found.keys_BD, np.stack(rows["key"].to_numpy()).astype(found.keys_BD.dtype)
    )
    assert client.memory("one").lookup("name", ["row 77"], 1).slots.tolist() == [77]
    one.erase([5, 6])
    exported = list(client.export("one"))
    assert len(exported) > 1
    assert max(batch.nbytes for batch in exported) < 2 * bulk.BATCH_BYTES
    told = read(iter(exported))
    assert told["slot"].to_pylist() == [s for s in range(20_000) if s not in (5, 6)]
    assert set(told["generation"].to_pylist()) == {0}
    client.load("two", iter(exported))
    client.load("three", told)
    left = np.delete(slots, [5, 6])
    expected = one.gather(left, columns=list(RECORDS))
    for name in ("two", "three"):
        again = store.memory(name).gather(np.arange(19_998), columns=list(RECORDS))
        np.testing.assert_array_equal(again.keys_BD, expected.keys_BD)
        if values is not None:
            np.testing.assert_array_equal(again.values_BV, expected.values_BV)
        assert again.records == expected.records


def test_an_encoded_memory_loads_records(store: Store, client: Client) -> None:
    client.create("words", MemoryConfig(dim=WIDTH, index="none"))
    encoding = EncodingConfig(key={"a": "words", "b": "words"})
    how = MemoryConfig(dim=WIDTH, records={"a": "int64", "b": "int64"}, encoding=encoding)
    for name in ("facts", "again"):
        client.create(name, how)
    client.load("words", table(4))
    facts = pa.table({"a": [0, 1, 3], "b": [2, 2, 2]})
    client.load("facts", facts)
    words = store.memory("words").gather(range(4)).keys_BD
    keys = store.memory("facts").gather([0, 1, 2]).keys_BD
    assert words is not None
    np.testing.assert_array_equal(keys, words[[0, 1, 3]] + words[[2, 2, 2]])
    assert read(client.export("facts")).schema.names == ["slot", "generation", "key", "a", "b"]
    client.load("again", client.export("facts", vectors=False))
    np.testing.assert_array_equal(store.memory("again").gather([0, 1, 2]).keys_BD, keys)
    with pytest.raises(InvalidArgument, match="wrong columns"):
        client.load("facts", client.export("facts"))
    with pytest.raises(UnknownSlot):
        client.load("facts", [facts, pa.table({"a": [0], "b": [9]})])
    assert rows_of(store, "facts") == 3


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (pa.table({"kye": [[0.0] * WIDTH]}), InvalidArgument),
        (pa.table({"key": [0.0]}), WrongType),
        (pa.table({"key": [["a"] * WIDTH]}), WrongType),
        (pa.table({"key": [[0.0] * 3]}), WrongShape),
        (pa.table({"key": [[0.0] * WIDTH, None]}), InvalidArgument),
        (pa.table({"key": [[None] * WIDTH]}), InvalidArgument),
        (pa.table({"key": [[float("nan")] * WIDTH]}), NotFinite),
        (pa.table({"key": [[0.0] * WIDTH], "name": ["a"]}), InvalidArgument),
        ({"key": [[0.0] * WIDTH]}, WrongType),
    ],
)
def test_a_batch_that_the_client_refuses(
    store: Store, client: Client, batch: Any, kind: type[MemstoreError]
) -> None:
    with pytest.raises(kind):
        client.load("m", [table(10), batch])
    assert rows_of(store, "m") == 0
    assert client.load("m", table(3)).rows == 3


def sent(server: Server, messages: Any, **options: Any) -> MemstoreError:
    """What messages of any kind are answered by."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_unary(path_of(MEMORY_SERVICE, "load"), None, None)
        with pytest.raises(grpc.RpcError) as refused:
            call(iter(messages), timeout=20, **options)
    return failures.from_call(refused.value, server.address)


def part(batch: pa.Table | bytes | None = None, rows: int | None = None) -> bytes:
    data = columns.to_batch(batch) if isinstance(batch, pa.Table) else batch
    return pb.LoadRequest(memory="m", batch=data, rows=rows).SerializeToString()


def squeezed() -> bytes:
    sink, options = pa.BufferOutputStream(), pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table(1).schema, options=options) as writer:
        writer.write_table(table(1000))
    return bytes(sink.getvalue())


def with_nan() -> pa.Table:
    return columns.table_of(np.full((2, WIDTH), np.nan, np.float32), None, None)


def endless() -> pa.Table:
    return pa.table({"key": pa.FixedSizeListArray.from_arrays(pa.nulls(0), 2**30)})


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([], InvalidArgument),
        ([b"\xff\xff"], InvalidArgument),
        ([part(table(5)), b"\xff\xff"], InvalidArgument),
        ([part(table(5))], InvalidArgument),
        ([part(table(5), rows=6)], InvalidArgument),
        ([part(table(5), rows=-1)], InvalidArgument),
        ([part(table(5)), part(b"no batch")], WrongType),
        ([part(table(5)), part(b"")], WrongType),
        ([part(table(5)), part(columns.to_batch(table(100))[:-300])], WrongType),
        ([part(table(5)), part(squeezed())], WrongType),
        ([part(table(5)), part(endless())], WrongType),
        ([part(table(5)), part(pa.table({"key": pa.nulls(9)}))], WrongType),
        ([part(table(5)), part(with_nan())], NotFinite),
        ([part(table(5)), part(table(5).append_column("x", [[1] * 5]))], WrongType),
        ([part(table(5)), part(bytes(70 << 20))], TooLong),
        ([pb.LoadRequest(memory="none", rows=0).SerializeToString()], UnknownMemory),
    ],
)
def test_a_stream_that_the_server_refuses(
    store: Store, server: Server, messages: list[bytes], kind: type[MemstoreError]
) -> None:
    assert type(sent(server, messages)) is kind
    assert rows_of(store, "m") == 0
    store.checkpoint()
    with memstore.connect(server.address) as client:
        assert client.load("m", table(3)).rows == 3
    found = store.memory("m").search(np.ones((1, WIDTH)), 10)
    assert found.counts_Q[0] == 3


class Held:
    """A load that is in its middle, until it is let go on or is lost."""

    def __init__(self, server: Server, batches: int = 3) -> None:
        self._on = threading.Event()
        self._channel = grpc.insecure_channel(server.address)
        call = self._channel.stream_unary(path_of(MEMORY_SERVICE, "load"), None, None)

        def messages() -> Iterator[bytes]:
            for _ in range(batches):
                yield part(table(100))
            self._on.wait(30)
            yield part(None, rows=100 * batches)

        self.call = call.future(messages())

    def go_on(self) -> pb.LoadReply:
        self._on.set()
        return pb.LoadReply.FromString(self.call.result(30))

    def lose(self) -> None:
        self._channel.close()
        self._on.set()


def wait_for(what: Any) -> None:
    ends = time.monotonic() + 120
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_client_that_vanishes(store: Store, server: Server, client: Client) -> None:
    memory = client.memory("m")
    memory.append(np.eye(WIDTH))
    for way in ("closed", "cancelled"):
        held = Held(server)
        wait_for(lambda: rows_of(store, "m") == 304)
        (held.lose if way == "closed" else held.call.cancel)()
        wait_for(lambda: rows_of(store, "m") == 4)
        wait_for(lambda: store._loading is None)
        memory.update([0], np.ones((1, WIDTH)), lr=0.0)
        store.checkpoint()
        held.lose()
    assert client.load("m", table(7)).rows == 7
    assert rows_of(store, "m") == 11


def test_others_meanwhile(store: Store, server: Server, client: Client) -> None:
    memory = client.memory("m")
    memory.append(np.eye(WIDTH))
    store.create("other", CONFIG)
    held = Held(server)
    wait_for(lambda: rows_of(store, "m") == 304)
    for change in (
        # An append too: it would be taken back with the load.
        lambda: memory.append(np.eye(WIDTH)),
        lambda: memory.update([0], np.ones((1, WIDTH))),
        lambda: memory.erase([0]),
        lambda: client.load("m", table(1)),
        lambda: client.load("other", table(1)),
        lambda: client.create("third", CONFIG),
        lambda: client.mark("now"),
    ):
        with pytest.raises(MemoryInUse, match="loaded"):
            change()
    assert memory.search(np.eye(WIDTH), 1, SearchOptions(exact=True)).counts_Q.sum() == WIDTH
    assert len(read(client.export("m", vectors=False))) == 304
    client.memory("other").append(np.eye(WIDTH))
    done = held.go_on()
    assert (done.rows, done.first, done.last) == (300, 4, 303)
    assert memory.append(np.eye(WIDTH)).tolist() == [304, 305, 306, 307]
    held.lose()


def test_a_load_that_says_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(store) as server:
        monkeypatch.setattr(server._handlers.transfers, "_silent_s", 0.2)
        held = Held(server)
        with pytest.raises(grpc.RpcError) as refused:
            held.call.result(30)
        assert isinstance(failures.from_call(refused.value, "it"), DeadlineExceeded)
        wait_for(lambda: store._loading is None)
        assert rows_of(store, "m") == 0
        held.lose()


def test_a_deadline_in_the_middle(store: Store, client: Client) -> None:
    def slow() -> Iterator[pa.Table]:
        yield table(50)
        wait_for(lambda: rows_of(store, "m") == 50)
        wait_for(lambda: rows_of(store, "m") == 0)

    with pytest.raises(DeadlineExceeded):
        client.load("m", slow(), deadline_s=2)
    wait_for(lambda: store._loading is None)
    assert rows_of(store, "m") == 0


def test_a_server_that_ends_in_the_middle(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "it") as store:
        store.create("m", CONFIG).append(np.eye(WIDTH))
        server = Server(store).start()
        held = Held(server)
        wait_for(lambda: rows_of(store, "m") == 304)
        server.close(0)
        assert rows_of(store, "m") == 4
        held.lose()
    with memstore.open(tmp_path / "it") as store:
        assert rows_of(store, "m") == 4


def test_a_load_is_there_for_good_and_its_retry_is_the_same(tmp_path: Path) -> None:
    asked = RequestId("loader", 7)
    store = memstore.open(tmp_path / "it")
    store.create("m", MemoryConfig(dim=WIDTH, shards=3))
    with Server(store) as server, memstore.connect(server.address) as client:
        first = client.load("m", [table(500), table(3, seed=1)], request_id=asked, step=4)
        assert client.load("m", table(0)).first == -1
    died(store)
    with (
        memstore.open(tmp_path / "it") as store,
        Server(store) as server,
        memstore.connect(server.address) as client,
    ):
        again = client.load("m", [table(500), table(3, seed=1)], request_id=asked, step=4)
        assert again == first
        for other in ([table(500)], [table(500), table(3, seed=2)]):
            with pytest.raises(RequestConflict):
                client.load("m", other, request_id=asked, step=4)
        with pytest.raises(RequestConflict):
            client.memory("m").append(np.eye(WIDTH), request_id=asked)
        memory = store.memory("m")
        for number in range(8, 4_105):
            memory.touch([0], 1, request_id=RequestId("loader", number))
        with pytest.raises(RequestTooOld):
            client.load("m", [table(500)], request_id=RequestId("loader", 1))
        assert rows_of(store, "m") == 503


def test_who_may(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    tokens = {role: add_token(path, role, role, ["m"]) for role in ROLES}
    store.create("other", CONFIG)
    may = ROLES[ROLES.index("admin") :]
    with Server(store, tokens=Tokens(path)) as server:
        for role, token in tokens.items():
            with memstore.connect(server.address, token=token) as client:
                if role in may:
                    client.load("m", table(3))
                else:
                    with pytest.raises(NotAllowed):
                        client.load("m", table(3))
                assert read(client.export("m")).schema.names == ["slot", "generation", "key"]
                with pytest.raises(NotAllowed):
                    list(client.export("other"))
                with pytest.raises(NotAllowed):
                    client.load("other", table(3))
    assert rows_of(store, "m") == 3 * len(may)


def test_what_cannot_be_loaded(store: Store, client: Client) -> None:
    client.create("full", MemoryConfig(dim=WIDTH, capacity=4))
    with pytest.raises(Unsupported, match="capacity"):
        client.load("full", table(3))
    client.create("odd", MemoryConfig(dim=WIDTH, records={"key": "string"}))
    with pytest.raises(InvalidArgument, match="name of another column"):
        client.load("odd", table(3))
    with pytest.raises(UnknownMemory):
        client.load("none", table(3))


def test_exports(store: Store, client: Client) -> None:
    config = MemoryConfig(dim=WIDTH, shards=2, records=RECORDS)
    client.create("r", config)
    assert read(client.export("r")).schema.names == ["slot", "generation", "key", *RECORDS]
    client.load("r", rich(1_000, config))
    some = read(client.export("r", [9, 3, 9], columns=["year"], vectors=False))
    assert some.to_pydict() == {"slot": [9, 3, 9], "generation": [0] * 3, "year": [9, 3, 9]}
    assert read(client.export("r", [1], columns=[])).schema.names == ["slot", "generation", "key"]
    with pytest.raises(UnknownSlot):
        list(client.export("r", [1, 5_000]))
    with pytest.raises(InvalidArgument, match="no such record column"):
        list(client.export("r", columns=["none"]))
    with pytest.raises(UnknownMemory):
        list(client.export("none"))
    store.memory("r").erase(np.arange(200, 990))
    assert read(client.export("r"))["slot"].to_pylist() == [*range(200), *range(990, 1_000)]
    store.memory("r").allocate(5, records=rich(5, config).select(list(RECORDS)))
    assert sum(read(client.export("r"))["generation"].to_pylist()) == 5


def test_rows_of_any_length(store: Store) -> None:
    config = MemoryConfig(dim=WIDTH, records={"text": "string"})
    texts = ["x" * (40_000 if i % 50 == 0 else 5) for i in range(1_000)]
    memory = store.create("r", config)
    memory.append(np.ones((1_000, WIDTH)), records={"text": texts})
    with (
        Server(store, limits=Limits(message_bytes=60_000)) as server,
        memstore.connect(server.address) as client,
    ):
        assert read(client.export("r"))["text"].to_pylist() == texts
        memory.append(np.ones((1, WIDTH)), records={"text": ["x" * 70_000]})
        with pytest.raises(InvalidArgument, match="longer than a message"):
            list(client.export("r"))


def test_rows_erased_under_an_export(store: Store, client: Client) -> None:
    memory = store.memory("m")
    memory.append(np.ones((60_000, WIDTH)))
    batches = client.export("m")
    first = next(batches)
    memory.erase(np.arange(1_000, 60_000))
    memory.append(np.ones((10, WIDTH)))
    rest = [slot for batch in batches for slot in batch["slot"].to_pylist()]
    assert first["slot"].to_pylist() == [*range(len(first))]
    assert set(range(len(first), 1_000)) <= set(rest)
    assert max(rest, default=0) < 60_000


def test_a_slow_reader_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = store.create("wide", MemoryConfig(dim=1_024, index="none"))
    wide.append(np.ones((64_000, 1_024)))
    made: list[int] = []

    def counted(rows: Any, real: Any = columns.exported) -> pa.Table:
        made.append(len(rows.slots_B))
        return real(rows)

    monkeypatch.setattr(columns, "exported", counted)
    with (
        Server(store, limits=Limits(exports=1)) as server,
        memstore.connect(server.address) as client,
        memstore.connect(server.address) as other,
    ):
        batches = client.export("wide")
        next(batches)
        count = -1  # until nothing came for a while, as far as this machine lets it
        while count != len(made):
            count = len(made)
            time.sleep(0.3)
        # 262 MB are to be read; what gRPC and its windows hold is a small part of it.
        assert sum(made) * 4_096 < 50 << 20
        with pytest.raises(Overloaded):
            list(other.export("m"))
        batches.close()  # type: ignore[attr-defined]
        wait_for(lambda: server._handlers.transfers._exports == 0)
        assert sum(made) * 4_096 < 50 << 20
        assert sum(map(len, other.export("wide", vectors=False))) == 64_000


def test_a_client_that_is_closed(server: Server) -> None:
    client = memstore.connect(server.address)
    client.close()
    with pytest.raises(StoreClosed):
        list(client.export("m"))
    with pytest.raises(StoreClosed):
        client.load("m", table(1))
    with memstore.connect(server.address, deadline_s=0.5) as client:
        server.close()
        with pytest.raises((Unreachable, DeadlineExceeded)):
            list(client.export("m", deadline_s=0.5))


def test_a_server_that_is_closed_at_once_leaves_no_task_behind(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()

    def batches() -> Iterator[pa.Table]:
        yield table(1)
        over.wait()

    server = Server(store).start()
    with memstore.connect(server.address) as client, futures.ThreadPoolExecutor() as threads:
        loading = threads.submit(client.load, "m", batches())
        while store.memory("m").describe().rows == 0:
            assert not loading.done()
        loop = server._loop
        server.close(0)
        assert not asyncio.all_tasks(loop)
        over.set()
        assert isinstance(loading.exception(30), MemstoreError)
    gc.collect()
    assert not [one for one in caplog.records if one.name == "asyncio"], caplog.text
