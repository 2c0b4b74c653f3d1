"""The asyncio client: `memstore.connect_async`, with the deadlines and retries of `connect`.

async with memstore.connect_async("127.0.0.1:7437", token="…") as client:
    facts = await client.memory("facts")
    await facts.search(queries, k=10)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from memstore.extras import install

try:
    from grpc import aio
except ImportError as error:
    raise ImportError(f"the service needs grpcio: {install('rpc')}") from error

import pyarrow as pa

from memstore.config import MemoryConfig
from memstore.errors import (
    DeadlineExceeded,
    ForeignPart,
    InvalidArgument,
    MemstoreError,
    ShardUnavailable,
    StoreClosed,
    TooLong,
    UnknownMemory,
    Unreachable,
    Unsupported,
)
from memstore.memory import RequestId, SlotsLike
from memstore.rpc import administration, async_bulk, bulk, columns, failures, splice
from memstore.rpc.administration import StoreRequests
from memstore.rpc.async_bulk import AsyncBatches
from memstore.rpc.async_remote import AsyncRemoteMemory
from memstore.rpc.async_session import AsyncSession
from memstore.rpc.async_spread import AsyncSpreadMemory, Threads
from memstore.rpc.attempts import Attempts
from memstore.rpc.bulk import Loaded
from memstore.rpc.calls import Numbering, Request, awaited
from memstore.rpc.client import LOOK_S, Client
from memstore.rpc.cutting import Portions
from memstore.rpc.target import Target, opener, stubs

AsyncMemory: TypeAlias = AsyncRemoteMemory | AsyncSpreadMemory

T = TypeVar("T")


class AsyncClient:
    """The memories of a server, or of several, for one event loop: that of its first call."""

    requests = StoreRequests()

    def __init__(
        self,
        *targets: Target,
        fan_out: bool = True,
        find: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        """targets: servers of one topology, at least one: the next is asked where one is not
        there.  fan_out, find: as those of `Client`, which asks where there are several."""
        self._targets, self._at = targets, 0
        self._client = Client(*targets, fan_out=fan_out, find=find)
        self._threads = Threads(targets[0].deadline_s)
        self._fan_out = fan_out
        self._of_parts: bool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: dict[str, tuple[Any, Any]] = {}
        self._numbering = Numbering()
        self._closed = False

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._target.address}>"

    @property
    def _target(self) -> Target:
        return self._targets[self._at]

    async def memory(self, name: str) -> AsyncMemory:
        """The memory of that name; raises `UnknownMemory`."""
        await self._look(self._target.deadline_s)
        if self._fans_out:
            return AsyncSpreadMemory(await self.run(partial(self._client.memory, name)), self)
        return AsyncRemoteMemory(self, name, *await self.send(administration.found(name)))

    def session(self) -> AsyncSession:
        """A stream over which calls need not wait for each other."""
        return AsyncSession(_Opener(self), self, self._target)

    async def create(self, name: str, config: MemoryConfig) -> AsyncMemory:
        """Makes an empty memory; raises `MemoryExists`, also where the first answer was lost."""
        await self.send(self.requests.create(name, config))
        return await self.memory(name)

    async def drop(self, name: str) -> None:
        """Takes a memory and its files away, and none that is made under its name meanwhile."""
        made = 0
        with contextlib.suppress(UnknownMemory):  # parts of it may be left
            made = (await self.send(administration.found(name)))[1]
        await self.send(self.requests.drop(name, made))

    list = awaited(StoreRequests.list)
    mark = awaited(StoreRequests.mark)
    unmark = awaited(StoreRequests.unmark)
    marks = awaited(StoreRequests.marks)
    snapshot = awaited(StoreRequests.snapshot)
    restore = awaited(StoreRequests.restore)

    async def load(
        self,
        memory: str,
        batches: AsyncBatches,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Loaded:
        """As `Client.load`; batches may come asynchronously too, as `export` gives them.

        Those that do not are taken in another thread. Cancelled, it takes back what was loaded.
        """
        known = await self.send(administration.found(memory))

        def messages(batches: bulk.Batches) -> Iterator[bytes]:
            return bulk.messages(memory, *known, batches, step, request_id)

        topology = await self.send(administration.topology())
        self._client.take(topology)
        at = self._client.loads_at(topology)
        with self._typed(self._target):
            return await async_bulk.load(self._client.bulk(at), messages, batches, deadline_s)

    def export(
        self,
        memory: str,
        slots: SlotsLike | None = None,
        *,
        vectors: bool = True,
        columns: Sequence[str] | None = None,
        deadline_s: float | None = None,
    ) -> AsyncIterator[pa.RecordBatch]:
        """As `Client.export`: batch by batch, `async for`."""
        message = bulk.request(administration.text("memory", memory), slots, vectors, columns)
        return self._exported(message, bulk.timeout_s(deadline_s))

    async def _exported(self, message: Any, timeout_s: float) -> AsyncIterator[pa.RecordBatch]:
        await self._looked()
        target, (channel, _) = self._target, self._open()
        with self._typed(target):
            told = [*target.metadata, *self._client.told]
            call = bulk.exporter(channel)(message, timeout=timeout_s, metadata=told)
            try:
                async for reply in call:
                    yield columns.whole_batch(columns.from_batch(reply.batch))
            finally:
                call.cancel()

    async def close(self) -> None:
        """Ends all calls, which then raise `StoreClosed`; a second call does nothing."""
        if self._closed:
            return
        if self._loop is not None:
            self._here()
        self._closed = True
        for channel, _ in self._channels.values():
            await channel.close()
        await asyncio.to_thread(self._ended)

    def _ended(self) -> None:
        self._client.close()
        self._threads.close()

    async def __aenter__(self) -> Self:
        self._here()
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

    async def run(self, work: Callable[[], T], deadline_s: float | None = None) -> T:
        """As `Threads.run`, in the loop of the client."""
        self._here()
        with self._typed(self._target):
            return await self._threads.run(work, deadline_s)

    async def send(self, request: Request[T]) -> T:
        """Sends a request, again where that may help, and returns what its verb does.

        A read whose reply is longer than a message is cut into several.
        """
        if self._fans_out:
            return await self.run(partial(self._client.send, request), request.deadline_s)
        attempts = Attempts(request, self._target.deadline_s)
        if isinstance(request.message, splice.Message):
            # Others go on before it is sent.
            request = replace(request, message=request.message.apart())
        portions = Portions(request, self._target.message_bytes)
        while True:
            try:
                left_s = attempts.left_s()
                reply = await self._sent(request.service, request.verb, portions.message, left_s)
            except TooLong as error:
                portions.cut(error)
            except MemstoreError as error:
                pause_s = attempts.pause_s(error)
                await asyncio.sleep(pause_s)
            else:
                if portions.take(reply):
                    return request.decode(portions.reply)

    async def _sent(self, service: str, verb: str, message: Any, left_s: float) -> Any:
        target, begun = self._target, time.monotonic()
        _, calls = self._open()
        told = [*target.metadata, *self._client.told]
        try:
            with self._typed(target):
                return await calls[service, verb](message, timeout=left_s, metadata=told)
        except ShardUnavailable:
            raise  # It is there, others are not.
        except (Unreachable, StoreClosed, ForeignPart, DeadlineExceeded):
            # Of those that hang the next call is to ask another.
            if target is self._target:
                await self._pass_over(left_s - (time.monotonic() - begun))
            raise

    async def _pass_over(self, left_s: float) -> None:
        """Takes the next server; behind the last, looks up where they are, for so long at most."""
        self._at = (self._at + 1) % len(self._targets)
        if self._at == 0 and self._client.finds:
            addresses = await asyncio.to_thread(self._client.found, left_s)
            if [*addresses] != [target.address for target in self._targets]:
                first = self._targets[0]
                self._targets = tuple(replace(first, address=each) for each in addresses)
                self._at = 0

    @contextlib.contextmanager
    def _typed(self, target: Target) -> Iterator[None]:
        """Raises a `MemstoreError` for what a call raises: `StoreClosed` once the client was."""
        try:
            yield
        except aio.AioRpcError as error:
            if self._closed:
                raise target.closed() from error
            raise failures.from_call(error, target.address) from error
        except (Unreachable, RuntimeError) as error:
            if self._closed:
                raise target.closed() from error
            raise
        except asyncio.CancelledError:
            # Closing cancels the calls under way, which is not the caller's own cancelling.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise self._target.closed() from None
            raise

    @property
    def _fans_out(self) -> bool:
        """Whether memories lie on several servers, and each is to be asked for its own part."""
        return self._fan_out and bool(self._of_parts)

    async def _look(self, within_s: float) -> None:
        """Asks a server, once, whether it has parts of memories, and whose."""
        if self._of_parts is None:
            topology = None
            with contextlib.suppress(Unsupported):  # of a server of before there were several
                topology = await self.send(replace(administration.topology(), deadline_s=within_s))
            self._client.take(topology)
            self._of_parts = topology is not None

    async def _looked(self) -> None:
        """The same, where the server answers soon."""
        with contextlib.suppress(MemstoreError):
            await self._look(LOOK_S)

    def _open(self) -> tuple[Any, Any]:
        """The channel to the server that is asked, and its calls."""
        self._here()
        target = self._target
        if target.address not in self._channels:
            channel = target.channel(aio)
            self._channels[target.address] = channel, stubs(channel, target.message_bytes)
        return self._channels[target.address]

    def _here(self) -> None:
        """Belongs to the loop that runs from now on: a channel works in no other."""
        if self._closed:
            raise self._target.closed()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise InvalidArgument(
                "the client belongs to another event loop", hint="connect in this one too"
            )


class _Opener:
    """Opens the streams of one session: where one broke, the next to the next server."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._last: Target | None = None

    async def __call__(self, calls: Any) -> Any:
        client = self._client
        if self._last is client._target:
            await client._pass_over(LOOK_S)
        await client._looked()
        channel, _ = client._open()
        self._last = client._target
        return opener(channel, self._last.metadata)(calls, client._client.told)
