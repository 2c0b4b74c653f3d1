"""Who is who among servers of parts: strangers, and copies of a part, change nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import MemoryConfig, RequestId, SearchOptions, Store
from memstore.durable.openings import KEPT, Openings
from memstore.errors import (
    DeadlineExceeded,
    ForeignPart,
    InvalidArgument,
    Unreachable,
    WrongPart,
)
from memstore.memory import Array
from memstore.placement import Part
from memstore.rpc import attempts, membership
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from memstore.rpc.target import Target
from memstore.rpc.topology import Topology
from tests.congruence.spread import Servers

WIDTH = 3
CONFIG = MemoryConfig(dim=WIDTH, shards=4, index="exact", optimizer="sgd")
EXACT = SearchOptions(exact=True)
COUNT = 2


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-9, 10, (count, WIDTH)).astype(np.float32)


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[tuple[Servers, Servers]]:
    """Two clusters of as many parts, each with a memory of the same name."""
    made = Servers(tmp_path / "ours", COUNT), Servers(tmp_path / "theirs", COUNT)
    for number, servers in enumerate(made):
        with memstore.connect(servers.servers[0].address) as client:
            client.create("m", CONFIG).append(rows(8, number))
    yield made
    for servers in made:
        servers.close()


def reroute(servers: Servers, *addresses: str) -> None:
    """Tells all of them that the parts are there."""
    servers.topology = Topology(servers.topology.version + 1, addresses)
    for server in servers.servers:
        server.route(servers.topology)


def test_a_cluster_has_one_id_which_its_parts_keep(tmp_path: Path) -> None:
    servers = Servers(tmp_path, 3)
    own = servers.stores[0].cluster
    assert len(own) == 16
    assert [store.cluster for store in servers.stores[1:]] == ["", ""]
    with memstore.connect(servers.servers[2].address) as client:
        client.create("m", CONFIG)
        assert client._topology is not None
        assert client._topology.cluster == own
    assert [store.cluster for store in servers.stores] == [own] * 3
    servers.close()
    for number in range(3):
        with memstore.open(tmp_path / str(number), part=Part(number, 3)) as store:
            assert store.cluster == own
            assert store.openings.count == 2
            with pytest.raises(WrongPart, match="belongs to another cluster"):
                store.join("0123456789abcdef")
            store.join(own)
        with pytest.raises(WrongPart, match="belongs to another cluster"):
            memstore.open(tmp_path / str(number), part=Part(number, 3), cluster="0" * 16)
        with memstore.open(tmp_path / str(number), read_only=True) as store:
            assert (store.cluster, store.openings.count) == (own, 2)
    for wrong in ("", "x" * 16, 7):
        part: Any = {"part": Part(1, 2), "cluster": wrong}
        with pytest.raises(InvalidArgument, match="not the id of a cluster"):
            memstore.open(tmp_path / "new", **part)
    with pytest.raises(InvalidArgument, match="opened to write"):
        memstore.open(tmp_path / "new", cluster="0" * 16)


def test_nothing_is_loaded_into_another_cluster(clusters: tuple[Servers, Servers]) -> None:
    ours, theirs = clusters
    table = pa.table({"key": [[1.0] * WIDTH] * 5})
    with memstore.connect(ours.servers[1].address) as client:
        assert client.memory("m").describe().next_slot == 8
        assert client.load("m", table).rows == 5
        addresses = [server.address for server in ours.servers]
        reroute(ours, theirs.servers[0].address, addresses[1])
        with pytest.raises(ForeignPart):
            client.load("m", table)
    assert [held.next_slot for held in theirs.held("m")] == [8] * COUNT


def test_a_part_that_was_told_no_cluster_waits_for_part_0(tmp_path: Path) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(memstore.open(tmp_path / "1", part=Part(1, 2)))
        server = stack.enter_context(Server(store))
        server.route(Topology(1, ("127.0.0.1:1", server.address)))
        with memstore.connect(server.address, deadline_s=1.0) as client, pytest.raises(Unreachable):
            client.list()
        assert store.cluster == ""
        # One that the topology tells it takes without part 0, once.
        server.route(Topology(2, ("127.0.0.1:1", server.address), "0" * 16))
        with memstore.connect(server.address, deadline_s=1.0) as client, pytest.raises(Unreachable):
            client.list()
        assert store.cluster == "0" * 16
        with pytest.raises(InvalidArgument, match="of another cluster"):
            server.route(Topology(3, ("127.0.0.1:1", server.address), "1" * 16))


def test_who_writes_the_topology_may_draw_the_id(tmp_path: Path) -> None:
    """As the registry of a cluster on Ray does, and a file for `memstore serve`."""
    own, path = "0123456789abcdef", tmp_path / "topology.json"
    with ExitStack() as stack:
        servers = []
        for number, cluster in enumerate((own, None)):
            part: Any = {"part": Part(number, 2), "cluster": cluster}
            store = stack.enter_context(memstore.open(tmp_path / str(number), **part))
            servers.append(stack.enter_context(Server(store, topology=path)))
        addresses = [server.address for server in servers]
        path.write_text(json.dumps({"version": 1, "servers": addresses, "cluster": own}))
        with memstore.connect(addresses[1]) as client:
            assert len(client.create("m", CONFIG).append(rows(8))) == 8
        assert {server._store.cluster for server in servers} == {own}


def test_a_topology_of_another_cluster_is_refused_when_a_server_is_made(tmp_path: Path) -> None:
    path = tmp_path / "topology.json"
    told = {"version": 1, "servers": ["a:1", "b:2"], "cluster": "0" * 16}
    path.write_text(json.dumps(told))
    with memstore.open(tmp_path / "0", part=Part(0, 2)) as store:
        with pytest.raises(InvalidArgument, match="of another cluster"):
            Server(store, topology=path)
        path.write_text(json.dumps(told | {"cluster": store.cluster}))
        Server(store, topology=path)
    path.write_text(json.dumps(told | {"cluster": 7}))
    with pytest.raises(InvalidArgument, match="holds no topology"):
        Topology.read(path)


@pytest.mark.parametrize("fan_out", [True, False], ids=["fan out", "forward"])
def test_another_clusters_server_of_a_part_is_refused_and_changed_by_nothing(
    clusters: tuple[Servers, Servers], fan_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "FOREIGN_S", 0.2)
    ours, theirs = clusters
    own, foreign = ours.servers[0].address, theirs.servers[1].address
    with memstore.connect(own, fan_out=fan_out, deadline_s=120.0) as client:
        memory = client.memory("m")
        assert memory.search(rows(1), 3, EXACT).counts_Q.tolist() == [3]
        before = [theirs.stores[1].memory("m").gather([1, 3]).keys_BD.tobytes()]  # type: ignore[union-attr]
        reroute(ours, own, foreign)
        if fan_out:
            client.take(Topology(ours.topology.version, (own, foreign), ours.stores[0].cluster))
        for refused in (
            lambda: memory.search(rows(1), 3, EXACT),
            lambda: memory.search(rows(1), 3, SearchOptions(exact=True, partial=True)),
            lambda: memory.gather([1]),
            lambda: memory.update(range(8), rows(8)),
            lambda: memory.erase([1, 3]),
            lambda: memory.append(rows(8)),
            lambda: client.create("n", CONFIG),
            lambda: client.drop("m"),
        ):
            with pytest.raises(ForeignPart, match="of another cluster: got a call for cluster"):
                refused()
        after = [theirs.stores[1].memory("m").gather([1, 3]).keys_BD.tobytes()]  # type: ignore[union-attr]
        assert before == after
        assert theirs.stores[1].list() == ["m"]


def test_a_client_that_knows_its_cluster_asks_no_other(
    clusters: tuple[Servers, Servers], tmp_path: Path
) -> None:
    """Also for what any server does, and a topology of strangers is none."""
    ours, theirs = clusters
    own, foreign = ours.servers[0].address, theirs.servers[0].address
    with memstore.connect(own, deadline_s=3.0) as client:
        memory = client.memory("m")
        known = client._topology
        assert known is not None
        client.take(Topology(99, theirs.topology.servers, theirs.stores[0].cluster))
        assert client._topology is known
        # What a stranger has by now at the address that a part had is passed over.
        client._ways.learn([foreign])
        client._ways.pass_over(client._ways.to(own), 1.0)
        assert client._ways.any().target.address == foreign
        assert len(memory.append(rows(1))) == 1
        assert theirs.stores[0].memory("m").describe().rows == 4
    with memstore.open(tmp_path / "whole") as store, Server(store) as server:
        store.create("m", CONFIG)
        with memstore.connect(own, deadline_s=1.0) as client:
            memory = client.memory("m")
            client._ways._told = []
            client._ways.learn([server.address])
            with pytest.raises(ForeignPart, match="holds whole memories"):
                memory.append(rows(1))
            with client.session() as session, pytest.raises(DeadlineExceeded):
                session.memory("m").append(rows(1))
            assert store.memory("m").describe().rows == 0


@pytest.mark.parametrize("fan_out", [True, False], ids=["fan out", "forward"])
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "asyncio"])
def test_whoever_asks_says_whose_server_it_asks_for(
    clusters: tuple[Servers, Servers], monkeypatch: pytest.MonkeyPatch, sync: bool, fan_out: bool
) -> None:
    """Sessions and exports too, which are the first that they ask for."""
    ours = clusters[0]
    seen: list[str] = []
    real = membership.check

    def check(store: Store, metadata: Any) -> None:
        seen.append(membership.told(metadata, membership.CLUSTER))
        real(store, metadata)

    monkeypatch.setattr(membership, "check", check)
    own, address = ours.stores[0].cluster, ours.servers[0].address

    def assert_told() -> None:
        """By all that was asked but what asked for the topology, first."""
        assert seen[0] == ""
        assert {*seen[1:]} == {own}
        seen.clear()

    def ask() -> None:
        with memstore.connect(address, fan_out=fan_out) as client, client.session() as session:
            assert session.memory("m").describe().rows == 8
        assert_told()
        with memstore.connect(address, fan_out=fan_out) as client:
            assert sum(len(batch) for batch in client.export("m")) == 8

    async def ask_async() -> None:
        to = memstore.connect_async(address, fan_out=fan_out)
        async with to as client, client.session() as session:
            assert (await (await session.memory("m")).describe()).rows == 8
        assert_told()
        async with memstore.connect_async(address, fan_out=fan_out) as client:
            assert sum([len(batch) async for batch in client.export("m")]) == 8

    ask() if sync else asyncio.run(ask_async())
    assert_told()


def test_an_asyncio_client_that_knows_its_cluster_asks_no_other(
    clusters: tuple[Servers, Servers], tmp_path: Path
) -> None:
    with memstore.open(tmp_path / "whole") as store, Server(store) as server:
        store.create("m", CONFIG)

        async def ask() -> None:
            own = clusters[0].servers[0].address
            async with memstore.connect_async(own, fan_out=False, deadline_s=1.0) as client:
                memory = await client.memory("m")
                assert len(await memory.append(rows(1))) == 1
                # What a stranger has by now at that address.
                client._targets, client._channels = (Target(server.address),), {}
                with pytest.raises(ForeignPart, match="holds whole memories"):
                    await memory.append(rows(1))
                with pytest.raises(ForeignPart):
                    await anext(client.export("m"))

        asyncio.run(ask())
        assert store.memory("m").describe().rows == 0


def copied(part: Servers, tmp_path: Path, number: int) -> Store:
    """A copy of a part's folder, opened beside it; the part is ended for the copying alone."""
    part.servers[number].close(0)
    part.stores[number].close()
    shutil.copytree(tmp_path / str(number), tmp_path / "copy")
    again(part, tmp_path, number)
    return memstore.open(tmp_path / "copy", part=Part(number, len(part.stores)))


