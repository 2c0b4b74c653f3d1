"""Answering: what is done for a call whose caller is known and let in, once its message is there.

A call is about the store's own, or, where that has a part of its memories, about all parts, of
which other servers are asked. Each is done in the pool of threads that its kind of work has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from memstore.deadline import Deadline
from memstore.errors import DeadlineExceeded, MemstoreError, ShardElsewhere
from memstore.memory import Array, Memory, SearchOptions
from memstore.placement import check_made
from memstore.rpc import codec, sizes
from memstore.rpc.alone import Alone
from memstore.rpc.batching import Coalescer
from memstore.rpc.exporting import Export
from memstore.rpc.limits import Held, Limits
from memstore.rpc.loading import Load
from memstore.rpc.own_part import memory_of, role_of
from memstore.rpc.pools import Pools
from memstore.rpc.security import Caller, seen_by
from memstore.rpc.spreading import Spreading
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import SPREAD, VERBS, AdminVerb
from memstore.store import Store

FILTER_BYTES = 1 << 10
"""Of a search beyond which its filter, of some hundred nodes, is made in a pool: each takes as long
as a thousand bytes of any other message, and there may be 65,536."""


class Answering:
    """Does calls, in the event loop of the server; each returns its reply, or raises a
    `MemstoreError`."""

    def __init__(
        self, store: Store, spreading: Spreading | None, limits: Limits, pools: Pools
    ) -> None:
        """spreading: None where the store has whole memories."""
        self._store, self._spreading = store, spreading
        self._limits, self._pools = limits, pools
        self._alone = Alone()
        self._coalescer = Coalescer(pools.readers, limits.search_lanes, self._alone)

    async def call(
        self, name: str, message: Any, caller: Caller, held: Held, deadline_s: float | None
    ) -> Any:
        """One call on a memory."""
        if name in SPREAD:
            return await self.asked_by_peer(name, message, caller, held, deadline_s)
        verb, ends = VERBS[name], ends_at(deadline_s)
        caller.check(verb.role, message.memory)
        if deadline_s is not None and deadline_s <= 0:
            raise DeadlineExceeded("the call's time was over before it was begun")
        part = part_of(message)
        if part is not None:
            self._check_part(part, message)
        try:
            if self._spreading is not None and part is None:
                spread = partial(self._spread, name, message)
                pool = self._pools.forwarded_reads if verb.role == "read" else self._pools.forwards
                reply = await self._pools.run(pool, in_time, ends, spread)
            else:
                reply = await self._own(name, message, ends)
        except MemstoreError as error:
            raise seen_by(caller, error) from None
        held.draw("rows_per_s", sizes.rows_of(reply))
        # A change was made: its reply is not refused, whatever it takes.
        (held.take if verb.role == "read" else held.add)(self.size(reply))
        return reply

    async def administer(self, verb: AdminVerb, message: Any, left_s: float | None) -> Any:
        """One call on the store."""
        spreading, part = self._spreading, part_of(message)
        if part is not None:
            self._check_part(part, message)

        def do(left_s: float | None) -> Any:
            if spreading is None or part is not None:
                return verb.do(self._store, message)
            return spreading.within(left_s, partial(verb.do, cast(Any, spreading), message))

        here = spreading is None or part is not None
        pool = self._pools.writers if here else self._pools.forwards
        return await self._pools.run(pool, in_time, ends_at(left_s), do)

    async def asked_by_peer(
        self, name: str, message: Any, caller: Caller, held: Held, deadline_s: float | None
    ) -> Any:
        """Does what is asked of a part; returns the reply."""
        caller.check(role_of(name, message), memory_of(message))
        if self._spreading is None:
            raise ShardElsewhere("the server holds whole memories", got=name)
        own = self._pools
        pools = {"lead": own.forwards, "widen": own.readers, "rows": own.readers}
        pools |= {"cut": own.cutters, "fetch": own.cutters}
        pool = pools.get(name, own.writers)
        asked = self._spreading if name == "lead" else self._spreading.own
        ends, do = ends_at(deadline_s), getattr(asked, name)
        reply = await self._pools.run(pool, in_time, ends, do, message)
        if isinstance(reply, pb.AppliedReply):
            held.draw("rows_per_s", sizes.rows_of(reply))
        held.add(self.size(reply))
        return reply

    def load(self, start: pb.LoadRequest, deadline: Deadline) -> Any:
        """A load, that is to be begun."""
        if self._spreading is not None:
            return self._spreading.load(start, deadline)
        memory = cast(Any, self._store.memory(start.memory))
        return Load(self._store, memory, start, deadline)

    async def export(self, asked: pb.ExportRequest, most_bytes: int, left_s: float | None) -> Any:
        """An export, and what reads it."""
        if self._spreading is None:
            memory: Any = self._store.memory(asked.memory)
            read = partial(self._pools.run, self._pools.readers)
            return await read(Export, memory, asked, most_bytes), read
        read = partial(self._pools.run, self._pools.forwarded_reads)
        return await read(self._spreading.export, asked, most_bytes, left_s), read

    async def _own(self, name: str, message: Any, ends: float | None) -> Any:
        """Does a call on what the store has."""
        memory = self._store.memory(message.memory)
        _check_made(name, message, memory)
        sizes.check(name, message, memory, self._limits.message_bytes)  # before it is done
        if name == "search":
            return await self._search(memory, message)
        if name == "gather" and sizes.is_short(message, memory):
            return await self._gather(memory, message, ends)
        pool = self._pools.readers if VERBS[name].role == "read" else self._pools.writers
        return await self._pools.run(pool, in_time, ends, VERBS[name].do, memory, message)

    async def _search(self, memory: Memory, message: pb.SearchRequest) -> pb.SearchReply:
        if message.HasField("options") and message.options.ByteSize() > FILTER_BYTES:
            queries_QD, options = await self._pools.run(self._pools.readers, _asked, message)
        else:
            queries_QD, options = await self._pools.aside(message.ByteSize(), _asked, message)
        found = await self._coalescer.search(memory, queries_QD, message.k, options)
        size = 2 * found.slots_QK.nbytes
        reply: pb.SearchReply = await self._pools.aside(size, codec.to_search_reply, found)
        return reply

    async def _gather(self, memory: Memory, message: pb.GatherRequest, ends: float | None) -> Any:
        work = partial(in_time, ends, VERBS["gather"].do, memory, message)
        with self._alone.reading():
            if await self._alone.is_so():
                return work()
            return await self._pools.run(self._pools.readers, work)

    def _spread(self, name: str, message: Any, left_s: float | None) -> Any:
        """Does a call on a memory of which other servers hold parts."""
        spreading = cast(Spreading, self._spreading)

        def do() -> Any:
            memory = spreading.memory(message.memory)
            _check_made(name, message, memory)
            sizes.check(name, message, memory, self._limits.message_bytes)
            return VERBS[name].do(memory, message, left_s)

        return spreading.within(left_s, do)

    def _check_part(self, part: pb.Part, message: Any) -> None:
        if self._spreading is None:
            raise ShardElsewhere("the server holds whole memories", got=f"part {part.number}")
        self._spreading.own.held(message.memory, part)

    def size(self, reply: Any) -> int:
        """Bytes of a reply; raises `TooLong` where they are too many to send."""
        size: int = reply.ByteSize()
        sizes.check_bytes(size, self._limits.message_bytes)
        return size


def ends_at(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else time.monotonic() + deadline_s


def in_time(ends: float | None, do: Callable[..., Any], *args: Any) -> Any:
    """Does a call of a verb with the seconds that it has left, unless it has none any more."""
    left_s = None if ends is None else ends - time.monotonic()
    if left_s is not None and left_s <= 0:
        raise DeadlineExceeded("the call's time was over before it was begun")
    return do(*args, left_s)


def _check_made(name: str, message: Any, memory: Any) -> None:
    """Raises `UnknownMemory` where a mutation is for a former memory of the name. Who has the one
    that is found changes no other: where that is dropped meanwhile, it takes no change any more."""
    if VERBS[name].role == "write":
        check_made(message.memory, message.made, memory.made)


def part_of(message: Any) -> pb.Part | None:
    """The part that a call is about alone; None is the whole."""
    if "part" in message.DESCRIPTOR.fields_by_name and message.HasField("part"):
        part: pb.Part = message.part
        return part
    return None


def _asked(message: pb.SearchRequest) -> tuple[Array, SearchOptions]:
    return codec.to_array("queries", message.queries), codec.options_of(message)
