"""A session from the client's side: calls that need not wait for each other, over one stream.

    with client.session() as session:
        facts = session.memory("facts")
        found = facts.search_async(queries, k=10)      sent at once
        facts.update(slots, grads)                     sees, and is seen, in the order of the calls
        found.result().slots_QK

Calls on one memory take effect in the order in which they were made. A stream that breaks is opened
again as long as a call has time, and what was not answered is sent again, in its order: mutations
under their number, so that they are done once; and reads, which may then see mutations that were
made after them. What a server refuses is not sent again.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from memstore.deadline import Deadline
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemstoreError,
    ServerFailed,
    StoreClosed,
)
from memstore.memory import RequestId, SearchOptions, SearchResult
from memstore.rpc import administration, failures
from memstore.rpc.calls import Calls, Request
from memstore.rpc.remote import RemoteMemory
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import MEMORY_SERVICE, path_of

Open = Callable[[Iterator[pb.Call]], Any]
"""Opens a stream: takes the calls, gives their replies."""

T = TypeVar("T")

LONGEST_S = 365 * 86_400.0
"""Of any deadline."""

LOOK_S = 0.1
"""How often it is looked which calls have no time left."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
"""Before a stream is opened again; doubles as long as nothing is answered."""


@dataclass(eq=False)
class _Asked:
    call: pb.Call
    deadline: Deadline
    answer: Future[Any] = field(default_factory=Future)


