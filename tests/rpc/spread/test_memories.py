"""Memories whose shards lie on several servers: who does what, and what is told."""

from __future__ import annotations

import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, RequestId, SearchOptions
from memstore.errors import (
    InvalidArgument,
    MemoryExists,
    RequestConflict,
    StoreClosed,
    UnknownMemory,
    UnknownSlot,
    Unsupported,
)
from memstore.rpc import codec
from memstore.rpc.client import Client
from memstore.rpc.limits import Limits
from memstore.rpc.spreading import Spreading
from memstore.rpc.target import Target
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import SPREAD_SERVICE
from tests.congruence.spread import Servers
from tests.rpc.spread.moving import CONFIG, COUNT, EXACT, WIDTH, rows


def test_every_server_tells_of_all(servers: Servers) -> None:
    for server in servers.servers:
        with memstore.connect(server.address) as client:
            assert client.list() == []
    with memstore.connect(servers.servers[0].address) as client:
        client.create("m", CONFIG)
    for number, server in enumerate(servers.servers):
        with memstore.connect(server.address) as client:
            assert client.list() == ["m"]
            memory = client.memory("m")
            assert memory.append(rows(2)).tolist() == [2 * number, 2 * number + 1]
            assert memory.describe().next_slot == 2 * number + 2
            assert len(memory.describe().shards) == CONFIG.shards


def test_memories_are_made_and_dropped_everywhere(servers: Servers, client: Client) -> None:
    client.create("m", CONFIG)
    client.create("one", MemoryConfig(dim=WIDTH, index="exact"))
    assert [store.list() for store in servers.stores] == [["m", "one"], ["m"], ["m"]]
    with pytest.raises(MemoryExists):
        client.create("m", CONFIG)
    with pytest.raises(InvalidArgument, match="not a memory name"):
        client.create("No!", CONFIG)
    assert client.memory("one").append(rows(4)).tolist() == [0, 1, 2, 3]
    client.memory("m").append(rows(10))
    client.drop("m")
    assert [store.list() for store in servers.stores] == [["one"], [], []]
    for verb in (client.drop, client.memory):
        with pytest.raises(UnknownMemory):
            verb("m")
    with pytest.raises(Unsupported):
        client.memory("one").refresh()


def test_what_was_half_made_is_made_anew_and_what_was_half_dropped_is_gone(
    servers: Servers, client: Client
) -> None:
    servers.stores[2].create("m", MemoryConfig(dim=7, shards=9))
    memory = client.create("m", CONFIG)
    memory.append(rows(20))
    servers.stores[0].drop("m")
    client.drop("m")
    assert [store.list() for store in servers.stores] == [[], [], []]


def test_mutations_that_are_refused_change_no_part(client: Client) -> None:
    memory = client.create("m", CONFIG)
    slots = memory.append(rows(20))
    memory.erase([7])
    before = memory.gather(slots[:7]).keys_BD
    many = [0, 1, 2, 3, 4, 5, 6, 7]
    for refused in (
        lambda: memory.write(many, rows(8)),
        lambda: memory.update(many, rows(8)),
        lambda: memory.erase(many),
        lambda: memory.touch(many, 3),
        lambda: memory.blend(many, [0.5] * 8, np.zeros((8, WIDTH)), rows(8)),
        lambda: memory.gather(many),
    ):
        with pytest.raises(UnknownSlot):
            refused()
    np.testing.assert_array_equal(memory.gather(slots[:7]).keys_BD, before)
    with pytest.raises(InvalidArgument, match="k is more than"):
        memory.search(rows(1), 1_000_000, EXACT)


def test_a_request_is_done_once_whichever_server_is_asked(servers: Servers) -> None:
    clients = [memstore.connect(server.address) for server in servers.servers]
    try:
        clients[0].create("m", CONFIG)
        memories = [client.memory("m") for client in clients]
        first = RequestId("tests", 1)
        slots = [memory.append(rows(9), request_id=first).tolist() for memory in memories]
        assert slots == [list(range(9))] * 3
        asked: Any = {"request_id": RequestId("tests", 2)}
        for memory in memories:
            assert memory.update(range(9), np.ones((9, WIDTH)), lr=1.0, **asked).applied == 9
        np.testing.assert_array_equal(memories[0].gather(range(9)).keys_BD, rows(9) - 1)
        for memory in memories:
            with pytest.raises(RequestConflict):
                memory.update(range(9), np.zeros((9, WIDTH)), lr=1.0, **asked)
            with pytest.raises(RequestConflict):
                memory.append(rows(8), request_id=first)
        asked = {"request_id": RequestId("tests", 3)}
        given = [memory.allocate(5, **asked).tolist() for memory in memories]
        assert given == [[0, 1, 2, 3, 4]] * 3
        assert memories[0].gather(range(6)).generations_B.tolist() == [1] * 5 + [0]
    finally:
        for client in clients:
            client.close()


