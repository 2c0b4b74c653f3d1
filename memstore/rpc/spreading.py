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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from memstore import checks
from memstore.changes import Change, Changes, Outline
from memstore.checkpoints import base_of
from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.errors import (
    InvalidArgument,
    MemoryExists,
    RequestTooOld,
    ShardElsewhere,
    UnknownMemory,
    Unsupported,
    WrongShape,
)
from memstore.held import Given, HeldMemory
from memstore.held_encoded import HeldEncodedMemory
from memstore.memory import Array, Refreshed, RequestId, Slots
from memstore.placement import Part, check_made, holders
from memstore.retries import Asked
from memstore.rpc import administration, codec, fetching, joint, splice
from memstore.rpc.calls import Numbering, Request
from memstore.rpc.fleet import Fleet
from memstore.rpc.joint import Joint
from memstore.rpc.membership import Membership
from memstore.rpc.parts import RemotePart, asked_of, to_least, to_part, widened
from memstore.rpc.requests import MemoryRequests, refreshed
from memstore.rpc.spread_export import SpreadExport, still_rows
from memstore.rpc.spread_load import Loads, SpreadLoad
from memstore.rpc.sums import RemoteSums, summed
from memstore.rpc.target import Target
from memstore.rpc.topology import Route, Topology
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import ADMIN, SPREAD_SERVICE, VERBS, Role
from memstore.rpc.ways import Ways
from memstore.shard.requests import DIGEST_BYTES
from memstore.snapshot import Snapshot
from memstore.spread import Fan, MemoryPart, SpreadMemory
from memstore.spread_encoded import EncodedPart, SpreadEncodedMemory
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
        self._numbering, self._message_bytes = Numbering(), target.message_bytes
        self._memories: dict[str, tuple[HeldMemory, SpreadMemory | SpreadEncodedMemory]] = {}
        # Memories are made and dropped one at a time, and found by one thread at a time: of each
        # there is to be one that chooses the least used of its rows.
        self._making, self._finding = threading.RLock(), threading.Lock()
        self._joint = Joint(store, self._cut, self._fleet.fan, self._making)
        how = self.memory, self.next_request, self.within, self._making
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
        held = self._mine(name)
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
            self.led("create", message, _nothing)
            return
        with self._fleet.deadline.held(self._making, "other memories"):
            if name in self.store.list():
                raise MemoryExists(f"memory {name!r} is there already", hint="drop it first")
            self.store.check_parts(name, config, self.part.of)
            turn, text = self._next_turn(), codec.to_config(config)
            for number in range(1, self.part.of):
                part = to_part(Part(number, self.part.of))
                if number < holders(config.shards, self.part.of):
                    made = pb.MakeRequest(part=part, memory=name, config=text, turn=turn)
                    self._ask(number, "make", made, _nothing)
                else:
                    # What a drop left there would be taken for a part of this one.
                    gone = pb.UnmakeRequest(part=part, memory=name, turn=turn)
                    self._ask(number, "unmake", gone, _nothing)
            self.store.create(name, config, made=turn)

    def drop(self, name: str, *, made: int = 0) -> None:
        """Takes a memory away: from part 0 first, so that none has it when it is not whole.

        made: only the one that was made under that number; 0 is any.
        """
        if self.part.number:
            if not made:
                with contextlib.suppress(UnknownMemory):  # parts of it may be left
                    made = self.memory(name).made
            self.led("drop", pb.DropRequest(memory=name, made=made), _nothing)
            return
        with self._fleet.deadline.held(self._making, "other memories"):
            held = self._mine(name)
            if held is not None:
                check_made(name, made, held.made)
            turn = self._next_turn()
            there = self._drop(name, turn)
            # What a drop left that was lost in between is taken away too.
            for number in range(1, self.part.of):
                part = to_part(Part(number, self.part.of))
                message = pb.UnmakeRequest(part=part, memory=name, turn=turn)
                there |= self._ask(number, "unmake", message, lambda reply: bool(reply.done))
            if not there:
                self.store.memory(name)  # raises

    def mark(self, name: str) -> None:
        if self.part.number:
            self.led("mark", pb.MarkRequest(name=name), _nothing, again=False)
        else:
            self._joint.mark(name, self._fleet.deadline)

    def unmark(self, name: str) -> None:
        if self.part.number:
            self.led("unmark", pb.UnmarkRequest(name=name), _nothing, again=False)
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
        with self._fleet.deadline.held(self._making, "other memories"):
            fan, turn = self._fleet.fan, self._next_turn
            return fetching.restore(self.store, self._once, fan, uri, number, turn)

    def topology(self) -> pb.TopologyReply:
        now, part = self.membership.topology, to_part(self.part)
        servers, cluster = now.servers, now.cluster
        return pb.TopologyReply(version=now.version, servers=servers, part=part, cluster=cluster)

    # What other servers, and callers that know the topology, ask of this part.

    def held(self, name: str, part: pb.Part) -> HeldMemory:
        """Its part of a memory; raises `ShardElsewhere` and `UnknownMemory`."""
        self.check(part)
        held = self._mine(name)
        if held is None:
            self.store.memory(name)  # raises
            raise UnknownMemory("no such memory", got=repr(name))
        check_made(name, part.made, held.made)
        return held

    def check(self, part: pb.Part) -> None:
        """Raises `ShardElsewhere` where it is another part than it is taken for."""
        if (part.number, part.of) != (self.part.number, self.part.of):
            raise ShardElsewhere(
                "the server holds other shards",
                got=f"a call for part {part.number}/{part.of}",
                expected=f"one for part {self.part}",
                hint="ask for the topology again",
            )

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
            self.led("cut", pb.CutRequest(step="drop", cut=cut), _nothing)

    def rows_of(self, number: int, asked: pb.RowsRequest) -> pb.RowsReply:
        """Rows of a part at a cut."""
        if number == self.part.number:
            return still_rows(self.store, asked)
        reply: pb.RowsReply = self._ask(number, "rows", asked, _itself)
        return reply

    def rows(self, asked: pb.RowsRequest, deadline_s: float | None) -> pb.RowsReply:
        self.check(asked.part)
        return still_rows(self.store, asked)

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

    def prepare(self, asked: pb.PrepareRequest, deadline_s: float | None) -> pb.PrepareReply:
        if asked.verb not in VERBS or VERBS[asked.verb].role != "write":
            raise InvalidArgument("no mutation", got=repr(asked.verb[:64]))
        slots_B = codec.to_array("slots", asked.slots)
        facts = asked.freshens, asked.reach, tuple(asked.parts)
        outline = Outline(cast(Any, asked.verb), slots_B, *facts)
        held = self.held(asked.whole.memory, asked.whole.part)
        delay_s = held.prepare(outline, _request(asked.whole), Deadline(deadline_s))
        return pb.PrepareReply(delay_s=delay_s)

    def apply(self, asked: pb.ApplyRequest, deadline_s: float | None) -> pb.AppliedReply:
        held = self.held(asked.whole.memory, asked.whole.part)
        verb = asked.WhichOneof("change")
        if verb is None:
            raise InvalidArgument("the call has no change")
        change = _change(held.changes, verb, getattr(asked, verb))
        given = Given(asked.whole.rows)
        if verb in ("append", "allocate"):
            change = change.of(_slots("slots", asked.slots, change.facts["count"]))
            places_B = codec.to_array("places", asked.places)
            generations_B = codec.to_array("generations", asked.generations)
            if verb == "allocate":
                places_B = _slots("places", asked.places, len(change))
                _check_rows("generations", generations_B, len(change))
            evicted_E = codec.to_array("evicted", asked.evicted)
            given = Given(asked.whole.rows, asked.first, places_B, evicted_E)
            given = replace(given, generations_B=generations_B)
        given = replace(given, epoch=codec.optional(asked, "epoch"))
        done = held.apply(change, given, _request(asked.whole), Deadline(deadline_s))
        return pb.AppliedReply(applied=done.applied, skipped=done.skipped, delay_s=done.delay_s)

    def give(self, asked: pb.GiveRequest, deadline_s: float | None) -> pb.GiveReply:
        held = self.held(asked.whole.memory, asked.whole.part)
        request, deadline = _request(asked.whole), Deadline(deadline_s)
        return pb.GiveReply(first=held.give_out(asked.whole.rows, request, deadline))

    def least(self, asked: pb.LeastRequest, deadline_s: float | None) -> pb.LeastReply:
        held = self.held(asked.whole.memory, asked.whole.part)
        request, deadline = _request(asked.whole), Deadline(deadline_s)
        return to_least(held.least(asked.count, request, deadline))

    def widen(self, asked: Any, deadline_s: float | None) -> Any:
        held = self.held(asked.memory, asked.part)
        return widened(held, asked, self._message_bytes)

    def encode(self, asked: Any, deadline_s: float | None) -> Any:
        self.held(asked.memory, asked.part)
        memory = self.store.memory(asked.memory)
        if not isinstance(memory, HeldEncodedMemory):
            raise Unsupported(f"memory {memory.name!r} is not encoded")
        return summed(memory, asked)

    def cut(self, asked: pb.CutRequest, deadline_s: float | None) -> pb.CutReply:
        self.check(asked.part)
        return joint.step(self.store, asked, Deadline(deadline_s))

    def fetch(self, asked: pb.FetchRequest, deadline_s: float | None) -> pb.FetchReply:
        self.check(asked.part)
        with Deadline(deadline_s).held(self._making, "other memories"):
            # It is never sent again: what comes again is late.
            self._check_turn(asked.turn, again=False)
            return fetching.fetch(self.store, self._drop, asked)

    def make(self, asked: pb.MakeRequest, deadline_s: float | None) -> pb.MakeReply:
        self.check(asked.part)
        config = codec.config_of(asked.config)
        with Deadline(deadline_s).held(self._making, "other memories"):
            self._check_turn(asked.turn)
            held = self._mine(asked.memory)
            if held is not None and asked.turn and held.made == asked.turn:
                return pb.MakeReply()  # It was done before.
            # What part 0 no longer knows goes first, and what is encoded from it.
            for name in (*self.store.users(asked.memory), asked.memory):
                self._drop(name)
            self.store.create(asked.memory, config, made=asked.turn)
        return pb.MakeReply()

    def unmake(self, asked: pb.UnmakeRequest, deadline_s: float | None) -> pb.UnmakeReply:
        self.check(asked.part)
        with Deadline(deadline_s).held(self._making, "other memories"):
            self._check_turn(asked.turn)
            return pb.UnmakeReply(done=self._drop(asked.memory, asked.turn))

    def lead(self, asked: pb.LeadRequest, deadline_s: float | None) -> pb.LeadReply:
        """Does for all what part 0 alone can."""
        self.check(asked.part)
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

    def _next_turn(self) -> int:
        """A number for what part 0 is about to make or drop, which none has had."""
        turn = self.store.turn + 1
        self.store.note_turn(turn)
        return turn

    def _check_turn(self, turn: int, *, again: bool = True) -> None:
        """Raises `RequestTooOld` where a memory was made or dropped since; 0 is not known.

        again: it may be the same that was made or dropped last.
        """
        least = self.store.turn + (not again)
        if turn and turn < least:
            raise RequestTooOld(
                "memories were made or dropped since; nothing was changed",
                got=f"number {turn} of part 0",
                expected=f"≥ {least}",
                hint="where part 0 was put back from an older copy, make it again",
            )

    def _drop(self, name: str, turn: int = 0) -> bool:
        """Takes its part of a memory away, and keeps nothing of it; returns whether it had one.

        turn: the number of the dropping.
        """
        there = name in self.store.list()
        if there:
            self.store.drop(name, turn=turn)
        else:
            self.store.note_turn(turn)
        with self._finding:
            self._memories.pop(name, None)
        return there

    def _mine(self, name: str) -> HeldMemory | None:
        try:
            held = self.store.memory(name)
        except UnknownMemory:
            return None
        base = base_of(cast(Any, held))
        assert isinstance(base, HeldMemory)
        return base

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
        return self._ask(number, verb, message, _itself, deadline_s, again=False)


