"""AsyncRemoteMemory: the verbs of a memory that a server has, to be awaited."""

from __future__ import annotations

from typing import TypeVar

from memstore.config import MemoryConfig
from memstore.rpc.calls import AsyncCalls, Request, awaited
from memstore.rpc.requests import MemoryRequests

T = TypeVar("T")


class AsyncRemoteMemory:
    """A memory that a server has; its verbs are those of `Memory`, each to be awaited.

    A read that is cancelled is not waited for any longer. A mutation that is cancelled is done or
    not, in each shard the whole of it: sent again under its `request_id` it is done once.
    """

    def __init__(self, calls: AsyncCalls, name: str, config: MemoryConfig, made: int = 0) -> None:
        """made: the number under which it was made; 0 is any of that name."""
        self._calls = calls
        self.requests = MemoryRequests(name, config, calls.next_request, made)

    @property
    def name(self) -> str:
        return self.requests.name

    @property
    def config(self) -> MemoryConfig:
        return self.requests.config

    async def send(self, request: Request[T]) -> T:
        return await self._calls.send(request)

    append = awaited(MemoryRequests.append)
    write = awaited(MemoryRequests.write)
    blend = awaited(MemoryRequests.blend)
    update = awaited(MemoryRequests.update)
    touch = awaited(MemoryRequests.touch)
    allocate = awaited(MemoryRequests.allocate)
    erase = awaited(MemoryRequests.erase)
    search = awaited(MemoryRequests.search)
    gather = awaited(MemoryRequests.gather)
    lookup = awaited(MemoryRequests.lookup)
    reindex = awaited(MemoryRequests.reindex)
    refresh = awaited(MemoryRequests.refresh)
    describe = awaited(MemoryRequests.describe)
