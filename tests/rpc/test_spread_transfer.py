"""Rows in bulk of memories that lie on several servers."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, RequestId
from memstore.cli import main
from memstore.deadline import Deadline
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemoryInUse,
    MemstoreError,
    RequestConflict,
    ShardElsewhere,
    UnknownMemory,
    UnknownSlot,
    Unsupported,
)
from memstore.memory import Array
from memstore.rpc import columns, spread_export
from memstore.rpc.bulk import fit
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from memstore.rpc.spread_load import SpreadLoad
from memstore.rpc.v1 import memory_pb2 as pb
from tests.congruence import histories
from tests.congruence.spread import Servers
from tests.rpc.test_spread_snapshots import clean

WIDTH, COUNT, ROWS = 3, 3, 3_000
CONFIG = MemoryConfig(
    dim=WIDTH, value_dim=2, shards=5, index="exact", optimizer="sgd", records={"n": "int64"}
)


def rows(count: int, seed: int = 0, width: int = WIDTH) -> Array:
    return np.random.default_rng(seed).standard_normal((count, width), np.float32)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path / "servers", COUNT)
    yield made
    made.close()


@pytest.fixture(params=[0, 1], ids=["by part 0", "by another"])
def client(servers: Servers, request: Any) -> Iterator[Client]:
    with memstore.connect(servers.servers[request.param].address, deadline_s=120.0) as client:
        yield client


def whole(batches: Iterator[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(list(batches))


def filled(client: Client) -> Any:
    memory = client.create("m", CONFIG)
    memory.append(rows(ROWS), rows(ROWS, 1, 2), records={"n": [*range(ROWS)]})
    memory.erase([7, 2_000])
    memory.write([5], records={"n": [-5]})
    memory.allocate(1, records={"n": [-1]})
    return memory


def test_exports_are_those_of_an_embedded_memory(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    memory = filled(client)
    client.snapshot(str(tmp_path / "snapshots"))
    memstore.restore(tmp_path / "snapshots", tmp_path / "one")
    asks: list[dict[str, Any]] = [{}, {"vectors": False}, {"columns": []}]
    asks += [{"slots": [9, 4, 2_999, 4, 0]}, {"slots": [], "columns": ["n"]}]
    with (
        memstore.open(tmp_path / "one") as store,
        Server(store) as server,
        memstore.connect(server.address) as other,
    ):
        for asked in asks:
            expected = whole(other.export("m", **asked))
            assert whole(client.export("m", **asked)) == expected, asked
    assert whole(client.export("m")).num_rows == ROWS - 2
    for slots in ([1, 7], [ROWS]):
        with pytest.raises(UnknownSlot):
            list(client.export("m", slots))
    with pytest.raises(InvalidArgument):
        list(client.export("m", columns=["other"]))
    with pytest.raises(UnknownMemory):
        list(client.export("nothing"))
    assert memory.describe().rows == ROWS - 2
    assert clean(servers)


def test_an_export_is_of_one_moment(
    servers: Servers, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers go on all the while, and are seen in none of its batches."""
    monkeypatch.setattr(spread_export, "FIRST_ROWS", 5)
    monkeypatch.setattr(spread_export, "MOST_ROWS", 5)
    memory = client.create("m", histories.CONFIG)
    writers = histories.made(memory, 3, 6, 0.002)
    over, found = threading.Event(), []
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(writer.run, over) for writer in writers]
        try:
            for _ in range(3):
                before = [writer.done for writer in writers]
                batches = client.export("m")
                first = next(batches)
                after = [len(writer.states) - 1 for writer in writers]
                while any(w.done < n + 5 for w, n in zip(writers, after, strict=True)):
                    assert not any(each.done() for each in running)
                    time.sleep(0.002)
                found.append((before, after, pa.Table.from_batches([first, *batches])))
        finally:
            over.set()
        for each in running:
            each.result()
    for before, after, table in found:
        assert table["slot"].to_pylist() == [*range(18)]
        keys_BD = np.array(table["key"].to_pylist(), np.float32)
        histories.check_cut(_Table(keys_BD), writers, before, after)  # type: ignore[arg-type]
    assert clean(servers)


class _Table:
    """What `check_cut` reads of a memory."""

    def __init__(self, keys_BD: Array) -> None:
        self.keys_BD = keys_BD

    def gather(self, slots: Any) -> Any:
        return _Table(self.keys_BD[slots])


def test_an_export_that_is_left_lets_go(servers: Servers, client: Client) -> None:
    filled(client)
    batches = client.export("m")
    next(batches)
    assert servers.stores[1]._manifests.cuts
    batches.close()  # type: ignore[attr-defined]
    client.mark("m")  # waits for nothing
    client.unmark("m")
    for _ in range(1_000):
        if clean(servers):
            return
        threading.Event().wait(0.01)
    raise AssertionError("a cut is held on to")