class Session:
    """One stream to a server; any thread may use it."""

    def __init__(
        self, open_stream: Open, around: Calls, address: str, deadline_s: float, message_bytes: int
    ) -> None:
        """around: the way for what a stream does not carry."""
        self._open, self._around = open_stream, around
        self._address, self._deadline_s = address, deadline_s
        self._message_bytes = message_bytes
        # Held again by what is done when an answer comes.
        self._state = threading.Condition(threading.RLock())
        self._numbers = itertools.count(1)
        self._unanswered: dict[int, _Asked] = {}
        self._outgoing: queue.SimpleQueue[pb.Call | None] = queue.SimpleQueue()
        self._stream: Any = None
        self._closed = False
        self._threads = [
            threading.Thread(target=work, name="memstore-session", daemon=True)
            for work in (self._keep, self._expire)
        ]
        for thread in self._threads:
            thread.start()

    def memory(self, name: str) -> SessionMemory:
        """The memory of that name; raises `UnknownMemory`."""
        return SessionMemory(self, name, self.send(administration.config(name)))

    def begin(self, verb: str, message: Any, deadline_s: float | None = None) -> Future[Any]:
        """Sends a call; what it gives is its reply, or raises a `MemstoreError`.

        What is called when it is done must not wait for another call of the session.
        """
        deadline = Deadline(self._deadline_s if deadline_s is None else deadline_s)
        call = pb.Call(deadline_s=min(deadline.left_s, LONGEST_S))
        getattr(call, verb).CopyFrom(message)
        if call.ByteSize() + 16 > self._message_bytes:
            raise InvalidArgument(
                "the call is too long",
                got=f"{call.ByteSize()} bytes",
                expected=f"≤ {self._message_bytes}",
                hint="ask for less at once",
            )
        with self._state:
            if self._closed:
                raise StoreClosed("the session was closed", hint="open another")
            call.number = next(self._numbers)
            asked = _Asked(call, deadline)
            self._unanswered[call.number] = asked
            self._outgoing.put(call)
            self._state.notify_all()
        return asked.answer

    def send(self, request: Request[T]) -> T:
        if request.service != MEMORY_SERVICE:
            return self._around.send(request)
        answer = self.begin(request.verb, request.message, request.deadline_s)
        return request.decode(answer.result())

    def next_request(self) -> RequestId:
        return self._around.next_request()

    def close(self) -> None:
        """Waits for what was sent, as long as it has time; a second call does nothing."""
        with self._state:
            self._closed = True
            self._outgoing.put(None)
            self._state.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _keep(self) -> None:
        """Reads replies, and opens the stream again where it breaks."""
        pause_s = FIRST_PAUSE_S
        while self._awaited():
            with self._state:
                # What a broken stream had taken is sent again, before what comes next.
                outgoing = self._outgoing = queue.SimpleQueue()
                for number in sorted(self._unanswered):
                    outgoing.put(self._unanswered[number].call)
                if self._closed:
                    outgoing.put(None)
            try:
                self._stream = self._open(self._calls(outgoing))
                for reply in self._stream:
                    pause_s = FIRST_PAUSE_S
                    self._answered(reply)
            except grpc.RpcError as error:
                failure = failures.from_call(error, self._address)
                ended = isinstance(failure, ServerFailed) and self._is_over()
                if not (failure.retryable or ended):
                    self._give_up(failure)
            except ValueError:
                self._give_up(StoreClosed(f"the client of {self._address} was closed"))
            except Exception as error:  # noqa: BLE001 - nobody else would tell who waits
                self._give_up(
                    ServerFailed(
                        "a reply could not be read", got=f"{type(error).__name__}: {error}"
                    )
                )
            outgoing.put(None)
            with self._state:
                self._state.wait_for(self._is_over, pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _awaited(self) -> bool:
        """Waits until a stream is needed; False once none will be."""
        with self._state:
            self._state.wait_for(lambda: self._unanswered or self._closed)
            return not self._is_over()

    def _is_over(self) -> bool:
        return self._closed and not self._unanswered

    def _expire(self) -> None:
        """Answers those whose time is over, and ends the stream once nobody waits for it."""
        while True:
            with self._state:
                self._state.wait_for(self._is_over, LOOK_S)
                late = [one for one in self._unanswered.values() if not one.deadline.left_s]
                for asked in late:
                    del self._unanswered[asked.call.number]
                over = self._is_over()
                self._state.notify_all()
            for asked in late:
                self._fail(
                    asked,
                    DeadlineExceeded(
                        f"the call to {self._address} took too long",
                        hint="whether a mutation was done is not known; "
                        "sent again under a request_id it is done once",
                    ),
                )
            if over:
                if late and self._stream is not None:
                    self._stream.cancel()
                return

    def _calls(self, outgoing: queue.SimpleQueue[pb.Call | None]) -> Iterator[pb.Call]:
        while (call := outgoing.get()) is not None:
            asked = self._unanswered.get(call.number)
            if asked is not None:
                call.deadline_s = max(min(asked.deadline.left_s, LONGEST_S), 1e-9)
                yield call

    def _answered(self, reply: pb.Reply) -> None:
        with self._state:
            asked = self._unanswered.pop(reply.number, None)
            self._state.notify_all()
        if asked is None:
            return
        outcome = reply.WhichOneof("outcome")
        if outcome is None:
            self._fail(asked, ServerFailed("the server gave an answer that is unknown here"))
        elif outcome == "error":
            self._fail(asked, failures.from_message(reply.error))
        elif asked.answer.set_running_or_notify_cancel():
            asked.answer.set_result(getattr(reply, outcome))

    def _fail(self, asked: _Asked, failure: MemstoreError) -> None:
        if asked.answer.set_running_or_notify_cancel():
            asked.answer.set_exception(failure)

    def _give_up(self, failure: MemstoreError) -> None:
        with self._state:
            self._closed = True
            asked, self._unanswered = [*self._unanswered.values()], {}
            self._state.notify_all()
        for one in asked:
            self._fail(one, failure)


class SessionMemory(RemoteMemory):
    """A `Memory` of a session, which can be searched ahead."""

    def __init__(self, session: Session, name: str, config: Any) -> None:
        super().__init__(session, name, config)
        self._session = session

    def search_async(
        self, queries: Any, k: int, options: SearchOptions = SearchOptions()
    ) -> Future[SearchResult]:
        """As `search`, but returns at once; the result comes when it is asked for."""
        request = self.requests.search(queries, k, options)
        answer = self._session.begin(request.verb, request.message)
        found: Future[SearchResult] = Future()

        def done(reply: Future[Any]) -> None:
            if not found.set_running_or_notify_cancel():
                return
            try:
                found.set_result(request.decode(reply.result()))
            except BaseException as error:  # noqa: BLE001 - who asked is told
                found.set_exception(error)

        answer.add_done_callback(done)
        return found


def opener(channel: grpc.Channel, metadata: list[tuple[str, str]]) -> Open:
    """Opens streams of a channel."""
    stub = channel.stream_stream(
        path_of(MEMORY_SERVICE, "session"),
        lambda call: call.SerializeToString(),
        pb.Reply.FromString,
    )
    return lambda calls: stub(calls, metadata=metadata)
