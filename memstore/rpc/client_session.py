"""A session, from the client's side: calls that need not wait for each other, over one stream.

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

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from memstore.errors import MemstoreError
from memstore.memory import RequestId, SearchOptions, SearchResult
from memstore.rpc import administration
from memstore.rpc.calls import Calls, Request
from memstore.rpc.outstanding import LOOK_S, Outstanding
from memstore.rpc.remote import RemoteMemory
from memstore.rpc.target import Target
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import MEMORY_SERVICE

Open = Callable[[Iterator[pb.Call]], Any]
"""Opens a stream: takes the calls, gives their replies."""

T = TypeVar("T")


class Session:
    """One stream to a server; any thread may use it."""

    def __init__(self, open_stream: Open, around: Calls, target: Target) -> None:
        """around: the way for what a stream does not carry."""
        self._open, self._around, self._target = open_stream, around, target
        # Held again by what is done when an answer comes. Of two conditions, so that a call wakes
        # no thread that has nothing to do for it: each costs as much as a way to the server.
        self._state = threading.RLock()
        self._needed = threading.Condition(self._state)
        self._over = threading.Condition(self._state)
        self._unanswered: Outstanding[Future[Any]] = Outstanding(target)
        self._outgoing: queue.SimpleQueue[pb.Call | None] = queue.SimpleQueue()
        self._stream: Any = None
        self._threads = [
            threading.Thread(target=work, name="memstore-session", daemon=True)
            for work in (self._keep, self._expire)
        ]
        for thread in self._threads:
            thread.start()

    def memory(self, name: str) -> SessionMemory:
        """The memory of that name; raises `UnknownMemory`."""
        return SessionMemory(self, name, *self.send(administration.found(name)))

    def begin(self, verb: str, message: Any, deadline_s: float | None = None) -> Future[Any]:
        """Sends a call; what it gives is its reply, or raises a `MemstoreError`.

        What is called when it is done must not wait for another call of the session. Where it is
        cancelled, the call is not sent again, and if it was not sent yet, not at all.
        """
        asked = self._unanswered.asked(verb, message, deadline_s, Future[Any]())
        with self._state:
            self._outgoing.put(self._unanswered.add(asked))
            self._needed.notify()
        asked.answer.add_done_callback(lambda answer: self._done(asked.call.number, answer))
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
            self._unanswered.closed = True
            self._outgoing.put(None)
            self._look()
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
        while self._awaited():
            with self._state:
                # What a broken stream had taken is sent again, before what comes next.
                outgoing = self._outgoing = queue.SimpleQueue()
                for call in self._unanswered:
                    outgoing.put(call)
                if self._unanswered.closed:
                    outgoing.put(None)
            try:
                self._stream = self._open(self._calls(outgoing))
                for reply in self._stream:
                    with self._state:
                        answered = self._unanswered.answered(reply)
                        self._look()
                    if answered is not None:
                        _tell([answered])
            except ValueError:  # what a channel raises that was closed
                self._give_up(self._target.closed())
            except Exception as error:  # noqa: BLE001 - nobody else would tell who waits
                failure = self._unanswered.broken(error)
                if failure is not None:
                    self._give_up(failure)
            outgoing.put(None)
            with self._state:
                self._over.wait_for(lambda: self._unanswered.is_over, self._unanswered.pause_s())

    def _awaited(self) -> bool:
        """Waits until a stream is needed; False once none will be."""
        with self._state:
            self._needed.wait_for(lambda: self._unanswered or self._unanswered.closed)
            return not self._unanswered.is_over

    def _look(self) -> None:
        """Wakes who waits for the end, once it has come."""
        if self._unanswered.is_over:
            self._needed.notify_all()
            self._over.notify_all()

    def _expire(self) -> None:
        """Answers those whose time is over, and ends the stream once nobody waits for it."""
        over = False
        while not over:
            with self._state:
                self._over.wait_for(lambda: self._unanswered.is_over, LOOK_S)
                late = self._unanswered.late()
                over = self._unanswered.is_over
                self._look()
            _tell(late)
        if late and self._stream is not None:
            self._stream.cancel()

    def _done(self, number: int, answer: Future[Any]) -> None:
        """Drops a call that nobody waits for any more."""
        if not answer.cancelled():
            return
        with self._state:
            self._unanswered.forget(number)
            over = self._unanswered.is_over
            self._look()
        if over and self._stream is not None:
            self._stream.cancel()

    def _calls(self, outgoing: queue.SimpleQueue[pb.Call | None]) -> Iterator[pb.Call]:
        while (call := outgoing.get()) is not None:
            if self._unanswered.is_to_send(call):
                yield call

    def _give_up(self, failure: MemstoreError) -> None:
        with self._state:
            told = self._unanswered.give_up(failure)
            self._look()
        _tell(told)


def _tell(answers: Iterable[tuple[Future[Any], Any]]) -> None:
    for answer, outcome in answers:
        if not answer.set_running_or_notify_cancel():
            continue
        if isinstance(outcome, MemstoreError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


class SessionMemory(RemoteMemory):
    """A `Memory` of a session, which can be searched ahead."""

    def __init__(self, session: Session, name: str, config: Any, made: int = 0) -> None:
        super().__init__(session, name, config, made)
        self._session = session

    def search_async(
        self, queries: Any, k: int, options: SearchOptions = SearchOptions()
    ) -> Future[SearchResult]:
        """As `search`, but returns at once; the result comes when it is asked for.

        Where it is cancelled, the call is dropped.
        """
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
        found.add_done_callback(lambda found: answer.cancel() if found.cancelled() else None)
        return found
