"""A topology that changes, or is wrong: no part is taken for another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import memstore
from memstore.errors import InvalidArgument, ShardElsewhere
from memstore.placement import Part
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from memstore.rpc.topology import Route, Topology
from tests.congruence.spread import Servers
from tests.rpc.spread.moving import CONFIG, EXACT, rows


def test_of_fewer_servers_than_there_were_no_part_is_taken_for_another(
    tmp_path: Path, servers: Servers
) -> None:
    fewer = Servers(tmp_path / "fewer", 2)
    with memstore.connect(servers.servers[0].address) as client:
        client.create("m", CONFIG).append(rows(10))
    with memstore.connect(servers.servers[0].address, deadline_s=1.0) as client:
        memory = client.memory("m")
        client.take(Topology(9, fewer.topology.servers, servers.stores[0].cluster))
        for slots in ([0, 1, 2], [2]):
            with pytest.raises(ShardElsewhere):
                memory.gather(slots)
    fewer.close()


def test_a_server_answers_for_its_own_part_alone(servers: Servers) -> None:
    """A topology that is wrong is found out: nobody's rows are taken for another's."""
    with memstore.connect(servers.servers[0].address) as client:
        memory = client.create("m", CONFIG)
        memory.append(rows(20))
        memory.search(rows(1), 5, EXACT)
    with memstore.connect(servers.servers[0].address, deadline_s=1.0) as client:
        memory = client.memory("m")
        addresses = servers.topology.servers
        wrong = Topology(2, (addresses[0], addresses[2], addresses[1]))
        client._topology = wrong
        client._ways.learn(wrong.servers)
        with pytest.raises(ShardElsewhere, match="holds other shards"):
            memory.search(rows(1), 5, EXACT)
        with pytest.raises(ShardElsewhere):
            memory.erase(range(20))
        right = Topology(3, addresses)
        for server in servers.servers:
            server.route(right)
        assert memory.search(rows(1), 5, EXACT).counts_Q.tolist() == [5]
    with pytest.raises(InvalidArgument, match="another number of parts"):
        servers.servers[0].route(Topology(9, addresses[:2]))


def test_a_topology_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "topology.json"
    route = Route(Part(0, 2), path)

    def write(version: int, *servers: str) -> None:
        path.write_text(json.dumps({"version": version, "servers": servers}))

    write(1, "a:1", "b:2")
    assert route.now.servers == ("a:1", "b:2")
    write(2, "a:1", "b:33")
    assert route.now == Topology(2, ("a:1", "b:33"))
    for wrong in ("{", '{"version": 3}', '{"version": 3, "servers": ["a:1"]}', ""):
        path.write_text(wrong)
        assert route.now.version == 2
    write(1, "c:1", "d:2")
    assert route.now.version == 2
    path.unlink()
    assert route.now.version == 2
    path.write_text("[]")
    with pytest.raises(InvalidArgument, match="holds no topology"):
        Route(Part(0, 2), path)


def test_a_server_of_whole_memories_has_no_others(client: Client, tmp_path: Path) -> None:
    with memstore.open(tmp_path / "whole") as store, Server(store) as server:
        with memstore.connect(server.address) as other:
            memory = other.create("m", CONFIG)
            memory.append(rows(4))
            assert other._topology is None
        with pytest.raises(InvalidArgument, match="whole memories"):
            server.route(Topology(1, ("a:1", "b:2")))
