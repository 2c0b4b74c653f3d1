"""Rows in bulk of memories that lie on several servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig
from memstore.cli import main
from memstore.errors import InvalidArgument, UnknownMemory, UnknownSlot
from memstore.memory import Array
from memstore.rpc import spread_export
from memstore.rpc.client import Client
from memstore.rpc.server import Server
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
    with memstore.connect(servers.servers[request.param].address, deadline_s=30.0) as client:
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
