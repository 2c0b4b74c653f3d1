"""The asyncio client: `memstore.connect_async`, with the deadlines and retries of `connect`.

async with memstore.connect_async("127.0.0.1:7437", token="…") as client:
    facts = await client.memory("facts")
    await facts.search(queries, k=10)
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

try:
    from grpc import aio
except ImportError as error:
    raise ImportError("the service needs grpcio: pip install 'memstore[rpc]'") from error

from memstore.config import MemoryConfig
from memstore.errors import (
    InvalidArgument,
    MemstoreError,
    ShardUnavailable,
    StoreClosed,
    TooLong,
    Unreachable,
)
from memstore.memory import RequestId
from memstore.rpc import administration, failures, splice
from memstore.rpc.administration import StoreRequests
from memstore.rpc.async_remote import AsyncRemoteMemory
from memstore.rpc.async_streaming import AsyncSession
from memstore.rpc.attempts import Attempts
from memstore.rpc.calls import Numbering, Request, awaited
from memstore.rpc.cutting import Parts
from memstore.rpc.target import Target, opener, stubs

T = TypeVar("T")


class AsyncClient:
    """The memories of a server, for one event loop: that of its first call."""

    requests = StoreRequests()

    def __init__(self, *targets: Target) -> None:
        """targets: servers of one topology, at least one: the next is asked where one is not
        there."""
        self._targets, self._at = targets, 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: dict[int, tuple[Any, Any]] = {}
        self._numbering = Numbering()
        self._closed = False

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._target.address}>"

    @property
    def _target(self) -> Target:
        return self._targets[self._at]

    async def memory(self, name: str) -> AsyncRemoteMemory:
        """The memory of that name; raises `UnknownMemory`."""
        return AsyncRemoteMemory(self, name, await self.send(administration.config(name)))

    def session(self) -> AsyncSession:
        """A stream over which calls need not wait for each other."""
        return AsyncSession(self._stream, self, self._target)

    async def create(self, name: str, config: MemoryConfig) -> AsyncRemoteMemory:
        """Makes an empty memory; raises `MemoryExists`, also where the first answer was lost."""
        await self.send(self.requests.create(name, config))
        return AsyncRemoteMemory(self, name, config)

    list = awaited(StoreRequests.list)
    drop = awaited(StoreRequests.drop)
    mark = awaited(StoreRequests.mark)
    unmark = awaited(StoreRequests.unmark)
    marks = awaited(StoreRequests.marks)
    snapshot = awaited(StoreRequests.snapshot)
    restore = awaited(StoreRequests.restore)

    async def close(self) -> None:
        """Ends all calls, which then raise `StoreClosed`; a second call does nothing."""
        if not self._closed and self._channels:
            self._open()
            self._closed = True
            for channel, _ in self._channels.values():
                await channel.close()
        self._closed = True

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def next_request(self) -> RequestId:
        return self._numbering.next()

    async def send(self, request: Request[T]) -> T:
        """Sends a request, again where that may help, and returns what its verb does.

        A read whose reply is longer than a message is cut into several.
        """
        attempts = Attempts(request, self._target.deadline_s)
        if isinstance(request.message, splice.Message):
            # Others go on before it is sent.
            request = replace(request, message=request.message.apart())
        parts = Parts(request, self._target.message_bytes)
        while True:
            try:
                left_s = attempts.left_s()
                reply = await self._sent(request.service, request.verb, parts.message, left_s)
            except TooLong as error:
                parts.cut(error)
            except MemstoreError as error:
                pause_s = attempts.pause_s(error)
                await asyncio.sleep(pause_s)
            else:
                if parts.take(reply):
                    return request.decode(parts.reply)

    async def _sent(self, service: str, verb: str, message: Any, left_s: float) -> Any:
        at, target = self._at, self._target
        _, calls = self._open()
        try:
            return await calls[service, verb](message, timeout=left_s, metadata=target.metadata)
        except aio.AioRpcError as error:
            if self._closed:
                raise target.closed() from error
            failure = failures.from_call(error, target.address)
            gone = isinstance(failure, Unreachable | StoreClosed)
            if gone and not isinstance(failure, ShardUnavailable) and at == self._at:
                self._at = (at + 1) % len(self._targets)
            raise failure from error
        except asyncio.CancelledError:
            # Closing cancels the calls under way, which is not the caller's own cancelling.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise self._target.closed() from None
            raise

    def _stream(self, calls: Any) -> Any:
        channel, _ = self._open()
        return opener(channel, self._target.metadata)(calls)

    def _open(self) -> tuple[Any, Any]:
        """The channel to the server that is asked, and its calls: opened in the loop that runs,
        once; a channel works in no other."""
        if self._closed:
            raise self._target.closed()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise InvalidArgument(
                "the client belongs to another event loop", hint="connect in this one too"
            )
        if self._at not in self._channels:
            channel = self._target.channel(aio)
            self._channels[self._at] = channel, stubs(channel, self._target.message_bytes)
        return self._channels[self._at]