def test_usage_and_capacity_are_of_all_parts(tmp_path: Path, client: Client) -> None:
    """As embedded, step by step."""
    config = MemoryConfig(dim=WIDTH, shards=5, index="exact", capacity=12)
    with memstore.open(tmp_path / "embedded") as store:
        twins = store.create("m", config), client.create("m", config)
        rng = np.random.default_rng(1)
        for step in range(1, 40):
            live = twins[0].search(np.zeros((1, WIDTH)), 12, EXACT).slots_QK[0]
            live = live[live >= 0]
            if step % 3 == 0 and len(live):
                picked = rng.choice(live, min(len(live), 5), replace=False)
                for memory in twins:
                    memory.touch(picked, step)
            elif step % 5 == 0 and len(live) > 3:
                given = [memory.allocate(3, step=step).tolist() for memory in twins]
                assert given[0] == given[1]
            else:
                count = int(rng.integers(1, 6))
                slots = [memory.append(rows(count, step), step=step).tolist() for memory in twins]
                assert slots[0] == slots[1]
            found = [memory.search(rows(4, step), 12, EXACT) for memory in twins]
            np.testing.assert_array_equal(found[0].slots_QK, found[1].slots_QK)
            np.testing.assert_array_equal(found[0].scores_QK, found[1].scores_QK)
        for refused in (lambda m: m.append(rows(13)), lambda m: m.allocate(13)):
            for memory in twins:
                with pytest.raises(InvalidArgument):
                    refused(memory)


def test_nothing_is_kept_of_what_was_dropped(servers: Servers, client: Client) -> None:
    client.create("m", CONFIG).append(rows(10))
    held = [weakref.ref(each) for each in servers.held("m")]
    client.drop("m")
    gc.collect()
    assert [each() for each in held] == [None] * COUNT


def test_of_a_memory_one_alone_chooses_the_least_used(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that ask for a memory first, and at once, get the same."""
    spread = Spreading._spread

    def slow(spreading: Spreading, *args: Any) -> Any:
        time.sleep(0.05)
        return spread(spreading, *args)

    monkeypatch.setattr(Spreading, "_spread", slow)
    with memstore.connect(servers.servers[0].address) as client:
        client.create("m", CONFIG)
    spreading = servers.servers[0]._spreading
    assert spreading is not None
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(spreading.memory, ["m"] * 4)]
    assert all(each is found[0] for each in found)


def test_long_calls_go_on_to_the_server_that_chooses(tmp_path: Path) -> None:
    limits = Limits(message_bytes=1 << 16)
    servers = Servers(tmp_path, 2, limits)
    keys = np.arange(3 * 8_000, dtype=np.float32).reshape(-1, 3)
    try:
        target = Target(servers.servers[1].address, message_bytes=limits.message_bytes)
        with Client(target) as client:
            config = MemoryConfig(
                dim=3, shards=2, index="exact", capacity=8_000, records={"t": "string"}
            )
            memory = client.create("m", config)
            slots = memory.append(keys, records={"t": ["x"] * len(keys)})
            np.testing.assert_array_equal(memory.gather(slots[::99]).keys_BD, keys[::99])
            told = {"t": ["y" * 99] * 2_000}
            assert len(memory.allocate(2_000, records=told)) == 2_000
    finally:
        servers.close()


def test_what_training_asks_of_a_part_is_checked_there(servers: Servers) -> None:
    """Who may read may ask it, and is told what is wrong; as much as a message has, and no more."""
    bad = np.full((1, WIDTH), np.nan, np.float32)
    one, slots = codec.to_tensor(rows(1)), codec.to_tensor(np.array([[1, 4]]))
    number = codec.to_options(SearchOptions(filter=memstore.field("no") > 3))
    with memstore.connect(servers.servers[0].address) as client:
        config = MemoryConfig(dim=WIDTH, shards=COUNT, index="clustered")
        client.create("m", config).append(rows(9))
        way = client._ways.to(servers.servers[1].address)

        def ask(question: str, **rest: Any) -> Any:
            asked = pb.WidenRequest(part=pb.Part(number=1, of=COUNT), memory="m", **rest)
            asked.question = question
            return way.sent(SPREAD_SERVICE, "widen", asked, 20.0)

        for wrong in (
            lambda: ask("sampled", queries=codec.to_tensor(bad), k=1),
            lambda: ask("sampled", queries=codec.to_tensor(rows(1)[:, :2]), k=1),
            lambda: ask("sampled", queries=one, k=0),
            lambda: ask("sampled", queries=codec.to_tensor(rows(4_096)), k=2**40),
            lambda: ask("scored", queries=codec.to_tensor(bad), slots=slots),
            lambda: ask("scored", queries=one, slots=one),
            lambda: ask("standing", slots=one),
            lambda: ask("standing", slots=codec.to_tensor(np.arange(3)), options=number),
            lambda: ask("other", queries=one, slots=slots),
        ):
            with pytest.raises(InvalidArgument):
                wrong()
        found = ask("scored", queries=codec.to_tensor(rows(1).astype(np.float64)), slots=slots)
        assert codec.to_array("slots", found.slots).tolist() == [[1, 4]]


def test_a_closed_client_says_so(servers: Servers) -> None:
    client = memstore.connect(servers.servers[0].address)
    memory = client.create("m", CONFIG)
    memory.append(rows(10))
    client.close()
    for call in (
        lambda: memory.search(rows(1), 3),
        lambda: memory.gather([0, 1, 2]),
        lambda: memory.write([0, 1, 2], rows(3)),
        lambda: memory.append(rows(3)),
    ):
        with pytest.raises(StoreClosed, match="was closed"):
            call()
