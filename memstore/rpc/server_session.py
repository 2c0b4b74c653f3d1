"""A session, from the server's side: calls over one stream, begun in order, answered in order.

A read may be under way beside other reads of its memory; a mutation waits for all before it on that
memory, and what follows it waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from memstore.errors import DeadlineExceeded, InvalidArgument, MemstoreError
from memstore.rpc import failures, splice
from memstore.rpc.limits import Held
from memstore.rpc.security import ANYBODY, Caller
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import VERBS


@dataclass(eq=False)
class Asked:
    """A call that has come. held: what it holds until it is answered.  refusal: why it is not let
    in; it is answered in its turn all the same."""

    call: pb.Call
    caller: Caller = ANYBODY
    held: Held | None = None
    refusal: MemstoreError | None = None

    @classmethod
    def refused(cls, call: pb.Call, refusal: MemstoreError) -> Asked:
        """Keeps nothing of a call but what it is answered by: where a refusal came from has all."""
        refusal.__cause__ = refusal.__context__ = refusal.__traceback__ = None
        return cls(pb.Call(number=call.number), refusal=refusal)

    def leave(self) -> None:
        if self.held is not None:
            self.held.leave()


Do = Callable[[str, Asked, float | None], Awaitable[Any]]
"""Does one call: its verb, the call, and its deadline in seconds."""

Answer = asyncio.Task[pb.Reply]


@dataclass
class _Before:
    """What was begun on a memory: the last mutation, and the reads since."""

    mutation: Answer | None = None
    reads: list[Answer] = field(default_factory=list)


class Session:
    """One stream of calls."""

    def __init__(self, do: Do, most: int) -> None:
        """most: calls under way at once; beyond, the stream is not read from."""
        self._do = do
        self._room = asyncio.Semaphore(most)
        self._before: dict[str, _Before] = {}

    async def replies(self, calls: AsyncIterator[Asked]) -> AsyncGenerator[pb.Reply, None]:
        """Answers each call, in the order in which they come."""
        order: asyncio.Queue[tuple[Asked, Answer] | None] = asyncio.Queue()
        begun: dict[Asked, Answer] = {}

        async def begin() -> None:
            try:
                await self._room.acquire()
                async for asked in calls:
                    begun[asked] = self._begin(asked)
                    order.put_nowait((asked, begun[asked]))
                    # Nothing is read that there is no room for.
                    await self._room.acquire()
            finally:
                order.put_nowait(None)

        reading = asyncio.ensure_future(begin())
        try:
            while (following := await order.get()) is not None:
                asked, answer = following
                yield await answer
                del begun[asked]
                asked.leave()
                self._room.release()
            await reading
        finally:
            # Where the caller is gone, what was not begun need not be.
            reading.cancel()
            for asked, answer in begun.items():
                answer.cancel()
                asked.leave()

    def _begin(self, asked: Asked) -> Answer:
        name = asked.call.WhichOneof("verb")
        if name is None:
            return asyncio.ensure_future(self._answer(asked, name, []))
        memory = getattr(asked.call, name).memory
        before = self._before.setdefault(memory, _Before())
        waits_for = [before.mutation] if before.mutation is not None else []
        if VERBS[name].role == "read":
            task = asyncio.ensure_future(self._answer(asked, name, waits_for))
            before.reads = [read for read in before.reads if not read.done()] + [task]
        else:
            waits_for = [*waits_for, *before.reads]
            task = asyncio.ensure_future(self._answer(asked, name, waits_for))
            before.mutation, before.reads = task, []
        task.add_done_callback(lambda _: self._forget(memory))
        return task

    def _forget(self, memory: str) -> None:
        """Keeps nothing of a memory on which nothing is under way."""
        before = self._before.get(memory)
        if before is None:
            return
        begun = [*before.reads, *([] if before.mutation is None else [before.mutation])]
        if all(task.done() for task in begun):
            del self._before[memory]

    async def _answer(self, asked: Asked, name: str | None, before: list[Answer]) -> pb.Reply:
        """The reply to one call, once those before it are done."""
        call, loop = asked.call, asyncio.get_running_loop()
        ends = loop.time() + call.deadline_s if call.deadline_s else None
        pending = [task for task in before if not task.done()]
        if pending:
            await asyncio.wait(pending)
        if asked.refusal is not None:
            return pb.Reply(number=call.number, error=failures.to_message(asked.refusal))
        try:
            if name is None:
                raise InvalidArgument("the call has no verb", expected=f"one of {[*VERBS]}")
            if not call.deadline_s >= 0:
                raise InvalidArgument("deadline_s is out of range", got=call.deadline_s)
            done = await self._done(name, asked, ends)
        except MemstoreError as error:
            return pb.Reply(number=call.number, error=failures.to_message(error))
        reply: pb.Reply = splice.message(pb.Reply, number=call.number, **{VERBS[name].reply: done})
        return reply

    async def _done(self, name: str, asked: Asked, ends: float | None) -> Any:
        """What a call gives; a read is dropped when its time is over."""
        left_s = None if ends is None else ends - asyncio.get_running_loop().time()
        if VERBS[name].role != "read":
            return await self._do(name, asked, left_s)
        try:
            async with asyncio.timeout_at(ends):
                return await self._do(name, asked, left_s)
        except TimeoutError:
            raise DeadlineExceeded("the call's time was over before it was done") from None