def again(part: Servers, tmp_path: Path, number: int) -> None:
    """Opens a part again, and tells all where."""
    store = memstore.open(tmp_path / str(number), part=Part(number, len(part.stores)))
    part.stores[number], part.servers[number] = store, Server(store).start()
    reroute(part, *(server.address for server in part.servers))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[tuple[Servers, Client]]:
    servers = Servers(tmp_path, COUNT)
    with memstore.connect(servers.servers[0].address, deadline_s=10.0) as client:
        client.create("m", CONFIG).append(rows(8))
        yield servers, client
    servers.close()


def test_a_copy_of_a_part_is_refused_by_whoever_knows_the_other(
    tmp_path: Path, client: tuple[Servers, Client]
) -> None:
    servers, asking = client
    memory = asking.memory("m")
    copy = copied(servers, tmp_path, 1)
    with copy, Server(copy) as server:
        ones = np.ones((8, WIDTH), np.float32)
        assert memory.update(range(8), ones, lr=1.0).applied == 8
        lead, real = (server.address for server in servers.servers)
        with memstore.connect(lead, fan_out=False) as handing:
            handed = handing.memory("m")
            assert handed.touch(range(8), 1).applied == 8
            reroute(servers, lead, server.address)
            server.route(servers.topology)
            asking._renew(asking._known(), 10.0)
            # Clients and servers that the part has answered are not taken in by its copy.
            for each in (memory, handed):
                with pytest.raises(ForeignPart, match="a copy of this part's folder"):
                    each.update(range(8), ones, lr=1.0)
        kept = copy.memory("m").gather([1, 3]).keys_BD
        np.testing.assert_array_equal(kept, rows(8)[[1, 3]])
        # Who has seen neither goes by the address that it is told.
        with memstore.connect(lead) as other:
            assert other.memory("m").gather([1]).generations_B.tolist() == [0]
        reroute(servers, lead, real)
        asking._renew(asking._known(), 10.0)
        assert memory.update(range(8), ones, lr=1.0).applied == 8


