"""Load and Export as the server does them: long streams, a batch or two of which it holds.

A load is a task of its own: where its caller is gone it is taken back, however it was left, before
the server ends. A caller who does not read is waited for by gRPC, and holds back its export alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import grpc

from memstore.deadline import Deadline
from memstore.errors import DeadlineExceeded, InvalidArgument, MemstoreError, Overloaded
from memstore.rpc import failures
from memstore.rpc.limits import Held, Limits
from memstore.rpc.loading import checked_end
from memstore.rpc.security import Caller, seen_by
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.wire import parsed
from memstore.store import Store

SILENT_S = 60.0
"""How long a load is waited for that sends nothing: it keeps others from writing."""

SLACK_BYTES = 64
"""What a message has beside its batch, at most."""

audit = logging.getLogger("memstore.audit")

In = Callable[..., Awaitable[Any]]
"""Does some work in a pool: what, and its arguments."""

Begin = Callable[[pb.ExportRequest, int, float | None], Awaitable[tuple[Any, In]]]

Answered = Callable[[Callable[[], Awaitable[Any]], Any], Awaitable[Any]]
"""Does a call, and ends it with the status that its error has."""


class Transfers:
    """The handlers of `Load` and `Export`."""

    def __init__(
        self,
        store: Store,
        *,
        enter: Callable[[Any], tuple[Caller, Held]],
        load: Callable[[pb.LoadRequest, Deadline], Any],
        answered: Answered,
        read: In,
        write: In,
        export: Begin,
        limits: Limits,
        silent_s: float = SILENT_S,
    ) -> None:
        """enter: lets the call of a context in, and says who makes it.  read, write: the pools.
        load: makes one, that is to be begun.  export: begins one, of batches of so many bytes and
        in so many seconds; says what reads it.
        """
        self._store = store
        self._enter, self._load_of, self._answered = enter, load, answered
        self._read, self._write, self._begun = read, write, export
        self._limits, self._silent_s = limits, silent_s
        self._exports = 0
        self._loads = set[asyncio.Task[bytes]]()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        return {
            "Load": grpc.stream_unary_rpc_method_handler(self._load, None, None),
            "Export": grpc.stream_stream_rpc_method_handler(self._export, None, None),
        }

    async def ended(self, within_s: float) -> None:
        """Gives up the loads that are under way, and waits so long for all to be taken back."""
        for task in self._loads:
            task.cancel()
        if self._loads:
            await asyncio.wait(self._loads, timeout=within_s)

    async def _load(self, messages: AsyncIterator[bytes], context: Any) -> Any:
        async def work() -> bytes:
            task = asyncio.ensure_future(self._loaded(messages, context))
            self._loads.add(task)
            task.add_done_callback(self._forget)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                task.cancel()
                raise

        return await self._answered(work, context)

    def _forget(self, task: asyncio.Task[bytes]) -> None:
        self._loads.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where nobody is there any more to be told

    async def _loaded(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        caller, held = self._enter(context)
        left_s = context.time_remaining()
        if left_s is not None and left_s <= 0:
            raise DeadlineExceeded("the call's time was over before it was begun")
        deadline = Deadline(left_s)
        start = await self._next(messages)
        facts = f"load of {ascii(start.memory[:64])[1:-1]} by {caller.name} at {context.peer()}"
        try:
            caller.check("admin", start.memory)
            load = self._load_of(start, deadline)
            try:
                await whole(self._write(load.begin))
                rows = await self._put_all(load, start, messages, deadline, held)
                reply = await whole(self._write(load.end, rows))
            except BaseException as error:
                await whole(self._write(load.give_up, error))
                raise
        except MemstoreError as error:
            audit.warning("%s: refused, %s", facts, type(error).__name__)
            raise seen_by(caller, error) from None
        except asyncio.CancelledError:
            audit.warning("%s: given up", facts)
            raise
        audit.info("%s: done, %d rows", facts, reply.rows)
        data: bytes = reply.SerializeToString()
        return data

    async def _put_all(
        self,
        load: Any,
        message: pb.LoadRequest,
        messages: AsyncIterator[bytes],
        deadline: Deadline,
        held: Held,
    ) -> int:
        """Appends what comes; returns how many rows there were to be."""
        while True:
            if message.HasField("batch"):
                rows = await whole(self._write(load.put, message.batch, deadline))
                await held.paced(rows, len(message.batch))
            total = checked_end(message)
            if total is not None:
                return total
            message = await self._next(messages)

    async def _next(self, messages: AsyncIterator[bytes]) -> pb.LoadRequest:
        try:
            data = await asyncio.wait_for(anext(messages), self._silent_s)
            return cast(pb.LoadRequest, parsed(pb.LoadRequest, data))
        except StopAsyncIteration:
            raise InvalidArgument(
                "the load ended without its last message; nothing was loaded",
                expected="a message with rows",
            ) from None
        except TimeoutError:
            raise DeadlineExceeded(
                f"the load sent nothing for {self._silent_s:g} s; nothing was loaded",
                hint="others wait for it: have the rows ready before it is begun",
            ) from None

    async def _batches(
        self, asked: pb.ExportRequest, most_bytes: int, caller: Caller, held: Held, context: Any
    ) -> None:
        begun = asyncio.ensure_future(self._begun(asked, most_bytes, context.time_remaining()))
        try:
            export, read = await asyncio.shield(begun)
        except MemstoreError as error:
            raise seen_by(caller, error) from None
        except asyncio.CancelledError:
            # What a thread has begun meanwhile is let go of.
            await asyncio.wait([begun])
            if not begun.cancelled() and begun.exception() is None:
                export, read = begun.result()
                await whole(read(export.end))
            raise
        try:
            while (batch := await read(export.next)) is not None:
                # Returns when gRPC has room for it: so long nothing more is read.
                await failures.write(context, pb.ExportReply(batch=batch).SerializeToString())
                await held.paced(export.rows, len(batch))
        finally:
            await whole(read(export.end))

    async def _export(self, _: Any, context: Any) -> None:
        async def work() -> None:
            caller, held = self._enter(context)
            data = await held.received(context.read)
            asked = await self._read(parsed, pb.ExportRequest, data)
            caller.check("read", asked.memory)
            if self._exports >= self._limits.exports:
                raise Overloaded(
                    "the server has too many exports to do",
                    retry_after_s=1.0,
                    got=f"{self._exports} under way",
                )
            self._exports += 1
            try:
                most_bytes = self._limits.message_bytes - SLACK_BYTES
                await self._batches(asked, most_bytes, caller, held, context)
            finally:
                self._exports -= 1

        await self._answered(work, context)


async def whole(work: Awaitable[Any]) -> Any:
    """Waits until work that a thread does has ended, even where the waiting is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
