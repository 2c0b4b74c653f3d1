"""The client: `memstore.connect`, the way to a server, and what it does when that fails.

    with memstore.connect("127.0.0.1:7437", token="…") as client:
        facts = client.memory("facts")
        facts.search(queries, k=10)

Every call has a deadline. One that failed and may be sent again is, after a pause that doubles and
is drawn at random, as long as the deadline allows: a read, and a mutation under its number.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self, TypeVar

try:
    import grpc
except ImportError as error:
    raise ImportError("the service needs grpcio: pip install 'memstore[rpc]'") from error

from memstore.config import MemoryConfig
from memstore.errors import DeadlineExceeded, MemstoreError
from memstore.memory import Memory, RequestId
from memstore.rpc import administration, failures
from memstore.rpc.administration import StoreRequests
from memstore.rpc.attempts import Attempts
from memstore.rpc.calls import Numbering, Request, sent
from memstore.rpc.remote import RemoteMemory
from memstore.rpc.streaming import Session
from memstore.rpc.target import LONGEST_S, Target, opener, stubs

T = TypeVar("T")


class Client:
    """The memories of a server; any thread may use it."""

    requests = StoreRequests()

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channel = target.channel(grpc)
        self._stubs = stubs(self._channel)
        self._numbering = Numbering()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Client of {self._target.address}>"

    def memory(self, name: str) -> Memory:
        """The memory of that name; raises `UnknownMemory`."""
        return RemoteMemory(self, name, self.send(administration.config(name)))

    def session(self) -> Session:
        """A stream over which calls need not wait for each other."""
        opened = opener(self._channel, self._target.metadata)
        return Session(opened, self, self._target)

    def create(self, name: str, config: MemoryConfig) -> Memory:
        """Makes an empty memory; raises `MemoryExists`, also where the first answer was lost."""
        self.send(self.requests.create(name, config))
        return RemoteMemory(self, name, config)

    list = sent(StoreRequests.list)
    drop = sent(StoreRequests.drop)
    mark = sent(StoreRequests.mark)
    unmark = sent(StoreRequests.unmark)
    marks = sent(StoreRequests.marks)
    snapshot = sent(StoreRequests.snapshot)

    def close(self) -> None:
        """Ends all calls; a second call does nothing."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def next_request(self) -> RequestId:
        return self._numbering.next()

    def send(self, request: Request[T]) -> T:
        """Sends a request, again where that may help, and returns what its verb does."""
        attempts = Attempts(request, self._target.deadline_s)
        while True:
            try:
                reply = self._sent(request.service, request.verb, request.message, attempts.left_s)
            except MemstoreError as error:
                pause_s = attempts.pause_s(error)
            else:
                return request.decode(reply)
            time.sleep(pause_s)

    def _sent(self, service: str, verb: str, message: Any, left_s: float) -> Any:
        if self._closed:
            raise self._target.closed()
        if left_s <= 0:
            raise DeadlineExceeded("the call's time was over before it was sent")
        try:
            return self._stubs[service, verb](
                message, timeout=min(left_s, LONGEST_S), metadata=self._target.metadata
            )
        except grpc.RpcError as error:
            if self._closed:
                raise self._target.closed() from error
            raise failures.from_call(error, self._target.address) from error
        except ValueError as error:
            raise self._target.closed() from error
