"""StoreRequests: what a client asks of a server's store, each written once for every way there."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any, TypeVar

from memstore.config import MemoryConfig
from memstore.durable.snapshot import Snapshot
from memstore.errors import InvalidArgument
from memstore.rpc import codec
from memstore.rpc.calls import LONG_DEADLINE_S, Request, nothing
from memstore.rpc.topology import Topology
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import ADMIN_SERVICE, MEMORY_SERVICE

T = TypeVar("T")


def found(name: str) -> Request[tuple[MemoryConfig, int]]:
    """The configuration of a memory, and the number under which it was made, 0 where it has none;
    raises `UnknownMemory`."""
    return Request(MEMORY_SERVICE, "describe", _described(name), _found)


def topology() -> Request[Topology | None]:
    """Which servers hold the parts; None where one holds whole memories."""
    return Request(ADMIN_SERVICE, "topology", pb.TopologyRequest(), Topology.of)


class StoreRequests:
    """The verbs of a store, each of which gives its `Request`."""

    def list(self) -> Request[builtins.list[str]]:
        """The names of the memories that the token may use, sorted."""
        return _asked("list", pb.ListRequest(), lambda reply: [*reply.memories], again=True)

    def create(self, name: str, config: MemoryConfig) -> Request[None]:
        """Makes an empty memory; raises `MemoryExists`, also where the first answer was lost."""
        message = pb.CreateRequest(memory=text("name", name), config=codec.to_config(config))
        return _asked("create", message, nothing)

    def drop(self, name: str, made: int = 0) -> Request[None]:
        """Takes a memory and its files away.  made: the one that was made under that number; 0 is
        any."""
        return _asked("drop", pb.DropRequest(memory=text("name", name), made=made), nothing)

    def mark(self, name: str) -> Request[None]:
        """Keeps all memories as they are now under a name, for `snapshot`."""
        message = pb.MarkRequest(name=text("name", name))
        return _asked("mark", message, nothing, deadline_s=LONG_DEADLINE_S)

    def unmark(self, name: str) -> Request[None]:
        """Takes a mark away."""
        return _asked("unmark", pb.UnmarkRequest(name=text("name", name)), nothing)

    def marks(self) -> Request[builtins.list[str]]:
        """The names of the marks, sorted."""
        return _asked("marks", pb.MarksRequest(), lambda reply: [*reply.names], again=True)

    def snapshot(self, uri: str, *, at: str | None = None) -> Request[Snapshot]:
        """Has the server copy its store to a path of its own, or an address that it reaches."""
        message = pb.SnapshotRequest(uri=uri, at=at)
        return _asked("snapshot", message, snapshot_of, deadline_s=LONG_DEADLINE_S)

    def restore(self, uri: str, *, number: int | None = None) -> Request[builtins.list[str]]:
        """Has the server make the memories of a snapshot, the newest or of a number, that it
        reaches; returns their names. All are made or none; raises `MemoryExists`."""
        message = pb.RestoreRequest(uri=uri, number=number)
        return _asked("restore", message, _restored, deadline_s=LONG_DEADLINE_S)


def _asked(
    verb: str,
    message: Any,
    decode: Callable[[Any], T],
    *,
    again: bool = False,
    deadline_s: float | None = None,
) -> Request[T]:
    return Request(ADMIN_SERVICE, verb, message, decode, again, deadline_s)


def _described(name: str) -> pb.DescribeRequest:
    return pb.DescribeRequest(memory=text("memory", name), config_only=True)


def _found(reply: pb.DescribeReply) -> tuple[MemoryConfig, int]:
    return codec.config_of(reply.config), reply.made


def _restored(reply: pb.RestoreReply) -> builtins.list[str]:
    return [*reply.memories]


def snapshot_of(reply: pb.SnapshotReply) -> Snapshot:
    """What a server says of a snapshot that it took."""
    return Snapshot(number=reply.number, uri=reply.uri, bytes=reply.bytes, copied=reply.copied)


def text(name: str, value: Any) -> str:
    """A text that UTF-8 has; raises `InvalidArgument`."""
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:
        pass
    raise InvalidArgument(f"{name} is no text", got=repr(value)[:64], expected="a str of UTF-8")
