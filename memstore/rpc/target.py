"""Target: which server, and how it is reached, for a client of either kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from memstore.deadline import Deadline
from memstore.errors import InvalidArgument, StoreClosed
from memstore.rpc import cutting, splice
from memstore.rpc.defaults import DEADLINE_S, MESSAGE_BYTES
from memstore.rpc.security import is_loopback
from memstore.rpc.tls import ClientTls
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import (
    ADMIN,
    ADMIN_SERVICE,
    ASSEMBLED,
    MEMORY_SERVICE,
    SPREAD,
    SPREAD_SERVICE,
    VERBS,
    path_of,
    reply_type,
)

LONGEST_S = 365 * 86_400.0
"""Of any deadline: gRPC takes a longer one for one that is over."""

SILENT_S, ANSWER_S = 10.0, 20.0
"""Of silence, after which a server that has calls to answer is asked whether it is there, and for
gRPC's threads there to say so: one that is stopped is found out, however long its calls may take,
and one that is busy is not. Servers take it no more often than every 5 s."""


@dataclass(frozen=True)
class Target:
    """A server at `host:port`, and what `memstore.connect` was told of it.

    Raises `InvalidArgument` on what is no address, token or deadline, and where a token would
    leave this machine without TLS.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    tls: ClientTls | bool | None = None
    deadline_s: float = DEADLINE_S
    message_bytes: int = MESSAGE_BYTES

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65_536):
            raise InvalidArgument(
                "not the address of a server", got=repr(self.address), expected="host:port"
            )
        token = self.token
        if token is not None and not self.tls and not is_loopback(self.address):
            raise InvalidArgument(
                "the token would cross the network for all to read",
                got=f"{self.address} without TLS",
                hint="give tls=True, or ClientTls(authority=…)",
            )
        if token is not None and not (token.isascii() and token.isprintable()):
            raise InvalidArgument("not a token", expected="what `memstore token` printed")
        Deadline(self.deadline_s)

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What goes with every call."""
        return [] if self.token is None else [("authorization", f"Bearer {self.token}")]

    def channel(self, kind: Any) -> Any:
        """A channel to it.  kind: `grpc`, or `grpc.aio`."""
        options = [
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_send_message_length", self.message_bytes),
            # A server that comes back is found again soon; one that is slow has time to answer.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 5_000),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.keepalive_time_ms", int(1_000 * SILENT_S)),
            # What gRPC goes by where it is shorter than a minute, whatever `keepalive_timeout` is.
            ("grpc.http2.ping_timeout_ms", int(1_000 * ANSWER_S)),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        if not self.tls:
            return kind.insecure_channel(self.address, options)
        credentials = (ClientTls() if self.tls is True else self.tls).credentials()
        return kind.secure_channel(self.address, credentials, options)

    def closed(self) -> StoreClosed:
        return StoreClosed(f"the client of {self.address} was closed", hint="connect again")


def stubs(channel: Any, most_bytes: int) -> Mapping[tuple[str, str], Any]:
    """What calls each verb of each service, over a channel of either kind.

    most_bytes: of a message; a longer one of a memory's verb goes in pieces.
    """
    verbs = [(MEMORY_SERVICE, verb) for verb in VERBS] + [(ADMIN_SERVICE, v) for v in ADMIN]
    verbs += [(SPREAD_SERVICE, verb) for verb in SPREAD]
    made = {
        (service, verb): channel.unary_unary(
            path_of(service, verb),
            lambda message: message.SerializeToString(),
            partial(splice.opened, reply_type(service, verb)),
        )
        for service, verb in verbs
    }
    for verb, (_, answer) in ASSEMBLED.items():
        service = MEMORY_SERVICE if verb in VERBS else SPREAD_SERVICE
        whole = made[service, verb]
        made[service, verb] = _of_any_length(channel, verb, answer, whole, most_bytes)
    return made


def _of_any_length(channel: Any, verb: str, field: str, whole: Any, most_bytes: int) -> Any:
    """What calls a verb, in pieces where it is longer than a message.

    field: of the `Reply`, that has its own.  whole: calls it where it is not.
    """
    assemble = channel.stream_unary(
        path_of(MEMORY_SERVICE, "assemble"),
        None,
        lambda data: getattr(splice.opened(pb.Reply, data), field),
    )

    return AnyLength(whole, assemble, verb, most_bytes)


class AnyLength:
    """Calls a verb as what it is made of does."""

    def __init__(self, whole: Any, assemble: Any, verb: str, most_bytes: int) -> None:
        self._whole, self._assemble = whole, assemble
        self._verb, self._most_bytes = verb, most_bytes

    def __call__(self, message: Any, **told: Any) -> Any:
        stub, asked = self._chosen(message)
        return stub(asked, **told)

    def with_call(self, message: Any, **told: Any) -> Any:
        stub, asked = self._chosen(message)
        return stub.with_call(asked, **told)

    def future(self, message: Any, **told: Any) -> Any:
        stub, asked = self._chosen(message)
        return stub.future(asked, **told)

    def _chosen(self, message: Any) -> tuple[Any, Any]:
        if message.ByteSize() <= self._most_bytes:
            return self._whole, message
        data = message.SerializeToString()
        return self._assemble, cutting.pieces(self._verb, data, self._most_bytes)


def opener(channel: Any, metadata: list[tuple[str, str]]) -> Any:
    """What opens sessions over a channel of either kind: takes the calls, and metadata that go with
    them beside those of all; gives the replies."""
    stub = channel.stream_stream(
        path_of(MEMORY_SERVICE, "session"),
        lambda call: call.SerializeToString(),
        partial(splice.opened, pb.Reply),
    )
    return lambda calls, also=(): stub(calls, metadata=[*metadata, *also])