def test_an_export_that_is_left_before_it_is_begun_lets_go(servers: Servers) -> None:
    server: Any = servers.servers[0]
    given = server._pools.forwarded_reads._given
    with ThreadPoolExecutor(1) as pool, memstore.connect(server.address) as client:
        filled(client)
        with server._spreading.own.making:  # as while another cut is made
            first = pool.submit(next, client.export("m"))
            until(lambda: given)
            client.close()
            with pytest.raises(MemstoreError):
                first.result(timeout=30)
        until(lambda: not given and clean(servers))


def until(there: Callable[[], Any]) -> None:
    """Waits for something."""
    ends = time.monotonic() + 60
    while not there():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_rows_of_a_cut_are_read_while_a_checkpoint_is_written(
    servers: Servers, client: Client
) -> None:
    filled(client)
    spreading: Any = servers.servers[0]._spreading
    cut = spreading._joint.make(Deadline(30.0))
    with ThreadPoolExecutor(1) as pool:
        for store in servers.stores:
            still = store.cuts.still(cut, "m")
            with store._mutex:  # as a checkpoint has it
                assert pool.submit(store.cuts.still, cut, "m").result(timeout=10) is still
    spreading._joint.drop(cut)
    for store in servers.stores:
        with pytest.raises(InvalidArgument, match="does not have its part"):
            store.cuts.still(cut, "m")
    assert clean(servers)


def test_encoded_memories_and_narrow_rows(servers: Servers, client: Client) -> None:
    encoding = EncodingConfig(key={"a": "words", "b": "words"})
    words = client.create("words", MemoryConfig(dim=WIDTH, index="none", shards=4))
    words.append(rows(30))
    narrow = client.create("narrow", MemoryConfig(dim=WIDTH, dtype="bfloat16", shards=3))
    narrow.append(rows(30))
    config = MemoryConfig(
        dim=WIDTH, shards=4, records={"a": "int64", "b": "int64"}, encoding=encoding
    )
    facts = client.create("facts", config)
    facts.append(records={"a": [*range(25)], "b": [29] * 25})
    table = whole(client.export("facts"))
    assert table["a"].to_pylist() == [*range(25)]
    np.testing.assert_array_equal(
        np.array(table["key"].to_pylist(), np.float32), facts.gather(range(25)).keys_BD
    )
    bits = b"".join(whole(client.export("narrow"))["key"].to_pylist())
    keys: Any = narrow.gather(range(30)).keys_BD
    assert bits == keys.tobytes()


def test_the_command_line_exports(tmp_path: Path, servers: Servers, client: Client) -> None:
    filled(client)
    target = tmp_path / "rows.arrow"
    assert main(["export", servers.servers[2].address, "m", str(target)]) == 0
    with pa.ipc.open_file(str(target)) as reader:
        assert reader.read_all().num_rows == ROWS - 2


def batches(count: int, each: int = 40) -> Iterator[pa.RecordBatch]:
    for n in range(count):
        yield pa.record_batch(
            {
                "key": list(rows(each, n)),
                "value": list(rows(each, 100 + n, 2)),
                "n": [*range(n * each, (n + 1) * each)],
            }
        )


def noted(servers: Servers) -> dict[str, Any]:
    found: dict[str, Any] = servers.stores[0].fact("loads", {})
    return found


def test_a_load_is_there_as_a_whole(tmp_path: Path, servers: Servers, client: Client) -> None:
    memory = client.create("m", CONFIG)
    memory.append(rows(5), rows(5, 1, 2), records={"n": [-1] * 5})
    asked = RequestId("loader", 1)
    done = client.load("m", batches(6), step=3, request_id=asked)
    assert (done.rows, done.first, done.last) == (240, 5, 244)
    assert client.load("m", batches(6), step=3, request_id=asked) == done
    with pytest.raises(RequestConflict):
        client.load("m", batches(5), step=3, request_id=asked)
    assert memory.describe().rows == 245
    found = memory.gather(range(5, 245), columns=["n"])
    np.testing.assert_array_equal(found.keys_BD, np.vstack([rows(40, n) for n in range(6)]))
    assert found.records["n"].to_pylist() == [*range(240)]  # type: ignore[index]
    assert memory.append(rows(1), rows(1, 1, 2), records={"n": [0]}).tolist() == [245]
    assert not noted(servers)
    assert clean(servers)
    client.mark("m")
    target = tmp_path / "rows.arrow"
    assert main(["export", servers.servers[2].address, "m", str(target)]) == 0
    client.create("again", CONFIG)
    assert main(["load", servers.servers[2].address, "again", str(target)]) == 0
    assert client.memory("again").describe().rows == 246


