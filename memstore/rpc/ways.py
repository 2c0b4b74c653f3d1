"""Ways: channels to servers, made when they are first needed."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import grpc

from memstore.deadline import Deadline
from memstore.errors import MemstoreError, Unreachable
from memstore.rpc import failures
from memstore.rpc.calls import Request
from memstore.rpc.sparing import Spare
from memstore.rpc.target import Target, opener, stubs

FIND_PAUSE_S = 1.0
"""Between two times that servers are looked up, of which nobody is to be asked without end."""

T = TypeVar("T")

Pair = tuple[str, str]
"""A name and a value of metadata."""


class Way:
    """A channel to one server; any thread may use it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.channel = target.channel(grpc)
        self._stubs = stubs(self.channel, target.message_bytes)
        self.opened = opener(self.channel, target.metadata)
        self._over: MemstoreError | None = None

    def attempt(self, request: Request[T], left_s: float) -> T:
        """Sends a request once, and returns what its verb does; raises a `MemstoreError`."""
        return request.decode(self.sent(request.service, request.verb, request.message, left_s))

    def begun(self, request: Request[Any], left_s: float) -> Any:
        """Sends a request once; returns the call of gRPC, which gives the reply."""
        stub = self._stubs[request.service, request.verb]
        try:
            return stub.future(request.message, timeout=left_s, metadata=self.target.metadata)
        except ValueError as error:
            raise self.target.closed() from error

    def sent(
        self, service: str, verb: str, message: Any, left_s: float, also: Sequence[Pair] = ()
    ) -> Any:
        """Sends a message once, and returns the reply.  also: metadata that go with it."""
        return self.answered(service, verb, message, left_s, also)[0]

    def answered(
        self,
        service: str,
        verb: str,
        message: Any,
        left_s: float,
        also: Sequence[Pair] = (),
        spare: Spare | None = None,
    ) -> tuple[Any, Any]:
        """The same, with the metadata that came behind the reply.  spare: may end it meanwhile."""
        self._check()
        stub = self._stubs[service, verb]
        told: Any = {"timeout": left_s, "metadata": [*self.target.metadata, *also]}
        try:
            if spare is None:
                reply, call = stub.with_call(message, **told)
            else:
                call = stub.future(message, **told)
                spare.waits_for(call)
                reply = call.result()
            return reply, call.trailing_metadata()
        except grpc.FutureCancelledError as error:
            self._check()
            raise Unreachable(f"the call to {self.target.address} was ended") from error
        except grpc.RpcError as error:
            self._check()
            raise failures.from_call(error, self.target.address) from error
        except ValueError as error:
            self._check()
            raise self.target.closed() from error

    def _check(self) -> None:
        if self._over is not None:
            raise self._over

    def close(self, reason: MemstoreError | None = None) -> None:
        """Ends all calls, which raise that from now on."""
        self._over = self.target.closed() if reason is None else reason
        self.channel.close()


class Ways:
    """The ways of one client: to the servers that it was told of, and to those they tell of."""

    def __init__(
        self, targets: Sequence[Target], find: Callable[[], Sequence[str]] | None = None
    ) -> None:
        """targets: servers of one topology; any of them will do.  find: looks up where they are
        now, for when none of them answers."""
        self.target = targets[0]
        self._lock = threading.Lock()
        self._told = [target.address for target in targets]
        self._addresses = [*self._told]
        self._ways: dict[str, Way] = {}
        self._at = 0
        self._find, self._found_at = find, time.monotonic()
        self._looking = threading.Lock()
        self.closed = False

    def to(self, address: str) -> Way:
        """The way to a server, which is reached as the first one is."""
        with self._lock:
            if self.closed:
                raise self.target.closed()
            way = self._ways.get(address)
            if way is None:
                way = self._ways[address] = Way(replace(self.target, address=address))
            return way

    def any(self) -> Way:
        """A way to one of the servers, the same as long as it is not passed over."""
        return self.to(self._addresses[self._at])

    @property
    def finds(self) -> bool:
        """Whether it can look up where the servers are."""
        return self._find is not None

    @property
    def addresses(self) -> list[str]:
        """Of the servers that it goes by now."""
        return [*self._addresses]

    def all(self) -> list[Way]:
        """Ways to all servers, from that of `any` on."""
        addresses = self._addresses[self._at :] + self._addresses[: self._at]
        return [self.to(address) for address in addresses]

    def asked(self, request: Request[T], until: Deadline) -> Generator[T, None, None]:
        """What all servers say that are asked at once, as they answer; nothing of who fails."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        calls = [way.begun(request, until.left_s) for way in self.all() if until.left_s]
        for call in calls:
            call.add_done_callback(answers.put)
        try:
            for _ in calls:
                with contextlib.suppress(MemstoreError, grpc.RpcError, grpc.FutureCancelledError):
                    yield request.decode(answers.get().result())
        finally:
            for call in calls:
                call.cancel()

    def pass_over(self, way: Way, left_s: float) -> None:
        """Takes the next server, since this one does not answer; behind the last, looks them up.

        left_s: as `find` takes it.
        """
        with self._lock:
            if self._addresses[self._at] != way.target.address:
                return
            self._at = (self._at + 1) % len(self._addresses)
            around = self._at == 0
        if around:
            self.find(left_s)

    def find(self, left_s: float) -> None:
        """Looks up where the servers are, if that can be done and was not done just now.

        left_s: for which that is waited for, since who is asked may hang. What is told later is
        gone by from then on.
        """
        find = self._find
        if find is None or not self._looking.acquire(blocking=False):
            return
        if time.monotonic() - self._found_at < FIND_PAUSE_S:
            self._looking.release()
            return
        found = threading.Event()

        def look() -> None:
            try:
                with contextlib.suppress(MemstoreError):
                    self._told = [*find()]
                    self.learn(self._told)
                self._found_at = time.monotonic()
            finally:
                self._looking.release()
                found.set()

        threading.Thread(target=look, name="memstore-find", daemon=True).start()
        found.wait(max(0.0, left_s))

    def learn(self, addresses: Sequence[str]) -> None:
        """Goes by these servers from now on, and by those that it was told of first."""
        with self._lock:
            at = self._addresses[self._at]
            self._addresses = [*dict.fromkeys([*addresses, *self._told])]
            self._at = self._addresses.index(at) if at in self._addresses else 0
            gone = [self._ways.pop(a) for a in [*self._ways] if a not in self._addresses]
        for way in gone:
            way.close(Unreachable(f"the server at {way.target.address} was replaced"))

    def close(self) -> None:
        """Ends all calls; a second call does nothing."""
        with self._lock:
            self.closed = True
            ways, self._ways = [*self._ways.values()], {}
        for way in ways:
            way.close()
