"""Into servers, one or several, comes what comes into a store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import MemoryConfig
from memstore.errors import Unreachable, Unsupported
from memstore.rpc import columns
from memstore.rpc.client import Client
from memstore.rpc.loading import Load
from memstore.rpc.server import Server
from tests.congruence.spread import Servers
from tests.ingest.made import MEMORIES, SMALL, contents, facts, write_tsv
from workers.ingest import Layout, ingest, rows, targets


def served(client: Client) -> dict[str, tuple[bytes, pa.Table]]:
    """As `contents`, of the memories of servers."""
    found = {}
    for name in MEMORIES:
        memory = client.memory(name)
        slots = np.arange(memory.describe().next_slot)
        got = memory.gather(slots, columns=list(memory.config.records))
        assert got.keys_BD is not None
        assert got.records is not None
        found[name] = got.keys_BD.tobytes(), got.records
    return found


def test_into_a_server_window_by_window(tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(1_000))
    ingest([source], tmp_path / "embedded", layout=SMALL)
    with memstore.open(tmp_path / "store") as store, Server(store) as server:
        work = tmp_path / "work"
        report = ingest([source], server.address, layout=SMALL, work=work)
        with memstore.connect(server.address) as client:
            assert served(client) == contents(tmp_path / "embedded")
        assert ingest([source], server.address, layout=SMALL, work=work) == report


def test_into_several_servers_also_where_one_was_lost_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(dim=16, index="exact", window=300, shards=4)
    source = write_tsv(tmp_path / "facts.tsv", facts(1_000))
    ingest([source], tmp_path / "embedded", layout=layout)
    servers = Servers(tmp_path / "parts", 2)
    try:
        address = servers.servers[0].address
        between, batches = rows.Rows.between, 0

        def breaking(self: rows.Rows, name: str, first: int, last: int) -> Any:
            nonlocal batches
            for batch in between(self, name, first, last):
                yield batch
                batches += 1
                if batches == 5:
                    raise Unreachable("the connection was cut")

        with monkeypatch.context() as patch:
            patch.setattr(rows.Rows, "between", breaking)
            patch.setattr(targets, "MOST_WAITS", 0)
            with pytest.raises(Unreachable):
                ingest([source], address, layout=layout, work=tmp_path / "work")
        ingest([source], address, layout=layout, work=tmp_path / "work")
        with memstore.connect(address) as client:
            assert served(client) == contents(tmp_path / "embedded")
    finally:
        servers.close()


def test_facts_without_keys_over_several_servers_are_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(10))
    servers = Servers(tmp_path / "parts", 2)
    try:
        address = servers.servers[0].address
        layout = Layout(dim=16, index="exact", shards=4, stored=False)
        with pytest.raises(Unsupported, match="several servers"):
            ingest([source], address, layout=layout, work=tmp_path / "work")
        ingest([source], address, layout=replace(layout, stored=True), work=tmp_path / "work")
    finally:
        servers.close()


@pytest.mark.parametrize("count", [1, 2])
def test_rows_that_are_taken_back_are_not_gone_on_behind(tmp_path: Path, count: int) -> None:
    """As where an ingest was killed, and begun again at once."""
    sent, cut = threading.Event(), threading.Event()
    config = MemoryConfig(dim=4, shards=2, index="none")
    table = columns.table_of(np.ones((10, 4), np.float32), None, None)

    def pending() -> Iterator[pa.Table]:
        yield table
        sent.set()
        cut.wait()
        raise Unreachable("the connection was cut")

    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        stack.callback(cut.set)
        if count == 1:
            store = stack.enter_context(memstore.open(tmp_path / "store"))
            address = stack.enter_context(Server(store)).address
        else:
            servers = Servers(tmp_path / "parts", count)
            stack.callback(servers.close)
            address = servers.servers[0].address
        client = stack.enter_context(memstore.connect(address))
        memory = client.create("entities", config)
        memory.append(np.ones((3, 4), np.float32))
        load = pool.submit(client.load, "entities", pending())
        assert sent.wait(30)
        while memory.describe().rows < 13:
            time.sleep(0.01)
        again = targets.target(address, "again")
        stack.callback(again.close)
        found = pool.submit(again.rows, "entities")
        cut.set()
        assert found.result(timeout=60) is None  # a hole, and not 13
        with pytest.raises(Unreachable):
            load.result(timeout=60)


def test_a_slow_server_slows_what_reads_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tsv(tmp_path / "facts.tsv", [(f"s{i:05}", "r", "o") for i in range(20_000)])
    handed = taken = ahead = 0
    between, put = rows.Rows.between, Load.put

    def counted(self: rows.Rows, name: str, first: int, last: int) -> Any:
        nonlocal handed, ahead
        for batch in between(self, name, first, last):
            if name == "entities":
                handed += len(batch[1])
                ahead = max(ahead, handed - taken)
            yield batch

    def slowly(self: Load, *arguments: Any) -> int:
        nonlocal taken
        time.sleep(0.1)
        taken += (count := put(self, *arguments))
        return count

    monkeypatch.setattr(rows.Rows, "between", counted)
    monkeypatch.setattr(Load, "put", slowly)
    layout = Layout(dim=512, index="none")  # 40 MB of entities
    with memstore.open(tmp_path / "store") as store, Server(store) as server:
        work = tmp_path / "work"
        budget = 32 << 20
        ingest([source], server.address, layout=layout, memory_bytes=budget, work=work)
    assert handed == 20_001
    # A batch that is being sent, and what gRPC holds of it: some megabytes.
    assert ahead < 14_000