class _Leader:
    """What takes the least used rows of a memory, where part 0 is."""

    def __init__(self, spreading: Spreading, name: str, config: MemoryConfig, made: int) -> None:
        self._spreading, self._name = spreading, name
        self._requests = MemoryRequests(name, config, spreading.next_request, made)

    def append(self, *args: Any, **kwargs: Any) -> Slots:
        return self._led(self._requests.append(*args, **kwargs))

    def allocate(self, *args: Any, **kwargs: Any) -> Slots:
        return self._led(self._requests.allocate(*args, **kwargs))

    def refresh(self, limit: int | None = None) -> Refreshed:
        asked = pb.RefreshRequest(memory=self._name, limit=limit)
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


def role_of(verb: str, message: Any) -> Role:
    """What takes an rpc of the `SpreadService`."""
    if verb == "widen":
        return "read"
    change = message.verb if verb == "prepare" else None
    if verb == "apply" and not message.HasField("epoch"):
        change = message.WhichOneof("change")
    if change is None or change in ("append", "allocate"):
        return "peer"
    return "write"


def memory_of(message: Any) -> str | None:
    """The memory that it is about; None is the store as a whole."""
    fields = message.DESCRIPTOR.fields_by_name
    if "question" in fields:
        return str(message.memory)
    return str(message.whole.memory) if "whole" in fields else None


