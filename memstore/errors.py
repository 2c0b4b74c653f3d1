"""The errors of memstore: each says what was got, what was expected and what to do.

MemstoreError
├── InvalidArgument (ValueError)     the call is wrong; nothing was changed
│   ├── WrongShape                   a tensor of the wrong rank, width or length
│   ├── WrongType                    a tensor or column of the wrong dtype
│   ├── NotFinite                    NaN or infinity where a number is needed
│   ├── TooLong                      a call, or its answer, is longer than a message may be
│   ├── Unsupported                  this kind of memory does not offer the verb
│   └── DeviceUnavailable            no such GPU, or a faiss that uses none
├── UnknownSlot (LookupError)        a slot that was never appended, or was erased
├── UnknownMemory (LookupError)      no memory of that name in the store
├── MemoryExists                     the name is taken
├── MemoryInUse                      another memory is encoded from this one
├── DeviceError (RuntimeError)       a GPU did not take an index; the one before serves
│   └── OutOfDeviceMemory (MemoryError)  it is full, or a shard's part of it
├── Overloaded                       the index is behind; nothing was changed, try again later
│   └── Held                         a cut through several servers is made; in a moment it goes on
├── DeadlineExceeded                 the call waited for too long; nothing was changed
├── RequestTooOld                    nobody knows any more whether the request was applied
├── RequestConflict                  the request's number was used for another one
├── ServiceError                     the server, or the way to it, is at fault
│   ├── Unauthenticated              the server does not know who calls
│   ├── NotAllowed                   it knows, and the caller's role or memories do not allow it
│   ├── Unreachable                  it is not there, or was lost in the middle of a call
│   │   └── ShardUnavailable         of several servers, those of some shards
│   ├── ShardElsewhere               the server does not hold the shard that it was asked for
│   │   └── ForeignPart              it is of another cluster, or has a copy of the part's folder
│   ├── HalfDone                     some shards did their part; sent again it is done whole
│   └── ServerFailed                 it failed for a reason that it does not tell
└── StoreError                       the directory, not the call, is at fault
    ├── NotAStore                    a foreign or missing directory
    ├── WrongPart                    the store is another part of its memories than it was opened as
    ├── StoreLocked                  another process owns the store
    ├── ReadOnly                     the store was opened for reading alone
    ├── StoreClosed                  the store was closed by this process
    ├── UnsupportedVersion           written by another version of the format
    ├── CorruptFile                  a file is torn, altered or missing
    ├── DiskFailed                   the disk refused a file other than the log; nothing is lost
    ├── SnapshotFailed               the place of a snapshot failed; call again to go on
    ├── StorageFull                  the disk or the memory has no room for more rows
    └── LogFailed                    the disk refused the log; open the store again
"""

from __future__ import annotations

from typing import Any, ClassVar


