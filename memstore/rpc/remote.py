"""RemoteMemory: the verbs of a memory that a server has, as `Memory` says them."""

from __future__ import annotations

from typing import TypeVar

from memstore.config import MemoryConfig
from memstore.rpc.calls import Calls, Request, sent
from memstore.rpc.requests import MemoryRequests

T = TypeVar("T")


class RemoteMemory:
    """A `Memory` that a server has; its verbs are those of `MemoryRequests`."""

    def __init__(self, calls: Calls, name: str, config: MemoryConfig, made: int = 0) -> None:
        """made: the number under which it was made; 0 is any of that name."""
        self._calls = calls
        self.requests = MemoryRequests(name, config, calls.next_request, made)

    @property
    def name(self) -> str:
        return self.requests.name

    @property
    def config(self) -> MemoryConfig:
        return self.requests.config

    def send(self, request: Request[T]) -> T:
        return self._calls.send(request)

    append = sent(MemoryRequests.append)
    write = sent(MemoryRequests.write)
    blend = sent(MemoryRequests.blend)
    update = sent(MemoryRequests.update)
    touch = sent(MemoryRequests.touch)
    allocate = sent(MemoryRequests.allocate)
    erase = sent(MemoryRequests.erase)
    search = sent(MemoryRequests.search)
    gather = sent(MemoryRequests.gather)
    lookup = sent(MemoryRequests.lookup)
    reindex = sent(MemoryRequests.reindex)
    refresh = sent(MemoryRequests.refresh)
    describe = sent(MemoryRequests.describe)
