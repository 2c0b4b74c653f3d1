"""Outstanding: the calls of a session that have no answer yet, for a session of either kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from memstore.deadline import Deadline
from memstore.errors import (
    DeadlineExceeded,
    MemstoreError,
    ServerFailed,
    StoreClosed,
    TooLong,
)
from memstore.rpc import failures, splice
from memstore.rpc.target import LONGEST_S, Target
from memstore.rpc.v1 import memory_pb2 as pb

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
"""Before a stream is opened again; doubles as long as nothing is answered."""

LOOK_S = 0.1
"""How often it is looked which calls have no time left."""

A = TypeVar("A")


@dataclass
class _Asked(Generic[A]):
    call: pb.Call
    deadline: Deadline
    answer: A


class Outstanding(Generic[A]):
    """Calls in the order in which they were made, each with its time and with who waits for it.

    Who waits is handed out where there is something to tell, once, and no longer kept. It has no
    lock: but for `asked` and `is_to_send`, one thread at a time may use it.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked[A]] = {}
        self._pause_s = FIRST_PAUSE_S
        self.closed = False

    def __bool__(self) -> bool:
        return bool(self._asked)

    def __iter__(self) -> Iterator[pb.Call]:
        """What a broken stream had taken, and what it had not, in order."""
        return iter([asked.call for asked in self._asked.values()])

    @property
    def is_over(self) -> bool:
        return self.closed and not self._asked

    def asked(self, verb: str, message: Any, deadline_s: float | None, answer: A) -> _Asked[A]:
        """A call to be added; raises `TooLong`."""
        deadline = Deadline(self._target.deadline_s if deadline_s is None else deadline_s)
        if isinstance(message, splice.Message):
            message = message.apart()  # the call returns before it is sent
        call = splice.message(
            pb.Call, deadline_s=min(deadline.left_s, LONGEST_S), **{verb: message}
        )
        if call.ByteSize() + 16 > self._target.message_bytes:
            raise TooLong(
                "the call is too long for a session",
                got=f"{call.ByteSize()} bytes",
                expected=f"≤ {self._target.message_bytes}",
                hint="make it without the session, which takes calls of any length",
            )
        return _Asked(call, deadline, answer)

    def add(self, asked: _Asked[A]) -> pb.Call:
        """Numbers a call and keeps it; raises `StoreClosed`."""
        if self.closed:
            raise StoreClosed("the session was closed", hint="open another")
        asked.call.number = next(self._numbers)
        self._asked[asked.call.number] = asked
        return asked.call

    def is_to_send(self, call: pb.Call) -> bool:
        """Whether someone still waits for it; then it says how long."""
        asked = self._asked.get(call.number)
        if asked is not None:
            call.deadline_s = max(min(asked.deadline.left_s, LONGEST_S), 1e-9)
        return asked is not None

    def forget(self, number: int) -> None:
        """Sends a call no more."""
        self._asked.pop(number, None)

    def answered(self, reply: pb.Reply) -> tuple[A, Any] | None:
        """Who waited for it, and what to tell: the reply of the verb, or a `MemstoreError`."""
        self._pause_s = FIRST_PAUSE_S
        asked = self._asked.pop(reply.number, None)
        if asked is None:
            return None
        outcome = reply.WhichOneof("outcome")
        if outcome is None:
            return asked.answer, ServerFailed("the server gave an answer that is unknown here")
        if outcome == "error":
            return asked.answer, failures.from_message(reply.error)
        return asked.answer, getattr(reply, outcome)

    def late(self) -> list[tuple[A, MemstoreError]]:
        """Who waited for too long."""
        late = [number for number, asked in self._asked.items() if not asked.deadline.left_s]
        return [(self._asked.pop(number).answer, self._exceeded()) for number in late]

    def broken(self, error: Exception) -> MemstoreError | None:
        """Why no stream is opened again after this error; None where one is."""
        if isinstance(error, grpc.RpcError):
            failure = failures.from_call(error, self._target.address)
            ended = isinstance(failure, ServerFailed) and self.is_over
            return None if failure.retryable or ended else failure
        if isinstance(error, MemstoreError):
            return error
        return ServerFailed("a reply could not be read", got=f"{type(error).__name__}: {error}")

    def give_up(self, failure: MemstoreError) -> list[tuple[A, MemstoreError]]:
        """Takes no more calls; everybody who waits."""
        self.closed = True
        asked, self._asked = self._asked, {}
        return [(one.answer, failure) for one in asked.values()]

    def pause_s(self) -> float:
        """Seconds until a stream is opened again."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return pause_s

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the call to {self._target.address} took too long",
            hint="whether a mutation was done is not known; "
            "sent again under a request_id it is done once",
        )