class MemstoreError(Exception):
    """Base of all errors; `retryable` says whether the same call may succeed later."""

    retryable: ClassVar[bool] = False

    def __init__(
        self, problem: str, *, got: object = None, expected: object = None, hint: str = ""
    ) -> None:
        self.problem = problem
        self.got = got
        self.expected = expected
        self.hint = hint
        facts = [
            f"got {got}" if got is not None else "",
            f"expected {expected}" if expected else "",
        ]
        facts = [fact for fact in facts if fact]
        text = problem + (f": {', '.join(facts)}" if facts else "")
        super().__init__(text + (f"; {hint}" if hint else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it comes out of another process, as Ray carries it, as what it was there."""
        return as_it_was, (type(self), self.args, vars(self))


def as_it_was(kind: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    """An error that was made elsewhere, whatever its `__init__` takes."""
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error


class InvalidArgument(MemstoreError, ValueError):
    """The call is wrong; nothing was changed."""


class WrongShape(InvalidArgument):
    """A tensor has the wrong rank, width or length."""


class WrongType(InvalidArgument):
    """A tensor or column has the wrong dtype."""


class NotFinite(InvalidArgument):
    """A tensor holds NaN or infinity."""


class TooLong(InvalidArgument):
    """A call, or what would answer it, is longer than a server or its client takes."""


class Unsupported(InvalidArgument):
    """This kind of memory does not offer the verb."""


class DeviceUnavailable(InvalidArgument):
    """The device of a configuration is not there, or faiss cannot use it."""


class UnknownSlot(MemstoreError, LookupError):
    """A slot was never appended, or was erased."""


class UnknownMemory(MemstoreError, LookupError):
    """No memory of that name is in the store."""


class MemoryExists(MemstoreError):
    """The name is taken."""


class MemoryInUse(MemstoreError):
    """Another memory is encoded from this one, or it is being loaded."""


class DeviceError(MemstoreError, RuntimeError):
    """A GPU did not take an index; the one before goes on serving."""


class OutOfDeviceMemory(DeviceError, MemoryError):
    """A GPU is full, or what a shard may fill of it."""


class Overloaded(MemstoreError):
    """The index is behind with sealing; nothing was changed.

    retry_after_s: seconds after which there should be room, by what sealing has cost so far.
    """

    retryable = True

    def __init__(self, problem: str, *, retry_after_s: float, **facts: Any) -> None:
        super().__init__(problem, hint=f"try again in {retry_after_s:.1f} s", **facts)
        self.retry_after_s = retry_after_s


class Held(Overloaded):
    """Servers hold off mutations while a mark, or a snapshot, of all of them is made; nothing was
    changed. Who spreads a mutation over them waits for that by itself, as long as it has time."""


class DeadlineExceeded(MemstoreError):
    """The time that a call was given was over before it could begin; nothing was changed.

    Through a service only the server knows that: where its answer was late or lost, a mutation may
    have been done. Under a `request_id` it may be sent again.
    """

    retryable = True


class RequestTooOld(MemstoreError):
    """A request lies below the window of those whose replies are kept; it was not applied now."""


class RequestConflict(MemstoreError):
    """A request has the number of an earlier one and another content; it was not applied."""


class ServiceError(MemstoreError):
    """The server, or the way to it, is at fault."""


class Unauthenticated(ServiceError):
    """The server does not know who calls."""


class NotAllowed(ServiceError):
    """The caller's role, or the memories of its token, do not allow the call."""


class Unreachable(ServiceError):
    """The server is not there, or was lost in the middle of a call."""

    retryable = True


class ShardUnavailable(Unreachable):
    """Of a memory on several servers, those of some shards are not there.

    It says which. Nothing was changed, unless the call was a mutation that was lost on its way.
    """


class ShardElsewhere(ServiceError):
    """The server does not hold the shard that it was asked for; nothing was changed."""

    retryable = True


class ForeignPart(ShardElsewhere):
    """The server is of another cluster than it is taken for, or has a copy of the part's folder
    that went another way; nothing was changed."""


class HalfDone(ServiceError):
    """Some shards of several servers did their part of a mutation, others not.

    Sent again under its `request_id`, those that are left do theirs.
    """

    retryable = True


class ServerFailed(ServiceError):
    """The server failed for a reason that it does not tell; its log does."""


class StoreError(MemstoreError):
    """The directory, not the call, is at fault."""


class NotAStore(StoreError):
    """The directory is missing or holds something else."""


class WrongPart(StoreError):
    """The store is another part of its memories than that it was opened as, or the whole, or is of
    another cluster."""


class StoreLocked(StoreError):
    """Another process owns the store."""

    retryable = True


class ReadOnly(StoreError):
    """The store was opened for reading alone."""


class StoreClosed(StoreError):
    """The store was closed by this process."""


class UnsupportedVersion(StoreError):
    """The store was written by another version of the format."""


class CorruptFile(StoreError):
    """A file is torn, altered or missing."""


class DiskFailed(StoreError):
    """The disk refused a file of a checkpoint or a mark; nothing is lost."""

    retryable = True


class SnapshotFailed(StoreError):
    """The place of a snapshot was not reached, or took a part of it only; nothing is lost."""

    retryable = True


class StorageFull(StoreError):
    """The disk or the memory has no room for more rows; nothing was changed."""

    retryable = True


class LogFailed(StoreError):
    """The disk did not take the log; what was not acknowledged may be there or not.

    Nothing more is logged: what the disk holds is known only to who opens the store again.
    """
