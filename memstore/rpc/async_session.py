"""A session of the asyncio client: calls that need not wait for each other, over one stream.

    async with client.session() as session:
        facts = await session.memory("facts")
        found = facts.search_async(queries, k=10)      sent at once
        await facts.update(slots, grads)               sees, and is seen, in the order of the calls
        (await found).slots_QK

Order, retries and what is promised are those of `client_session`. A call is made where its
coroutine begins to run: tasks do so in the order in which they were made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from memstore.errors import InvalidArgument, MemstoreError, StoreClosed
from memstore.memory import RequestId, SearchOptions, SearchResult
from memstore.rpc import administration, failures
from memstore.rpc.async_remote import AsyncRemoteMemory
from memstore.rpc.calls import AsyncCalls, Request
from memstore.rpc.outstanding import LOOK_S, Outstanding
from memstore.rpc.target import Target
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import MEMORY_SERVICE

Open = Callable[[AsyncIterator[pb.Call]], Awaitable[Any]]
"""Opens a stream: takes the calls, gives their replies."""

T = TypeVar("T")


class AsyncSession:
    """One stream to a server, for one event loop: that of its first call."""

    def __init__(self, open_stream: Open, around: AsyncCalls, target: Target) -> None:
        """around: the way for what a stream does not carry."""
        self._open, self._around, self._target = open_stream, around, target
        self._unanswered: Outstanding[asyncio.Future[Any]] = Outstanding(target)
        self._outgoing: asyncio.Queue[pb.Call | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._stream: Any = None
        self._unexplained = False

    async def memory(self, name: str) -> AsyncSessionMemory:
        """The memory of that name; raises `UnknownMemory`."""
        return AsyncSessionMemory(self, name, *await self.send(administration.found(name)))

    def begin(
        self, verb: str, message: Any, deadline_s: float | None = None
    ) -> asyncio.Future[Any]:
        """Sends a call; what it gives is its reply, or raises a `MemstoreError`.

        Where it is cancelled, the call is not sent again, and if it was not sent yet, not at all.
        """
        loop = self._here()
        answer: asyncio.Future[Any] = loop.create_future()
        call = self._unanswered.add(self._unanswered.asked(verb, message, deadline_s, answer))
        answer.add_done_callback(lambda _: self._done(call.number, answer))
        self._outgoing.put_nowait(call)
        if self._keeping is None:
            self._keeping = loop.create_task(self._keep())
        if self._looking is None:
            self._looking = loop.call_later(LOOK_S, self._look)
        self._changed.set()
        return answer

    async def send(self, request: Request[T]) -> T:
        if request.service != MEMORY_SERVICE:
            return await self._around.send(request)
        return request.decode(await self.begin(request.verb, request.message, request.deadline_s))

    def next_request(self) -> RequestId:
        return self._around.next_request()

    async def close(self) -> None:
        """Waits for what was sent, as long as it has time; a second call does nothing."""
        if self._keeping is None:
            self._unanswered.closed = True
            return
        self._here()
        self._unanswered.closed = True
        self._outgoing.put_nowait(None)
        self._changed.set()
        await asyncio.shield(self._keeping)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _here(self) -> asyncio.AbstractEventLoop:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise InvalidArgument("no event loop runs here", hint="call it in one") from error
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise InvalidArgument(
                "the session belongs to another event loop", hint="open one in this loop"
            )
        return loop

    async def _keep(self) -> None:
        """Reads replies, and opens the stream again where it breaks."""
        try:
            while await self._awaited():
                # What a broken stream had taken is sent again, before what comes next.
                outgoing = self._outgoing = asyncio.Queue()
                for call in self._unanswered:
                    outgoing.put_nowait(call)
                if self._unanswered.closed:
                    outgoing.put_nowait(None)
                failure = await self._read(outgoing)
                if failure is not None:
                    _tell(self._unanswered.give_up(failure))
                outgoing.put_nowait(None)
                pause_s = self._unanswered.pause_s()
                await self._until(lambda: self._unanswered.is_over, pause_s)
        finally:
            # Whoever waits is told, also where the event loop is ended under the session.
            _tell(self._unanswered.give_up(StoreClosed("the session's event loop was ended")))
            if self._looking is not None:
                self._looking.cancel()

    async def _read(self, outgoing: asyncio.Queue[pb.Call | None]) -> MemstoreError | None:
        """Reads a stream to its end; returns why no other is opened, or None where one is."""
        # A refusal that comes before the first call is sent says what it is.
        hold_s = self._unanswered.pause_s() if self._unexplained else 0.0
        self._unexplained = False
        try:
            self._stream = await self._open(self._calls(outgoing, hold_s))
            async for reply in self._stream:
                answered = self._unanswered.answered(reply)
                if answered is not None:
                    _tell([answered])
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The stream was cancelled, not the task: if by the closing of the client, opening
            # another says so.
            return None
        except Exception as error:  # noqa: BLE001 - nobody else would tell who waits
            self._unexplained = failures.was_being_sent(error)
            return None if self._unexplained else self._unanswered.broken(error)
        return None

    async def _awaited(self) -> bool:
        """Waits until a stream is needed; False once none will be."""
        await self._until(lambda: bool(self._unanswered or self._unanswered.closed))
        return not self._unanswered.is_over

    async def _until(self, ready: Callable[[], bool], timeout_s: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not ready():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    def _look(self) -> None:
        """Answers those whose time is over, and ends the stream once nobody waits for it."""
        late = self._unanswered.late()
        _tell(late)
        if late and self._unanswered.is_over and self._stream is not None:
            self._stream.cancel()
        self._looking = None
        if self._unanswered:
            self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _done(self, number: int, answer: asyncio.Future[Any]) -> None:
        self._unanswered.forget(number)
        if answer.cancelled() and self._unanswered.is_over and self._stream is not None:
            self._stream.cancel()
        self._changed.set()

    async def _calls(
        self, outgoing: asyncio.Queue[pb.Call | None], hold_s: float
    ) -> AsyncIterator[pb.Call]:
        await asyncio.sleep(hold_s)
        while (call := await outgoing.get()) is not None:
            if self._unanswered.is_to_send(call):
                yield call


def _tell(answers: Iterable[tuple[asyncio.Future[Any], Any]]) -> None:
    for answer, outcome in answers:
        if answer.done():
            continue
        if isinstance(outcome, MemstoreError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


class AsyncSessionMemory(AsyncRemoteMemory):
    """A memory of a session, which can be searched ahead."""

    def __init__(self, session: AsyncSession, name: str, config: Any, made: int = 0) -> None:
        super().__init__(session, name, config, made)
        self._session = session

    def search_async(
        self, queries: Any, k: int, options: SearchOptions = SearchOptions()
    ) -> asyncio.Future[SearchResult]:
        """As `search`, but sends at once; the result comes when it is awaited."""
        request = self.requests.search(queries, k, options)
        answer = self._session.begin(request.verb, request.message)

        found: asyncio.Future[SearchResult] = answer.get_loop().create_future()

        def done(_: object) -> None:
            failure = None if answer.cancelled() else answer.exception()
            if found.done():
                return
            if answer.cancelled():
                found.cancel()
            elif failure is not None:
                found.set_exception(failure)
            else:
                try:
                    found.set_result(request.decode(answer.result()))
                except Exception as error:  # noqa: BLE001 - who asked is told
                    found.set_exception(error)

        answer.add_done_callback(done)
        found.add_done_callback(lambda _: answer.cancel())
        return found