def test_others_wait_for_a_load_or_go_on(servers: Servers, client: Client) -> None:
    memory = client.create("m", CONFIG)
    memory.append(rows(5), rows(5, 1, 2), records={"n": [-1] * 5})

    def slow() -> Iterator[pa.RecordBatch]:
        yield from batches(2)
        until(lambda: memory.describe().rows >= 85)
        row: dict[str, Any] = {"records": {"n": [0]}}
        for refused in (
            lambda: memory.append(rows(1), rows(1, 1, 2), **row),
            lambda: memory.allocate(1, **row),
            lambda: client.mark("m"),
            lambda: client.load("m", batches(1)),
        ):
            with pytest.raises(MemoryInUse):
                refused()
        assert memory.write([0, 1, 2, 3], rows(4, 7)).applied == 4
        yield from batches(1)

    assert client.load("m", slow()).rows == 120
    np.testing.assert_array_equal(memory.gather(range(4)).keys_BD, rows(4, 7))
    client.mark("m")


def test_a_load_that_is_refused_or_lost_is_taken_back(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    memory = client.create("m", CONFIG)
    memory.append(rows(5), rows(5, 1, 2), records={"n": [-1] * 5})

    def bad() -> Iterator[pa.RecordBatch]:
        yield from batches(3)
        yield pa.record_batch({"key": [[1.0, 2.0, 3.0]], "n": [1]})

    with pytest.raises(InvalidArgument):
        client.load("m", bad())
    assert memory.describe().rows == 5
    assert not noted(servers)
    # Part 0 ends in the middle, as by a crash: what it noted is what is taken back.
    held: Any = servers.held("m")[0]
    loads = servers.servers[0]._spreading._loads  # type: ignore[union-attr]
    load = loads_begun(loads, 3)
    assert memory.describe().rows == 125
    assert noted(servers)["m"][1] == held.next_slot - 120 == load._first
    servers.close()
    again = Servers(tmp_path / "servers", COUNT)
    try:
        with memstore.connect(again.servers[1].address, deadline_s=120.0) as other:
            memory = other.memory("m")
            while noted(again):
                threading.Event().wait(0.05)
            assert memory.describe().rows == 5
            new = memory.append(rows(1), rows(1, 1, 2), records={"n": [0]})
            assert new.tolist() == [held.next_slot]
    finally:
        again.close()


def loads_begun(loads: Any, count: int) -> SpreadLoad:
    """A load that is begun, and left."""
    load = SpreadLoad(loads, pb.LoadRequest(memory="m"), Deadline(30))
    load.begin()
    for batch in batches(count):
        table = fit(pa.Table.from_batches([batch]), CONFIG).cast(columns.schema_of(CONFIG))
        load.put(columns.to_batch(table), Deadline(30))
    return load


def test_loads_are_of_part_0_and_of_memories_without_a_capacity(
    servers: Servers, client: Client
) -> None:
    client.create("m", dataclasses.replace(CONFIG, capacity=10))
    with pytest.raises(Unsupported):
        client.load("m", batches(1))
    spreading: Any = servers.servers[1]._spreading
    with pytest.raises(ShardElsewhere):
        SpreadLoad(spreading._loads, pb.LoadRequest(memory="m"), Deadline(30))


def test_a_load_is_not_begun_behind_its_time(servers: Servers, client: Client) -> None:
    client.create("m", CONFIG)
    spreading: Any = servers.servers[0]._spreading
    load = SpreadLoad(spreading._loads, pb.LoadRequest(memory="m"), Deadline(0.2))
    held_up = pytest.raises(DeadlineExceeded, match="cuts and other memories")
    with ThreadPoolExecutor(1) as pool, spreading.own.making, held_up:  # as while a cut is made
        pool.submit(load.begin).result(timeout=30)
    assert client.load("m", batches(1)).rows > 0


def test_the_end_of_a_load_waits_no_longer_than_its_call(servers: Servers, client: Client) -> None:
    memory = client.create("m", CONFIG)
    spreading: Any = servers.servers[0]._spreading
    load = loads_begun(spreading._loads, 1)
    load._deadline = Deadline(0.2)
    held_up = pytest.raises(DeadlineExceeded, match="other cuts")
    with ThreadPoolExecutor(1) as pool, spreading.own.making, held_up:
        pool.submit(load.end, load._rows).result(timeout=30)
    load.give_up(DeadlineExceeded("as its caller is told"))
    assert memory.describe().rows == 0


def test_encoded_memories_are_loaded(servers: Servers, client: Client) -> None:
    encoding = EncodingConfig(key={"a": "words", "b": "words"})
    client.create("words", MemoryConfig(dim=WIDTH, index="none", shards=4)).append(rows(30))
    config = MemoryConfig(
        dim=WIDTH, shards=4, records={"a": "int64", "b": "int64"}, encoding=encoding
    )
    facts = client.create("facts", config)
    table = pa.table({"a": [*range(25)], "b": [29] * 25})
    assert client.load("facts", table).rows == 25
    np.testing.assert_array_equal(facts.gather(range(25)).keys_BD, rows(30)[:25] + rows(30)[29])
