"""The client: `memstore.connect`, the way to a server, and what it does when that fails.

    with memstore.connect("127.0.0.1:7437", token="…") as client:
        facts = client.memory("facts")
        facts.search(queries, k=10)

Every call has a deadline. One that failed and may be sent again is, after a pause that doubles and
is drawn at random, as long as the deadline allows: a read, and a mutation under its number.
"""

from __future__ import annotations

import itertools
import random
import time
from types import TracebackType
from typing import Any, Self, TypeVar

try:
    import grpc
except ImportError as error:
    raise ImportError("the service needs grpcio: pip install 'memstore[rpc]'") from error

from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.errors import DeadlineExceeded, InvalidArgument, MemstoreError, StoreClosed
from memstore.memory import Memory, RequestId
from memstore.rpc import administration, failures
from memstore.rpc.administration import StoreRequests
from memstore.rpc.calls import Numbering, Request, sent
from memstore.rpc.remote import RemoteMemory
from memstore.rpc.security import is_loopback
from memstore.rpc.streaming import Session, opener
from memstore.rpc.tls import ClientTls
from memstore.rpc.verbs import ADMIN, ADMIN_SERVICE, MEMORY_SERVICE, VERBS, path_of, reply_type

LONGEST_S = 365 * 86_400.0
"""Of any deadline: gRPC takes a longer one for one that is over."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 2.0

T = TypeVar("T")


def connected(
    address: str,
    token: str | None,
    tls: ClientTls | bool | None,
    deadline_s: float,
    message_bytes: int,
) -> Client:
    """What `memstore.connect` returns."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65_536):
        raise InvalidArgument(
            "not the address of a server", got=repr(address), expected="host:port"
        )
    if token is not None and not tls and not is_loopback(address):
        raise InvalidArgument(
            "the token would cross the network for all to read",
            got=f"{address} without TLS",
            hint="give tls=True, or ClientTls(authority=…)",
        )
    if token is not None and not (token.isascii() and token.isprintable()):
        raise InvalidArgument("not a token", expected="what `memstore token` printed")
    Deadline(deadline_s)
    return Client(address, token, tls, deadline_s, message_bytes)


class Client:
    """The memories of a server; any thread may use it."""

    requests = StoreRequests()

    def __init__(
        self,
        address: str,
        token: str | None,
        tls: ClientTls | bool | None,
        deadline_s: float,
        message_bytes: int,
    ) -> None:
        self._address, self._deadline_s = address, deadline_s
        self._message_bytes = message_bytes
        self._metadata = [] if token is None else [("authorization", f"Bearer {token}")]
        options = [
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", message_bytes),
        ]
        if tls:
            credentials = (ClientTls() if tls is True else tls).credentials()
            self._channel = grpc.secure_channel(address, credentials, options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        verbs = [(MEMORY_SERVICE, verb) for verb in VERBS] + [(ADMIN_SERVICE, v) for v in ADMIN]
        self._stubs = {
            (service, verb): self._channel.unary_unary(
                path_of(service, verb),
                lambda message: message.SerializeToString(),
                reply_type(service, verb).FromString,
            )
            for service, verb in verbs
        }
        self._numbering = Numbering()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Client of {self._address}>"

    def memory(self, name: str) -> Memory:
        """The memory of that name; raises `UnknownMemory`."""
        return RemoteMemory(self, name, self.send(administration.config(name)))

    def session(self) -> Session:
        """A stream over which calls need not wait for each other."""
        opened = opener(self._channel, self._metadata)
        return Session(opened, self, self._address, self._deadline_s, self._message_bytes)

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
        own_s = request.deadline_s
        deadline = Deadline(self._deadline_s if own_s is None else own_s)
        for attempt in itertools.count():
            try:
                reply = self._sent(request.service, request.verb, request.message, deadline.left_s)
            except MemstoreError as error:
                pause_s = self._pause(error, attempt)
                if not (request.again and error.retryable) or pause_s >= deadline.left_s:
                    raise
            else:
                return request.decode(reply)
            time.sleep(pause_s)
        raise AssertionError("it either returns or raises")

    def _sent(self, service: str, verb: str, message: Any, left_s: float) -> Any:
        if self._closed:
            raise StoreClosed(f"the client of {self._address} was closed", hint="connect again")
        if left_s <= 0:
            raise DeadlineExceeded("the call's time was over before it was sent")
        try:
            return self._stubs[service, verb](
                message, timeout=min(left_s, LONGEST_S), metadata=self._metadata
            )
        except grpc.RpcError as error:
            if self._closed:
                raise StoreClosed(f"the client of {self._address} was closed") from error
            raise failures.from_call(error, self._address) from error
        except ValueError as error:
            raise StoreClosed(f"the client of {self._address} was closed") from error

    def _pause(self, error: MemstoreError, attempt: int) -> float:
        longest = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
        told: float = getattr(error, "retry_after_s", 0.0)
        return told + random.uniform(0, longest)
