"""Retries: what a request that comes again was told before, shard by shard.

A mutation with a request id leaves a reply in the window of each shard that it changes, in the
record of the log that has the change. When it comes again, the shards that know it stay as they
are and the others do their part: so what a crash cut in two becomes whole by being sent again.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from memstore.errors import WrongType
from memstore.memory import NO_SLOT, Array, RequestId, Slots
from memstore.shard.requests import Request, RequestWindows, digest, former_digest

NOTHING = np.empty(0, np.int64)

LOST = -1

HEAD = struct.Struct("<qqqqqq")
"""rows changed, rows skipped, rows asked of this shard and of all, first slot appended, slots
handed out."""


class Reply(NamedTuple):
    """What one shard did of a request.

    asked, of: the rows that it is about, here and in all shards; `LOST` for `asked` where it was
    left half done for good.  first: the first slot of an `append`, of all shards.  slots_A: what
    `allocate` handed out in this shard, and `places_A` where each stands among all that it was
    asked for.
    """

    applied: int = 0
    skipped: int = 0
    asked: int = 0
    of: int = 0
    first: int = NO_SLOT
    places_A: Slots = NOTHING
    slots_A: Slots = NOTHING

    def packed(self) -> bytes:
        head = HEAD.pack(*self[:5], len(self.slots_A))
        return head + self.places_A.tobytes() + self.slots_A.tobytes()

    @classmethod
    def unpacked(cls, data: bytes) -> Self:
        applied, skipped, asked, of, first, given = HEAD.unpack_from(data)
        both_A = np.frombuffer(data, np.int64, 2 * given, HEAD.size)
        return cls(applied, skipped, asked, of, first, both_A[:given], both_A[given:])


@dataclass(frozen=True)
class Asked:
    """A request as it came.  digest: of all that it asks.  content: that, where it is here."""

    id: RequestId
    digest: bytes
    content: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def former_digest(self) -> bytes:
        """As it was digested once: what a store keeps of requests may be older than it."""
        return former_digest(*self.content) if self.content else self.digest

    @classmethod
    def of(cls, request_id: RequestId | None, verb: str, *arguments: Any) -> Self | None:
        """None where it has no id: then it cannot be told when it comes again."""
        if request_id is None:
            return None
        if not isinstance(request_id, RequestId):
            raise WrongType(
                "request_id is of the wrong type",
                got=type(request_id).__name__,
                expected="RequestId",
            )
        content: tuple[Any, ...] = (verb, *map(_plain, arguments))
        return cls(request_id, digest(*content), content)


def answered(asked: Asked | None, reply: Reply) -> Request | None:
    """The request and a shard's reply to it, for its window."""
    if asked is None:
        return None
    return Request(asked.id.client, asked.id.number, asked.digest, reply.packed())


def settled(windows: Sequence[RequestWindows], shards: int) -> list[RequestWindows]:
    """The windows of one memory for another number of shards.

    What a request was replied is given by the first, and the others know that it was done. One
    that only some shards had done is lost: it cannot be told any more which rows those had.
    """
    after = [RequestWindows() for _ in range(shards)]
    known = [each.known() for each in windows]
    for name in dict.fromkeys(itertools.chain.from_iterable(known)):
        parts = [each[name] for each in known if name in each]
        low = max(low for low, _ in parts)
        requests: dict[int, Request] = {}
        for request in itertools.chain.from_iterable(requests for _, requests in parts):
            other = requests.get(request.number)
            requests[request.number] = request if other is None else _joined(other, request)
        for number, each in enumerate(after):
            each.forget(name, low)
            for _, request in sorted(requests.items()):
                reply = Reply.unpacked(request.reply)
                if reply.asked != reply.of:
                    reply = Reply(asked=LOST)
                elif number:
                    reply = Reply(of=reply.of, first=reply.first)
                each.note(replace(request, reply=reply.packed()))
    return after


def _joined(a: Request, b: Request) -> Request:
    """A request of which two shards did a part each."""
    one, other = Reply.unpacked(a.reply), Reply.unpacked(b.reply)
    whole = Reply(
        one.applied + other.applied,
        one.skipped + other.skipped,
        LOST if LOST in (one.asked, other.asked) else one.asked + other.asked,
        one.of,
        max(one.first, other.first),
        np.concatenate([one.places_A, other.places_A]),
        np.concatenate([one.slots_A, other.slots_A]),
    )
    return replace(a, reply=whole.packed())


class Known:
    """The shards that did their part of a request before, and what they replied."""

    def __init__(self, replies: Mapping[int, Reply], shards: int) -> None:
        self.shards = sorted(replies)
        self._replies, self._count = [replies[shard] for shard in self.shards], shards
        self.applied = sum(reply.applied for reply in self._replies)
        self.skipped = sum(reply.skipped for reply in self._replies)

    def first(self, fallback: int) -> int:
        """The first slot that an `append` was given."""
        return max((reply.first for reply in self._replies), default=fallback)

    def given(self, n: int) -> Slots:
        """The slots that an `allocate` of n was given, `NO_SLOT` where it was given none yet."""
        slots_B = np.full(n, NO_SLOT, np.int64)
        for reply in self._replies:
            slots_B[reply.places_A] = reply.slots_A
        return slots_B

    @property
    def handed_out(self) -> tuple[Slots, Slots]:
        """What an `allocate` was given: places among all asked for, and slots."""
        places = [reply.places_A for reply in self._replies]
        slots = [reply.slots_A for reply in self._replies]
        return np.concatenate([NOTHING, *places]), np.concatenate([NOTHING, *slots])

    def left(self, slots_B: Slots) -> Slots:
        """The places of the slots that are left to be done."""
        if not self.shards:
            return np.arange(len(slots_B))
        return np.flatnonzero(~np.isin(slots_B % self._count, self.shards))

    def rest(self, slots_B: Slots, *parts: Any) -> tuple[Any, ...]:
        """What is left to do: those of the slots, and of each array or table beside them."""
        if not self.shards:
            return slots_B, *parts
        at = self.left(slots_B)
        return slots_B[at], *(_taken(part, at) for part in parts)


def _taken(part: Any, at: Slots) -> Any:
    if part is None:
        return None
    return part.take(at) if isinstance(part, pa.Table) else part[at]


def _plain(argument: Any) -> Array | bytes | None:
    """What can be digested: the same for the same argument."""
    if argument is None or isinstance(argument, np.ndarray):
        return argument
    if isinstance(argument, pa.Table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, argument.schema) as writer:
            writer.write_table(argument.combine_chunks())
        return bytes(sink.getvalue())
    return repr(argument).encode()
