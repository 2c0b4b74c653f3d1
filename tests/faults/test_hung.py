"""A server that hangs, as by SIGSTOP: it costs callers its shards, and not their time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, SearchOptions
from memstore.errors import DeadlineExceeded, ShardUnavailable, Unreachable
from memstore.placement import Part
from memstore.rpc import target
from memstore.rpc.server import Server
from tests.faults.lives import together
from tests.faults.processes import Cluster, Process

WIDTH, SERVERS, HUNG = 4, 3, 2
CONFIG = MemoryConfig(dim=WIDTH, shards=6, index="exact", optimizer="sgd")
PARTIAL = SearchOptions(exact=True, partial=True)
QUERIES = np.ones((2, WIDTH), np.float32)

LONG_S = 240.0
"""A deadline of which a part tells that nobody waited for the end of it, on any machine."""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("hung"), SERVERS)
    try:
        with memstore.connect(made.addresses[0], deadline_s=LONG_S) as client:
            memory = client.create("m", CONFIG)
            keys_BD = np.arange(24 * WIDTH, dtype=np.float32).reshape(24, WIDTH)
            # What is called first compiles kernels, for which hasty callers have no time.
            memory.update(memory.append(keys_BD), np.zeros_like(keys_BD))
            assert memory.search(QUERIES, 24, PARTIAL).missing_shards == ()
        yield made
    finally:
        made.close()


@pytest.fixture
def cluster(started: Cluster) -> Cluster:
    """Servers all of which are there, for each of the others, whatever stopped before."""
    started.go_on(HUNG)
    for address in (started.addresses[0], started.addresses[1]):
        with memstore.connect(address, fan_out=False, deadline_s=LONG_S) as client:
            while client.memory("m").search(QUERIES, 24, PARTIAL).missing_shards:
                time.sleep(0.05)
    return started


@pytest.mark.parametrize("fan_out", [True, False], ids=["fan out", "forward"])
def test_what_may_be_left_out_is_left_out_long_before_the_deadline(
    cluster: Cluster, fan_out: bool
) -> None:
    address = cluster.addresses[1]
    with memstore.connect(address, fan_out=fan_out, deadline_s=LONG_S) as client:
        memory = client.memory("m")
        assert memory.search(QUERIES, 24, PARTIAL).missing_shards == ()
        cluster.stop(HUNG)
        begun = time.monotonic()
        for _ in range(3):
            found = memory.search(QUERIES, 24, PARTIAL)
            assert found.missing_shards == (2, 5)
            assert found.counts_Q.tolist() == [16, 16]
            mine = [slot for slot in range(24) if slot % 3 != HUNG]
            assert memory.touch(mine, 1).applied == 16
        assert time.monotonic() - begun < LONG_S / 4
        cluster.go_on(HUNG)
        while memory.search(QUERIES, 24, PARTIAL).missing_shards:
            time.sleep(0.05)
        assert memory.search(QUERIES, 24).counts_Q.tolist() == [24, 24]


@pytest.mark.parametrize("fan_out", [True, False], ids=["fan out", "forward"])
def test_calls_that_wait_for_it_leave_others_their_threads(cluster: Cluster, fan_out: bool) -> None:
    """More of them than a server has threads for calls that ask others."""
    address = cluster.addresses[1]
    with memstore.connect(address, fan_out=fan_out, deadline_s=LONG_S) as client:
        memory = client.memory("m")
        cluster.stop(HUNG)
        assert memory.search(QUERIES, 24, PARTIAL).missing_shards == (2, 5)
        mine = [slot for slot in range(24) if slot % 3 != HUNG]

        def wait() -> None:
            ends = time.monotonic() + LONG_S
            while True:
                try:
                    assert memory.search(QUERIES, 24).counts_Q.tolist() == [24, 24]
                    return
                except ShardUnavailable:  # at once, where too many wait already
                    assert time.monotonic() < ends
                    time.sleep(0.1)

        def others() -> None:
            begun = time.monotonic()
            try:
                time.sleep(3.0)
                for step in range(10):
                    assert memory.touch(mine, step).applied == 16
                assert memory.search(QUERIES, 24, PARTIAL).missing_shards == (2, 5)
                assert time.monotonic() - begun < LONG_S / 4
            finally:
                cluster.go_on(HUNG)

        together([others, *[wait] * 80])


@pytest.mark.parametrize("fan_out", [True, False], ids=["fan out", "forward"])
def test_what_needs_all_names_the_shards_by_the_deadline(cluster: Cluster, fan_out: bool) -> None:
    address = cluster.addresses[1]
    with memstore.connect(address, fan_out=fan_out, deadline_s=LONG_S) as client:
        client.memory("m").search(QUERIES, 3)
    cluster.stop(HUNG)
    try:
        with memstore.connect(address, fan_out=fan_out, deadline_s=3.0) as client:
            memory = client.memory("m")
            for refused in (
                lambda: memory.search(QUERIES, 3),
                lambda: memory.gather(range(24)),
                lambda: memory.update(range(24), np.ones((24, WIDTH))),
                lambda: memory.describe(),
            ):
                with pytest.raises(ShardUnavailable, match="shards 2, 5"):
                    refused()
            mine = [slot for slot in range(24) if slot % 3 != HUNG]
            assert memory.update(mine, np.ones((16, WIDTH))).applied == 16
    finally:
        cluster.go_on(HUNG)


def test_a_cut_does_not_wait_as_long_as_it_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a part that stops in the middle of one: each of these steps has an hour."""
    topology, step = tmp_path / "topology.json", ""
    other = Process(tmp_path, 1, 2, topology)
    with contextlib.ExitStack() as stack:
        stack.callback(other.kill)
        store = stack.enter_context(memstore.open(tmp_path / "0", part=Part(0, 2)))
        server = stack.enter_context(Server(store, topology=topology))
        servers = [server.address, other.address()]
        topology.write_text(json.dumps({"version": 1, "servers": servers}))
        client = stack.enter_context(memstore.connect(server.address))
        assert client.marks() == []
        # From here on: of the way from one server to the other.
        monkeypatch.setattr(target, "SILENT_S", 1.0)
        monkeypatch.setattr(target, "ANSWER_S", 0.5)
        spreading: Any = server._spreading
        once = spreading._once

        def stops(number: int, verb: str, asked: Any, deadline_s: float | None) -> Any:
            if asked.step == step:
                other.stop()
            return once(number, verb, asked, deadline_s)

        monkeypatch.setattr(spreading, "_once", stops)
        for step in ("written", "keep", "copy"):
            with pytest.raises(Unreachable):
                client.snapshot(str(tmp_path / "s")) if step == "copy" else client.mark("m")
            other.go_on()
            assert client.marks() == []
        step = ""
        client.mark("m")
        assert client.marks() == ["m"]


def test_the_next_call_asks_another_server(cluster: Cluster) -> None:
    """Of a client that has one server do all, which hangs."""
    addresses = ",".join([cluster.addresses[HUNG], cluster.addresses[1]])
    cluster.stop(HUNG)
    with memstore.connect(addresses, fan_out=False, deadline_s=3.0) as client:
        with pytest.raises(DeadlineExceeded):
            client.memory("m")
        assert client.list() == ["m"]
        assert client.memory("m").search(QUERIES, 24, PARTIAL).missing_shards == (2, 5)
    cluster.go_on(HUNG)
