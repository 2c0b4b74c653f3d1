"""Errors on the wire: each class of `memstore.errors` has a status code, and comes out as itself.

One table, read in both directions. What is not in it, and every other exception, is INTERNAL and
says nothing of the server's inside.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from memstore import errors
from memstore.errors import MemstoreError
from memstore.rpc.v1 import memory_pb2 as pb

KEY = "memstore-error-bin"
"""The trailing metadata that carry an `Error`."""

SENDING = 'Failed "execute_batch": (<grpc._cython.cygrpc.Send'
"""What grpc.aio knows of a message that could not be sent."""

MOST_TEXT = 1_000
"""Characters of each part of an error: gRPC carries 16 KiB of metadata at most."""

CODES: dict[type[MemstoreError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongShape: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongType: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFinite: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLong: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unsupported: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DeviceUnavailable: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnknownSlot: grpc.StatusCode.NOT_FOUND,
    errors.UnknownMemory: grpc.StatusCode.NOT_FOUND,
    errors.MemoryExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.MemoryInUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DeviceError: grpc.StatusCode.INTERNAL,
    errors.OutOfDeviceMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Held: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RequestTooOld: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RequestConflict: grpc.StatusCode.ABORTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unreachable: grpc.StatusCode.UNAVAILABLE,
    errors.ShardUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ShardElsewhere: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ForeignPart: grpc.StatusCode.FAILED_PRECONDITION,
    errors.HalfDone: grpc.StatusCode.ABORTED,
    errors.ServerFailed: grpc.StatusCode.INTERNAL,
    errors.WrongPart: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotAStore: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StoreLocked: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ReadOnly: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StoreClosed: grpc.StatusCode.UNAVAILABLE,
    errors.UnsupportedVersion: grpc.StatusCode.DATA_LOSS,
    errors.CorruptFile: grpc.StatusCode.DATA_LOSS,
    errors.DiskFailed: grpc.StatusCode.INTERNAL,
    errors.SnapshotFailed: grpc.StatusCode.UNAVAILABLE,
    errors.StorageFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.LogFailed: grpc.StatusCode.INTERNAL,
}

_CLASSES = {kind.__name__: kind for kind in CODES}

_WITHOUT = {
    grpc.StatusCode.UNAVAILABLE: errors.Unreachable,
    grpc.StatusCode.CANCELLED: errors.Unreachable,  # by a server that ends
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.NotAllowed,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.TooLong,
}
"""What a status means that came without an `Error`, as from a proxy or from gRPC itself, which says
RESOURCE_EXHAUSTED of a message that is too long."""


def code_of(error: MemstoreError) -> grpc.StatusCode:
    return CODES.get(type(error), grpc.StatusCode.INTERNAL)


def to_message(error: MemstoreError) -> pb.Error:
    return pb.Error(
        name=type(error).__name__,
        problem=error.problem[:MOST_TEXT],
        got="" if error.got is None else str(error.got)[:MOST_TEXT],
        expected=str(error.expected)[:MOST_TEXT] if error.expected else "",
        hint=error.hint[:MOST_TEXT],
        retryable=error.retryable,
        retry_after_s=getattr(error, "retry_after_s", 0.0),
    )


def from_message(message: pb.Error) -> MemstoreError:
    """The error that a server told of; `ServerFailed` for one that is unknown here."""
    facts: dict[str, Any] = {
        "got": message.got or None,
        "expected": message.expected or None,
    }
    kind = _CLASSES.get(message.name, errors.ServerFailed)
    if issubclass(kind, errors.Overloaded):
        return kind(message.problem, retry_after_s=message.retry_after_s, **facts)
    return kind(message.problem, hint=message.hint, **facts)


async def abort(context: Any, error: MemstoreError) -> None:
    """Ends a call of `grpc.aio` with the status of an error, and the error beside it; the error
    loses where it came from."""
    data = to_message(error).SerializeToString()
    # What is raised next stays with the call, in a circle, until garbage is looked for. It must not
    # keep the frames of the work, and with them a message of up to the longest.
    error.__cause__ = error.__context__ = error.__traceback__ = None
    await context.abort(code_of(error), str(error)[:MOST_TEXT], ((KEY, data),))


async def write(context: Any, data: bytes) -> None:
    """Sends a reply of a stream; raises `CancelledError` where nobody is there any more.

    grpc.aio cancels the handler of such a call too, but may be late, and would log the failure.
    """
    try:
        await context.write(data)
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


def was_being_sent(error: Exception) -> bool:
    """Whether a stream of grpc.aio ended, as by a refusal, while a message of it was being sent:
    then the client says INTERNAL by itself, whatever the server said."""
    return (
        isinstance(error, grpc.aio.AioRpcError)
        and error.code() is grpc.StatusCode.INTERNAL
        and not error.trailing_metadata()
        and SENDING in (error.debug_error_string() or "")
    )


def from_call(error: grpc.RpcError, target: str) -> MemstoreError:
    """What a call that failed raises."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    if was_being_sent(error):
        return errors.Unreachable(
            f"the call to {target} was ended while it was being sent, and why was not told",
            hint="send it again",
        )
    for key, value in error.trailing_metadata() or ():
        if key == KEY and isinstance(value, bytes):
            return from_message(pb.Error.FromString(value))
    code, details = error.code(), error.details() or "nothing more was said"
    kind = _WITHOUT.get(code, errors.ServerFailed)
    hints = {
        errors.Unreachable: "look whether the server runs, is to be reached at that address, "
        "and speaks TLS if the client does",
        errors.DeadlineExceeded: "whether a mutation was done is not known; "
        "sent again under a request_id it is done once",
    }
    return kind(
        f"the call to {target} failed", got=f"{code.name}: {details}", hint=hints.get(kind, "")
    )
