"""A session: calls pipelined over one stream, begun in order, answered in order.

A read may be under way beside other reads of its memory; a mutation waits for all before it on that
memory, and what follows it waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from memstore.errors import InvalidArgument, MemstoreError
from memstore.rpc import failures
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import VERBS

Do = Callable[[str, Any, float | None], Awaitable[Any]]
"""Does one call: its verb, its message, and its deadline in seconds."""


@dataclass
class _Before:
    """What was begun on a memory: the last mutation, and the reads since."""

    mutation: asyncio.Task[pb.Reply] | None = None
    reads: list[asyncio.Task[pb.Reply]] = field(default_factory=list)


class Session:
    """One stream of calls."""

    def __init__(self, do: Do, most: int) -> None:
        """most: calls under way at once; beyond, the stream is not read from."""
        self._do = do
        self._room = asyncio.Semaphore(most)
        self._before: dict[str, _Before] = {}

    async def replies(self, calls: AsyncIterator[pb.Call]) -> AsyncIterator[pb.Reply]:
        """Answers each call, in the order in which they come."""
        order: asyncio.Queue[asyncio.Task[pb.Reply] | None] = asyncio.Queue()
        begun = set[asyncio.Task[pb.Reply]]()

        async def begin() -> None:
            try:
                async for call in calls:
                    await self._room.acquire()
                    task = self._begin(call)
                    begun.add(task)
                    task.add_done_callback(begun.discard)
                    order.put_nowait(task)
            finally:
                order.put_nowait(None)

        reading = asyncio.ensure_future(begin())
        try:
            while (task := await order.get()) is not None:
                yield await task
                self._room.release()
            await reading
        finally:
            # Where the caller is gone, what was not begun need not be.
            reading.cancel()
            for task in begun:
                task.cancel()

    def _begin(self, call: pb.Call) -> asyncio.Task[pb.Reply]:
        name = call.WhichOneof("verb")
        if name is None:
            return asyncio.ensure_future(self._answer(call, "", None, []))
        message = getattr(call, name)
        before = self._before.setdefault(message.memory, _Before())
        waits_for = [before.mutation] if before.mutation is not None else []
        if VERBS[name].role == "read":
            task = asyncio.ensure_future(self._answer(call, name, message, waits_for))
            before.reads = [read for read in before.reads if not read.done()] + [task]
        else:
            waits_for = [*waits_for, *before.reads]
            task = asyncio.ensure_future(self._answer(call, name, message, waits_for))
            before.mutation, before.reads = task, []
        task.add_done_callback(lambda _: self._forget(message.memory))
        return task

    def _forget(self, memory: str) -> None:
        """Keeps nothing of a memory on which nothing is under way."""
        before = self._before.get(memory)
        if before is None:
            return
        begun = [*before.reads, *([] if before.mutation is None else [before.mutation])]
        if all(task.done() for task in begun):
            del self._before[memory]

    async def _answer(
        self, call: pb.Call, name: str, message: Any, before: list[asyncio.Task[pb.Reply]]
    ) -> pb.Reply:
        """The reply to one call, once those before it are done."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + call.deadline_s if call.deadline_s else None
        pending = [task for task in before if not task.done()]
        if pending:
            await asyncio.wait(pending)
        try:
            if message is None:
                raise InvalidArgument("the call has no verb", expected=f"one of {[*VERBS]}")
            if not call.deadline_s >= 0:
                raise InvalidArgument("deadline_s is out of range", got=call.deadline_s)
            left = None if ends is None else ends - loop.time()
            done = await self._do(name, message, left)
        except MemstoreError as error:
            return pb.Reply(number=call.number, error=failures.to_message(error))
        return pb.Reply(**{"number": call.number, VERBS[name].reply: done})
