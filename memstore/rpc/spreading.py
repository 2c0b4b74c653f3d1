"""Spreading: what a server of one part does for whole memories, with the servers of the others.

To whoever calls it is a store of whole memories. What is its own it does here, the rest it asks of
the others, as a `peer`, once the caller was found to be allowed it. Part 0 makes and drops
memories, and chooses the least used rows, for all.
"""

from __future__ import annotations

import builtins
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.durable.snapshot import Snapshot
from memstore.errors import (
    InvalidArgument,
    MemoryExists,
    ShardElsewhere,
    UnknownMemory,
)
from memstore.memory import Refreshed, RequestId, Slots
from memstore.placement import Part, check_made, holders
from memstore.rpc import administration, codec, fetching, joint, splice
from memstore.rpc.calls import Numbering, Request, itself, nothing
from memstore.rpc.fleet import Fleet
from memstore.rpc.joint import Joint
from memstore.rpc.membership import Membership
from memstore.rpc.own_part import OwnPart
from memstore.rpc.parts import RemotePart, to_part
from memstore.rpc.requests import MemoryRequests, refreshed
from memstore.rpc.spread_export import SpreadExport, still_rows
from memstore.rpc.spread_load import Loads, SpreadLoad
from memstore.rpc.sums import RemoteSums
from memstore.rpc.target import Target
from memstore.rpc.topology import Route, Topology
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import ADMIN, SPREAD_SERVICE, VERBS
from memstore.rpc.ways import Ways
from memstore.spread.encoded import EncodedPart, SpreadEncodedMemory
from memstore.spread.fan import Fan, MemoryPart
from memstore.spread.held import HeldMemory
from memstore.spread.held_encoded import HeldEncodedMemory
from memstore.spread.memory import SpreadMemory
from memstore.store import Store

PATIENCE_S = 1.0
"""How long a server goes on asking one that is not there; then who called it may."""

TELL_S, TELL_SHARE = 0.5, 0.1
"""Of the time of a call, what is kept, at most, to tell who called which shards did not answer."""


