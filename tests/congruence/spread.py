"""A store over four servers: what a client sees of it, in place of the store itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import memstore
from memstore import Memory, MemoryConfig, Store
from memstore.placement import Part
from memstore.rpc.limits import Limits
from memstore.rpc.server import Server
from memstore.rpc.topology import Topology
from memstore.spread.held import HeldMemory
from tests.congruence.served import DEADLINE_S, driven

SERVERS = 4


class Servers:
    """Servers of all parts of the store in a folder, and who they are to each other."""

    def __init__(self, path: str | Path, count: int = SERVERS, limits: Limits = Limits()) -> None:
        self.stores: list[Store] = []
        self.servers: list[Server] = []
        for i in range(count):
            self.stores.append(memstore.open(Path(path) / str(i), part=Part(i, count)))
            self.servers.append(Server(self.stores[i], limits=limits).start())
        self.topology = Topology(1, tuple(server.address for server in self.servers))
        for server in self.servers:
            server.route(self.topology)

    def held(self, name: str) -> list[HeldMemory]:
        """What each part has of a memory, where it has something."""
        found: list[Any] = [s.memory(name) for s in self.stores if name in s.list()]
        return [getattr(memory, "base", memory) for memory in found]

    def close(self) -> None:
        for server in self.servers:
            server.close()
        for store in self.stores:
            store.close()


class Base:
    """What tests ask of an embedded memory beyond its verbs."""

    def __init__(self, parts: list[HeldMemory]) -> None:
        self._parts = parts

    def settle(self) -> None:
        for part in self._parts:
            part.settle()


class SpreadStore:
    """Asks each server for its own part."""

    fan_out = True

    def __init__(self, path: str | Path) -> None:
        self.servers = Servers(path)
        address = self.servers.servers[2].address
        self.client = memstore.connect(address, fan_out=self.fan_out, deadline_s=DEADLINE_S)

    def create(self, name: str, config: MemoryConfig) -> Memory:
        self.client.create(name, config)
        return self.memory(name)

    def memory(self, name: str) -> Memory:
        memory: Any = self.found(name)
        memory.base = Base(self.servers.held(name))
        return memory

    def found(self, name: str) -> Memory:
        return self.client.memory(name)

    def close(self) -> None:
        self.client.close()
        self.servers.close()


class ForwardedStore(SpreadStore):
    """Asks one server for all, which asks the others."""

    fan_out = False


class SpreadSessionStore(SpreadStore):
    """Asks one server for all over one stream."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.session = self.client.session()

    def found(self, name: str) -> Memory:
        return self.session.memory(name)

    def close(self) -> None:
        self.session.close()
        super().close()


class AsyncSpreadStore:
    """Awaits what threads ask each server for."""

    def __init__(self, path: str | Path) -> None:
        self.servers = Servers(path)
        self.runner = asyncio.Runner()
        address = self.servers.servers[2].address
        self.client = memstore.connect_async(address, deadline_s=DEADLINE_S)

    def create(self, name: str, config: MemoryConfig) -> Memory:
        self.runner.run(self.client.create(name, config))
        return self.memory(name)

    def memory(self, name: str) -> Memory:
        found = self.runner.run(self.client.memory(name))
        return driven(self.runner, found, Base(self.servers.held(name)))

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()
        self.servers.close()