def test_a_part_that_is_opened_again_is_the_part(
    tmp_path: Path, client: tuple[Servers, Client]
) -> None:
    servers, asking = client
    memory = asking.memory("m")
    for number in (0, 1, 1):
        memory.touch(range(8), number)
        servers.servers[number].close(0)
        servers.stores[number].close()
        again(servers, tmp_path, number)
        request = RequestId("tests", servers.topology.version)
        assert memory.touch(range(8), number, request_id=request).applied == 8
    assert servers.stores[1].openings.count == 3


def test_a_part_without_an_id_of_a_cluster_gets_one_as_it_is(tmp_path: Path) -> None:
    """As one that was made before there were any."""
    from memstore.durable import manifest

    for number in range(COUNT):
        with memstore.open(tmp_path / str(number), part=Part(number, COUNT)) as store:
            store.create("m", CONFIG)
        path = tmp_path / str(number) / manifest.NAME
        body = manifest.read(path)
        for fact in manifest.FACTS:
            body.pop(fact, None)
        manifest.write(path, body)
    servers = Servers(tmp_path, COUNT)
    with memstore.connect(servers.servers[1].address) as client:
        assert len(client.memory("m").append(rows(8))) == 8
    assert servers.stores[1].cluster == servers.stores[0].cluster != ""
    assert servers.stores[1].openings.count == 1
    servers.close()


def test_openings_are_known_as_long_as_they_are_kept() -> None:
    openings, told = Openings(), []
    for _ in range(KEPT + 3):
        openings = openings.another()
        told.append(openings.newest)
    assert Openings.of(json.loads(json.dumps(openings.kept))) == openings
    assert all(openings.has(each) for each in told)
    assert not openings.has(openings.another().newest)
    number, drawn = told[-2].split("-")
    other = "0" * 8 if drawn != "0" * 8 else "1" * 8
    assert not openings.has(f"{number}-{other}")
    assert openings.has(f"3-{other}"), "long ago"
    for wrong in ("", "x", "0-01234567", "5", f"{number}-{drawn}0", "5-x1234567"):
        with pytest.raises(InvalidArgument):
            openings.has(wrong)