class Spreading:
    """Whole memories, of which a store has a part. Any thread may use it."""

    def __init__(self, store: Store, route: Route, target: Target) -> None:
        """target: how other servers are reached, whatever its address."""
        self.store, self.route = store, route
        ways = Ways([target])
        self.membership = Membership(store, route, ways)
        self._fleet = Fleet(ways, lambda: self.membership.topology, _as_is, PATIENCE_S)
        self._numbering = Numbering()
        self._memories: dict[str, tuple[HeldMemory, SpreadMemory | SpreadEncodedMemory]] = {}
        # Memories are found by one thread at a time: of each there is to be one that chooses the
        # least used of its rows.
        self._finding = threading.Lock()
        self.own = OwnPart(store, target.message_bytes, self._forget)
        self._joint = Joint(store, self._cut, self._fleet.fan, self.own.making)
        how = self.memory, self.next_request, self.within, self.own.making
        self._loads = Loads(store, self._joint, *how)
        self._joint.check = self._loads.check

    @property
    def part(self) -> Part:
        return self.store.part

    @property
    def path(self) -> Path:
        return self.store.path

    def within(self, deadline_s: float | None, work: Callable[[], Any]) -> Any:
        """Does some work, that asks others for a little less long than that."""
        if deadline_s is not None:
            deadline_s -= min(TELL_S, TELL_SHARE * deadline_s)
        return self._fleet.within(Deadline(deadline_s), work)

    # What a store of whole memories does.

    def memory(self, name: str) -> SpreadMemory | SpreadEncodedMemory:
        """The memory of that name; raises `UnknownMemory`."""
        held = self.own.mine(name)
        if held is None:
            if self.part.number == 0:
                self.store.memory(name)  # raises
            asked = pb.DescribeRequest(memory=name)
            return self._spread(name, *self.led("describe", asked, _config))
        known = self._memories.get(name)
        if known is None or known[0] is not held:
            found = self._spread(name, held.config, held.made, held)
            with self._finding:
                known = self._memories.get(name)
                if known is None or known[0] is not held:
                    known = self._memories[name] = held, found
        return known[1]

    def list(self) -> builtins.list[str]:
        if self.part.number == 0:
            return self.store.list()
        names: builtins.list[str] = self.led(
            "list", pb.ListRequest(), lambda reply: [*reply.list.memories]
        )
        return names

    def create(self, name: str, config: MemoryConfig) -> None:
        """Makes a memory in all parts: in part 0 last, so that it is there when all have it."""
        if self.part.number:
            message = pb.CreateRequest(memory=name, config=codec.to_config(config))
            self.led("create", message, nothing)
            return
        with self._fleet.deadline.held(self.own.making, "other memories"):
            if name in self.store.list():
                raise MemoryExists(f"memory {name!r} is there already", hint="drop it first")
            self.store.check_parts(name, config, self.part.of)
            turn, text = self.own.next_turn(), codec.to_config(config)
            for number in range(1, self.part.of):
                part = to_part(Part(number, self.part.of))
                if number < holders(config.shards, self.part.of):
                    made = pb.MakeRequest(part=part, memory=name, config=text, turn=turn)
                    self._ask(number, "make", made, nothing)
                else:
                    # What a drop left there would be taken for a part of this one.
                    gone = pb.UnmakeRequest(part=part, memory=name, turn=turn)
                    self._ask(number, "unmake", gone, nothing)
            self.store.create(name, config, made=turn)

    def drop(self, name: str, *, made: int = 0) -> None:
        """Takes a memory away: from part 0 first, so that none has it when it is not whole.

        made: only the one that was made under that number; 0 is any.
        """
        if self.part.number:
            if not made:
                with contextlib.suppress(UnknownMemory):  # parts of it may be left
                    made = self.memory(name).made
            self.led("drop", pb.DropRequest(memory=name, made=made), nothing)
            return
        with self._fleet.deadline.held(self.own.making, "other memories"):
            held = self.own.mine(name)
            if held is not None:
                check_made(name, made, held.made)
            turn = self.own.next_turn()
            there = self.own.drop(name, turn)
            # What a drop left that was lost in between is taken away too.
            for number in range(1, self.part.of):
                part = to_part(Part(number, self.part.of))
                message = pb.UnmakeRequest(part=part, memory=name, turn=turn)
                there |= self._ask(number, "unmake", message, lambda reply: bool(reply.done))
            if not there:
                self.store.memory(name)  # raises

    def mark(self, name: str) -> None:
        if self.part.number:
            self.led("mark", pb.MarkRequest(name=name), nothing, again=False)
        else:
            self._joint.mark(name, self._fleet.deadline)

    def unmark(self, name: str) -> None:
        if self.part.number:
            self.led("unmark", pb.UnmarkRequest(name=name), nothing, again=False)
        else:
            self._joint.unmark(name, self._fleet.deadline)

    def marks(self) -> builtins.list[str]:
        if self.part.number == 0:
            return self._joint.marks()
        names: builtins.list[str] = self.led(
            "marks", pb.MarksRequest(), lambda reply: [*reply.marks.names]
        )
        return names

    def snapshot(self, uri: str, *, at: str | None = None) -> Snapshot:
        if self.part.number == 0:
            return self._joint.snapshot(uri, at, self._fleet.deadline)
        asked = pb.SnapshotRequest(uri=uri, at=at)
        taken: Snapshot = self.led(
            "snapshot", asked, lambda reply: administration.snapshot_of(reply.snapshot), again=False
        )
        return taken

    def restore(self, uri: str, *, number: int | None = None) -> builtins.list[str]:
        """Makes the memories of a snapshot in all parts: in part 0 last; returns their names."""
        if self.part.number:
            asked = pb.RestoreRequest(uri=uri, number=number)
            done: builtins.list[str] = self.led(
                "restore", asked, lambda reply: [*reply.restore.memories], again=False
            )
            return done
        with self._fleet.deadline.held(self.own.making, "other memories"):
            fan, turn = self._fleet.fan, self.own.next_turn
            return fetching.restore(self.store, self._once, fan, uri, number, turn)

    def topology(self) -> pb.TopologyReply:
        now, part = self.membership.topology, to_part(self.part)
        servers, cluster = now.servers, now.cluster
        return pb.TopologyReply(version=now.version, servers=servers, part=part, cluster=cluster)

    # Rows of one moment.

    @property
    def fan(self) -> Fan:
        return self._fleet.fan

    def make_cut(self) -> str:
        if self.part.number == 0:
            return self._joint.make(self._fleet.deadline)
        asked = pb.CutRequest(step="make")
        cut: str = self.led("cut", asked, lambda reply: reply.cut.cut, again=False)
        return cut

    def drop_cut(self, cut: str) -> None:
        if self.part.number == 0:
            self._joint.drop(cut)
        else:
            self.led("cut", pb.CutRequest(step="drop", cut=cut), nothing)

    def rows_of(self, number: int, asked: pb.RowsRequest) -> pb.RowsReply:
        """Rows of a part at a cut."""
        if number == self.part.number:
            return still_rows(self.store, asked)
        reply: pb.RowsReply = self._ask(number, "rows", asked, itself)
        return reply

    def load(self, start: pb.LoadRequest, deadline: Deadline) -> SpreadLoad:
        """A load of a whole memory, that is to be begun."""
        return SpreadLoad(self._loads, start, deadline)

    def export(self, asked: pb.ExportRequest, most_bytes: int, left_s: float | None) -> Any:
        """An export of a whole memory, that is begun."""
        deadline = Deadline(left_s)

        def within(work: Callable[[], Any]) -> Any:
            return self._fleet.within(deadline, work)

        config = within(lambda: self.memory(asked.memory).config)
        made = SpreadExport(self, config, within, asked, most_bytes)
        try:
            made.begin()
        except BaseException:
            made.end()
            raise
        return made

    def lead(self, asked: pb.LeadRequest, deadline_s: float | None) -> pb.LeadReply:
        """Does for all what part 0 alone can."""
        self.own.check(asked.part)
        verb = asked.WhichOneof("verb")
        if verb is None or self.part.number:
            raise ShardElsewhere("that is done by part 0", got=f"part {self.part}")
        message = getattr(asked, verb)
        if verb in ("append", "allocate"):
            memory = self.memory(message.memory)
            check_made(message.memory, message.made, memory.made)
            do = partial(VERBS[verb].do, memory, message, deadline_s)
            return pb.LeadReply(slots=self.within(deadline_s, do))
        if verb == "cut":
            return pb.LeadReply(cut=self.within(deadline_s, partial(self._led_cut, message)))
        if verb == "describe":
            memory = self.memory(message.memory)
            told = pb.DescribeReply(config=codec.to_config(memory.config), made=memory.made)
            return pb.LeadReply(describe=told)
        done = self.within(deadline_s, partial(ADMIN[verb].do, cast(Any, self), message))
        return pb.LeadReply(**{verb: done})

    def led(
        self,
        verb: str,
        message: Any,
        decode: Callable[[Any], Any],
        deadline_s: float | None = None,
        again: bool = True,
    ) -> Any:
        """Has part 0 do it; decode: what it returns, of the `LeadReply`."""
        whole: dict[str, Any] = {"part": to_part(Part(0, self.part.of)), verb: message}
        asked = splice.message(pb.LeadRequest, **whole)
        return self._ask(0, "lead", asked, decode, deadline_s, again)

    def next_request(self) -> RequestId:
        return self._numbering.next()

    def close(self) -> None:
        self._loads.close()
        self._fleet.close()

    def _forget(self, name: str) -> None:
        with self._finding:
            self._memories.pop(name, None)

    def _spread(
        self, name: str, config: MemoryConfig, made: int, held: HeldMemory | None = None
    ) -> SpreadMemory | SpreadEncodedMemory:
        """A memory over its parts.  held: that which is here."""
        parts: builtins.list[MemoryPart] = []
        for number in range(holders(config.shards, self.part.of)):
            own = held if number == self.part.number else None
            part = Part(number, self.part.of)
            parts.append(own or RemotePart(self._fleet, part, name, config, made))
        leader: Any = None if self.part.number == 0 else _Leader(self, name, config, made)
        fan, next_request = self._fleet.fan, self.next_request
        how: dict[str, Any] = {"allocates": leader, "made": made}
        spread = SpreadMemory(name, config, parts, fan, next_request, **how)
        if config.encoding is None:
            return spread
        sides: builtins.list[EncodedPart] = [
            RemoteSums(part)
            if isinstance(part, RemotePart)
            else cast(HeldEncodedMemory, self.store.memory(name))
            for part in parts
        ]
        memories: Any = {each: self.memory(each) for each in config.encoding_config.memories}
        return SpreadEncodedMemory(spread, memories, sides, leader)

    def _ask(
        self,
        number: int,
        verb: str,
        message: Any,
        decode: Callable[[Any], Any],
        deadline_s: float | None = None,
        again: bool = True,
    ) -> Any:
        request = Request(SPREAD_SERVICE, verb, message, decode, again, deadline_s)
        return self._fleet.ask(number, request)

    def _cut(self, number: int, asked: pb.CutRequest, deadline_s: float | None) -> pb.CutReply:
        if number == self.part.number:
            return joint.step(self.store, asked, self._fleet.deadline)
        reply: pb.CutReply = self._once(number, "cut", asked, deadline_s)
        return reply

    def _led_cut(self, asked: pb.CutRequest) -> pb.CutReply:
        if asked.step == "make":
            return pb.CutReply(cut=self._joint.make(self._fleet.deadline))
        if asked.step != "drop":
            raise InvalidArgument("no such step", got=repr(asked.step[:64]))
        self._joint.drop(joint.checked(asked.cut))
        return pb.CutReply()

    def _once(self, number: int, verb: str, message: Any, deadline_s: float | None) -> Any:
        """Has a part do something, and not again: what of it is lost is told."""
        return self._ask(number, verb, message, itself, deadline_s, again=False)


