"""Calls: a verb with its arguments, ready to be sent, and the ways that it may go.

A `Request` knows of no connection: it may be sent over any, again, and to several.
"""

from __future__ import annotations

import functools
import itertools
import secrets
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from memstore.memory import RequestId

LONG_DEADLINE_S = 3_600.0
"""Of a request that works on whole memories."""

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Request(Generic[T]):
    """A verb of a service with its arguments.

    message: as it is sent.  decode: of the reply, what the verb returns.  again: it may be sent
    more than once, being a read, or a mutation under its number.  deadline_s: > 0, or None for
    that of the way it goes.  reply_bytes: about how long the reply will be, where that is known.
    share: of the time that there is, what it may take.
    """

    service: str
    verb: str
    message: Any
    decode: Callable[[Any], T]
    again: bool = True
    deadline_s: float | None = None
    reply_bytes: int = 0
    share: float = 1.0


def itself(reply: Any) -> Any:
    """What a request is answered by, where that is the reply as it is."""
    return reply


def nothing(_: Any) -> None:
    """The same of what only does something."""


class Calls(Protocol):
    """The way to a server."""

    def send(self, request: Request[T]) -> T:
        """Sends a request and returns what its verb does; raises a `MemstoreError`."""

    def next_request(self) -> RequestId:
        """A number that no mutation has had, for one that names none."""


class AsyncCalls(Protocol):
    """The same for an event loop."""

    async def send(self, request: Request[T]) -> T:
        """As `Calls.send`."""

    def next_request(self) -> RequestId:
        """As `Calls.next_request`."""


class Sender(Protocol[R_co]):
    """What has requests to make, and a way for them."""

    @property
    def requests(self) -> R_co: ...

    def send(self, request: Request[T]) -> T: ...


def sent(
    verb: Callable[Concatenate[R, P], Request[T]],
) -> Callable[Concatenate[Sender[R], P], T]:
    """The verb that makes that request, sends it, and returns what became of it."""

    @functools.wraps(verb)
    def call(sender: Sender[R], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return sender.send(verb(sender.requests, *args, **kwargs))

    return call


class AsyncSender(Protocol[R_co]):
    """The same for an event loop."""

    @property
    def requests(self) -> R_co: ...

    async def send(self, request: Request[T]) -> T: ...


def awaited(
    verb: Callable[Concatenate[R, P], Request[T]],
) -> Callable[Concatenate[AsyncSender[R], P], Coroutine[Any, Any, T]]:
    """As `sent`, to be awaited."""

    @functools.wraps(verb)
    async def call(sender: AsyncSender[R], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await sender.send(verb(sender.requests, *args, **kwargs))

    return call


class Numbering:
    """Numbers the mutations of one client, rising and each once; any thread may ask."""

    def __init__(self) -> None:
        self._client = f"client-{secrets.token_hex(8)}"
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def next(self) -> RequestId:
        with self._lock:
            return RequestId(self._client, next(self._numbers))
