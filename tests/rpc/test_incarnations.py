"""Memories of one name, one after the other: what is late changes no other than its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, RequestId, SearchOptions
from memstore.errors import RequestTooOld, UnknownMemory
from memstore.memory import Array, Memory
from memstore.placement import Part
from memstore.rpc import codec
from memstore.rpc.administration import StoreRequests
from memstore.rpc.calls import Request
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from memstore.rpc.topology import Topology
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import SPREAD_SERVICE
from tests.congruence.spread import Servers

WIDTH, COUNT = 3, 3
CONFIG = MemoryConfig(dim=WIDTH, shards=6, index="exact", optimizer="sgd")
EXACT = SearchOptions(exact=True)


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-9, 10, (count, WIDTH)).astype(np.float32)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path, COUNT)
    yield made
    made.close()


@pytest.fixture(params=[True, False], ids=["fan out", "forward"])
def client(servers: Servers, request: Any) -> Iterator[Client]:
    address, fan_out = servers.servers[1].address, request.param
    with memstore.connect(address, fan_out=fan_out, deadline_s=120.0) as client:
        yield client


def tell(servers: Servers, number: int, verb: str, message: Any) -> Any:
    """Sends what a server would send to a part, as it would come late."""
    message.part.CopyFrom(pb.Part(number=number, of=COUNT))
    with memstore.connect(servers.servers[number].address) as client:
        return client.send(Request(SPREAD_SERVICE, verb, message, lambda reply: reply))


def make(servers: Servers, number: int, name: str, turn: int) -> Any:
    asked = pb.MakeRequest(memory=name, config=codec.to_config(CONFIG), turn=turn)
    return tell(servers, number, "make", asked)


def unmake(servers: Servers, number: int, name: str, turn: int) -> Any:
    return tell(servers, number, "unmake", pb.UnmakeRequest(memory=name, turn=turn))


def is_whole(memory: Memory, count: int) -> None:
    """Whether rows that were appended to a memory are there as they were."""
    np.testing.assert_array_equal(memory.gather(range(count)).keys_BD, rows(count))
    assert memory.search(rows(2, 1), count, EXACT).counts_Q.tolist() == [count, count]


def test_a_memory_has_one_number_in_all_parts_which_stays(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    client.create("a", CONFIG)
    client.create("one", MemoryConfig(dim=WIDTH, index="exact"))
    client.drop("a")
    client.create("a", CONFIG).append(rows(12))
    assert [held.made for held in servers.held("a")] == [4] * COUNT
    assert [held.made for held in servers.held("one")] == [2]
    # A part that has nothing of a memory knows of its making all the same.
    assert [store.turn for store in servers.stores] == [4] * COUNT
    for number in range(COUNT):
        servers.servers[number].close()
        servers.stores[number].close()
        again = memstore.open(tmp_path / str(number), part=Part(number, COUNT))
        servers.stores[number], servers.servers[number] = again, Server(again).start()
        assert again.turn == 4
    assert [held.made for held in servers.held("a")] == [4] * COUNT
    addresses = tuple(server.address for server in servers.servers)
    for server in servers.servers:
        server.route(Topology(2, addresses))
    with memstore.connect(addresses[0]) as other:
        is_whole(other.memory("a"), 12)
        other.create("b", CONFIG)
    assert [held.made for held in servers.held("b")] == [5] * COUNT


def test_a_make_that_comes_again_or_late_takes_nothing_away(
    servers: Servers, client: Client
) -> None:
    memory = client.create("m", CONFIG)
    memory.append(rows(12))
    # Again, behind what was appended since.
    make(servers, 2, "m", 1)
    is_whole(memory, 12)
    client.drop("m")
    # Late: there is none, and none comes back.
    with pytest.raises(RequestTooOld, match="number 1 of part 0"):
        make(servers, 2, "m", 1)
    assert servers.stores[2].list() == []
    memory = client.create("m", CONFIG)
    memory.append(rows(12))
    for turn in (1, 2):
        with pytest.raises(RequestTooOld):
            make(servers, 2, "m", turn)
    is_whole(memory, 12)
    # What was never made everywhere gives way to the next.
    make(servers, 2, "n", 9)
    servers.stores[0].note_turn(8)
    with pytest.raises(RequestTooOld):
        make(servers, 2, "n", 8)
    client.create("n", CONFIG).append(rows(12))
    is_whole(client.memory("n"), 12)


def test_a_drop_that_comes_again_or_late_takes_nothing_away(
    servers: Servers, client: Client
) -> None:
    client.create("m", CONFIG)
    client.drop("m")
    memory = client.create("m", CONFIG)
    memory.append(rows(12))
    for turn in (1, 2):
        with pytest.raises(RequestTooOld, match="made or dropped since"):
            unmake(servers, 2, "m", turn)
    # One that is for the former memory, from a client or a server.
    late = StoreRequests().drop("m", made=1)
    with pytest.raises(UnknownMemory, match="another was made under its name"):
        client.send(late)
    lead = pb.LeadRequest(part=pb.Part(number=0, of=COUNT), drop=late.message)
    with pytest.raises(UnknownMemory, match="another was made under its name"):
        client._ways.to(servers.servers[0].address).sent(SPREAD_SERVICE, "lead", lead, 20.0)
    is_whole(memory, 12)
    assert unmake(servers, 2, "m", 4).done
    assert not unmake(servers, 2, "m", 4).done


def test_a_mutation_of_the_former_memory_changes_not_the_new_one(
    servers: Servers, client: Client
) -> None:
    former = client.create("m", CONFIG)
    former.append(rows(12, 7))
    with client.session() as session:
        streamed = session.memory("m")
        client.drop("m")
        ones = np.ones((12, WIDTH), np.float32)
        memory = client.create("m", CONFIG)
        memory.append(rows(12))
        for old in (former, streamed):
            for refused in (
                lambda m: m.append(rows(3)),
                lambda m: m.write(range(12), ones),
                lambda m: m.write([1], ones[:1]),
                lambda m: m.update(range(12), ones, lr=1.0),
                lambda m: m.blend(range(12), np.ones(12), ones, ones),
                lambda m: m.touch(range(12), 3),
                lambda m: m.allocate(2),
                lambda m: m.erase(range(12)),
                lambda m: m.append(rows(3), request_id=RequestId("tests", 1)),
            ):
                with pytest.raises(UnknownMemory, match="another was made under its name"):
                    refused(old)
    if client._fan_out:
        for read in (
            lambda: former.search(rows(1), 3, EXACT),
            lambda: former.gather([1, 2]),
            lambda: former.describe(),
            lambda: former.reindex(),
        ):
            with pytest.raises(UnknownMemory, match="another was made under its name"):
                read()
    is_whole(memory, 12)
    assert memory.describe().next_slot == 12


def test_a_call_under_way_ends_with_the_memory_that_it_was_for(
    servers: Servers, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its parts' preparing and applying, the memory is dropped and made anew."""
    from memstore.spread.memory import SpreadMemory

    memory = client.create("m", CONFIG)
    memory.append(rows(12, 7))
    other = memstore.connect(servers.servers[0].address)
    apply, once = SpreadMemory._apply, [1]

    def later(self: Any, *args: Any, **kwargs: Any) -> Any:
        if once:
            once.pop()
            other.drop("m")
            other.create("m", CONFIG).append(rows(12))
        return apply(self, *args, **kwargs)

    monkeypatch.setattr(SpreadMemory, "_apply", later)
    with pytest.raises(UnknownMemory):
        memory.update(range(12), np.ones((12, WIDTH), np.float32), lr=1.0)
    monkeypatch.undo()
    is_whole(other.memory("m"), 12)
    other.close()


def test_what_is_restored_is_another_memory(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    former = client.create("m", CONFIG)
    former.append(rows(12))
    uri = str(tmp_path / "snapshots")
    taken = client.snapshot(uri)
    client.drop("m")
    assert client.restore(uri) == ["m"]
    memory = client.memory("m")
    is_whole(memory, 12)
    assert [held.made for held in servers.held("m")] == [3] * COUNT
    with pytest.raises(UnknownMemory, match="another was made under its name"):
        former.erase(range(12))
    memory.append(rows(1))
    for turn in (2, 3):
        late = pb.FetchRequest(uri=uri, number=taken.number, turn=turn)
        with pytest.raises(RequestTooOld):
            tell(servers, 2, "fetch", late)
    assert memory.gather([12]).generations_B.tolist() == [0]


def test_memories_from_before_there_were_numbers_go_on(servers: Servers, client: Client) -> None:
    for store in servers.stores:
        store.create("old", CONFIG)
    old = client.memory("old")
    old.append(rows(12))
    is_whole(old, 12)
    client.drop("old")
    assert [store.list() for store in servers.stores] == [[]] * COUNT
    client.create("old", CONFIG).append(rows(12))
    is_whole(client.memory("old"), 12)