def _change(changes: Changes, verb: str, asked: Any) -> Change:
    """The change that a message asks for, checked as that of any caller."""
    given, optional = codec.given, codec.optional
    if verb == "erase":
        return changes.erase(codec.to_array("slots", asked.slots))
    if verb == "touch":
        slots_B = codec.to_array("slots", asked.slots)
        return changes.touch(slots_B, asked.step, given(asked, "weights"))
    if verb == "update":
        slots_B = codec.to_array("slots", asked.slots)
        grads = given(asked, "key_grads"), given(asked, "value_grads")
        return changes.update(slots_B, *grads, optional(asked, "lr"), given(asked, "generations"))
    if verb == "blend":
        slots_B, weights_B, erase_BD, add_BD = (
            codec.to_array(name, getattr(asked, name))
            for name in ("slots", "weights", "erase", "add")
        )
        rest = optional(asked, "step"), given(asked, "generations")
        return changes.blend(slots_B, weights_B, erase_BD, add_BD, *rest)
    table, step = codec.to_table(optional(asked, "records")), optional(asked, "step")
    if verb == "allocate":
        return changes.allocate(asked.n, step, table)
    rows = given(asked, "keys"), given(asked, "values"), table
    if verb == "append":
        return changes.append(*rows, step)
    return changes.write(codec.to_array("slots", asked.slots), *rows, step)


def _slots(name: str, tensor: pb.Tensor, count: int) -> Slots:
    """As many slots as there are rows."""
    slots_B = checks.slots(codec.to_array(name, tensor), unique=True)
    _check_rows(name, slots_B, count)
    return slots_B


def _check_rows(name: str, numbers_B: Array, count: int) -> None:
    if len(numbers_B) != count:
        raise WrongShape(f"{name} have the wrong length", got=len(numbers_B), expected=count)


def _request(whole: pb.Whole) -> Asked:
    if len(whole.digest) != DIGEST_BYTES:
        raise InvalidArgument(
            "the digest has the wrong length", got=len(whole.digest), expected=DIGEST_BYTES
        )
    return asked_of(whole)


def _config(reply: pb.LeadReply) -> tuple[MemoryConfig, int]:
    """With the number under which the memory was made."""
    return codec.config_of(reply.describe.config), reply.describe.made


def _itself(reply: Any) -> Any:
    return reply


def _nothing(_: Any) -> None:
    """What is returned by what only does something."""


def _as_is(topology: Topology, left_s: float) -> None:
    """Who has a topology told it looks for no other."""