class _Leader:
    """What takes the least used rows of a memory, where part 0 is."""

    def __init__(self, spreading: Spreading, name: str, config: MemoryConfig, made: int) -> None:
        self._spreading, self._name, self._made = spreading, name, made
        self._requests = MemoryRequests(name, config, spreading.next_request, made)

    def append(self, *args: Any, **kwargs: Any) -> Slots:
        return self._led(self._requests.append(*args, **kwargs))

    def allocate(self, *args: Any, **kwargs: Any) -> Slots:
        return self._led(self._requests.allocate(*args, **kwargs))

    def refresh(self, limit: int | None = None) -> Refreshed:
        asked = pb.RefreshRequest(memory=self._name, limit=limit, made=self._made)
        done: Refreshed = self._spreading.led(
            "refresh", asked, lambda reply: refreshed(reply.refresh)
        )
        return done

    def _led(self, request: Request[Slots]) -> Slots:
        def decode(reply: pb.LeadReply) -> Slots:
            return request.decode(reply.slots)

        slots: Slots = self._spreading.led(
            request.verb, request.message, decode, request.deadline_s
        )
        return slots


def _config(reply: pb.LeadReply) -> tuple[MemoryConfig, int]:
    """With the number under which the memory was made."""
    return codec.config_of(reply.describe.config), reply.describe.made


def _as_is(topology: Topology, left_s: float) -> None:
    """Who has a topology told it looks for no other."""
