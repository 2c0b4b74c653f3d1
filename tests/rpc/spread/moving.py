"""Memories on three servers, and servers that end and begin anew elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import memstore
from memstore import MemoryConfig, SearchOptions
from memstore.memory import Array
from memstore.placement import Part
from memstore.rpc.server import Server
from memstore.rpc.topology import Topology
from tests.congruence.spread import Servers

WIDTH = 3
CONFIG = MemoryConfig(dim=WIDTH, shards=5, index="exact", optimizer="sgd")
EXACT = SearchOptions(exact=True)
COUNT = 3


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-9, 10, (count, WIDTH)).astype(np.float32)


def down(servers: Servers, number: int) -> None:
    """Ends a server and its store; nobody tells the others."""
    servers.servers[number].close(0)
    servers.stores[number].close()


def again(servers: Servers, tmp_path: Path, number: int) -> None:
    """Opens the store anew behind a server at another address, and tells those that go on."""
    store = memstore.open(tmp_path / str(number), part=Part(number, COUNT))
    server = Server(store).start()
    servers.stores[number], servers.servers[number] = store, server
    addresses = [each.address for each in servers.servers]
    servers.topology = Topology(servers.topology.version + 1, tuple(addresses))
    for each in servers.servers:
        each.route(servers.topology)
