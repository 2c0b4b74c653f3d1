"""A store behind a server: what a client sees of it, in place of the store itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import memstore
from memstore import Memory, MemoryConfig
from memstore.rpc.async_client import AsyncClient, AsyncMemory
from memstore.rpc.calls import Calls
from memstore.rpc.client import Client
from memstore.rpc.remote import RemoteMemory
from memstore.rpc.server import Server
from memstore.rpc.target import Target

DEADLINE_S = 600.0
"""A first call may compile kernels, for many seconds where the machine is busy."""


class ServedStore:
    """Opens a store and a server of it, and connects; closes all three."""

    def __init__(self, path: str | Path) -> None:
        self.store = memstore.open(path)
        self.server = Server(self.store).start()
        self.client: Client = memstore.connect(self.server.address, deadline_s=DEADLINE_S)

    def create(self, name: str, config: MemoryConfig) -> Memory:
        self.client.create(name, config)
        return self.memory(name)

    def memory(self, name: str) -> Memory:
        remote = self.client.memory(name)
        assert isinstance(remote, RemoteMemory)
        return ServedMemory(self.client, remote, self.store.memory(name))

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self.store.close()


class ServedMemory(RemoteMemory):
    """A memory of a server that can be waited for, as an embedded one."""

    def __init__(self, calls: Calls, remote: RemoteMemory, embedded: Any) -> None:
        super().__init__(calls, remote.name, remote.config)
        self.base = getattr(embedded, "base", embedded)


@dataclass(frozen=True)
class Narrow(Target):
    """A server every call to which, but the shortest, is longer than a message may be."""

    message_bytes: int = 1_000
    deadline_s: float = DEADLINE_S

    def channel(self, kind: Any) -> Any:
        return Target(self.address).channel(kind)


class PiecesStore(ServedStore):
    """The same by calls that are cut and joined, and that go in pieces."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.client.close()
        self.client = Client(Narrow(self.server.address))


class SessionStore(ServedStore):
    """The same over one stream."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.session = self.client.session()

    def memory(self, name: str) -> Memory:
        remote = self.session.memory(name)
        return ServedMemory(self.session, remote, self.store.memory(name))

    def close(self) -> None:
        self.session.close()
        super().close()


class AsyncServedStore:
    """The same over the asyncio client, whose event loop runs while a verb is awaited."""

    def __init__(self, path: str | Path) -> None:
        self.store = memstore.open(path)
        self.server = Server(self.store).start()
        self.runner = asyncio.Runner()
        self.client = memstore.connect_async(self.server.address, deadline_s=DEADLINE_S)

    def create(self, name: str, config: MemoryConfig) -> Memory:
        self.runner.run(self.client.create(name, config))
        return self.memory(name)

    def memory(self, name: str) -> Memory:
        return driven(self.runner, self.awaited(name), self.store.memory(name))

    def awaited(self, name: str) -> AsyncMemory:
        return self.runner.run(self.client.memory(name))

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()
        self.server.close()
        self.store.close()


class AsyncPiecesStore(AsyncServedStore):
    """The same by calls that are cut and joined, and that go in pieces."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.client = AsyncClient(Narrow(self.server.address))


class AsyncSessionStore(AsyncServedStore):
    """The same over its one stream."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.session = self.client.session()

    def awaited(self, name: str) -> AsyncMemory:
        return self.runner.run(self.session.memory(name))

    def close(self) -> None:
        self.runner.run(self.session.close())
        super().close()


class Driven:
    """A memory whose verbs are awaited, as one whose verbs are called."""

    def __init__(self, runner: asyncio.Runner, memory: AsyncMemory, embedded: Any) -> None:
        self._runner, self._memory = runner, memory
        self.name, self.config = memory.name, memory.config
        self.base = getattr(embedded, "base", embedded)

    def __getattr__(self, verb: str) -> Any:
        made = getattr(self._memory, verb)
        return lambda *args, **kwargs: self._runner.run(made(*args, **kwargs))


def driven(runner: asyncio.Runner, memory: AsyncMemory, embedded: Any) -> Memory:
    return cast(Memory, Driven(runner, memory, embedded))
