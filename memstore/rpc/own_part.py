"""OwnPart: what other servers, and callers that know the topology, ask of the part that is here.

Each call says which part it takes the server for, and is refused where that is another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from memstore.changes import Outline
from memstore.deadline import Deadline
from memstore.durable.checkpoints import base_of
from memstore.errors import (
    InvalidArgument,
    RequestTooOld,
    ShardElsewhere,
    UnknownMemory,
    Unsupported,
)
from memstore.placement import Part, check_made
from memstore.rpc import codec, fetching, joint
from memstore.rpc.asked_changes import change_of, check_rows, request_of, slots_of
from memstore.rpc.parts import to_least, widened
from memstore.rpc.spread_export import still_rows
from memstore.rpc.sums import summed
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import VERBS, Role
from memstore.spread.held import Given, HeldMemory
from memstore.spread.held_encoded import HeldEncodedMemory
from memstore.store import Store


class OwnPart:
    """The part of its memories that a store has. Any thread may use it."""

    def __init__(self, store: Store, message_bytes: int, forget: Callable[[str], None]) -> None:
        """message_bytes: of a reply.  forget: is told of a memory that is dropped."""
        self._store, self._message_bytes, self._forget = store, message_bytes, forget
        self.making = threading.RLock()
        """Held while memories are made and dropped, and moments of all parts taken."""

    @property
    def part(self) -> Part:
        return self._store.part

    def held(self, name: str, part: pb.Part) -> HeldMemory:
        """Its part of a memory; raises `ShardElsewhere` and `UnknownMemory`."""
        self.check(part)
        held = self.mine(name)
        if held is None:
            self._store.memory(name)  # raises
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

    def rows(self, asked: pb.RowsRequest, deadline_s: float | None) -> pb.RowsReply:
        self.check(asked.part)
        return still_rows(self._store, asked)

    def prepare(self, asked: pb.PrepareRequest, deadline_s: float | None) -> pb.PrepareReply:
        if asked.verb not in VERBS or VERBS[asked.verb].role != "write":
            raise InvalidArgument("no mutation", got=repr(asked.verb[:64]))
        slots_B = codec.to_array("slots", asked.slots)
        facts = asked.freshens, asked.reach, tuple(asked.parts)
        outline = Outline(cast(Any, asked.verb), slots_B, *facts)
        held = self.held(asked.whole.memory, asked.whole.part)
        delay_s = held.prepare(outline, request_of(asked.whole), Deadline(deadline_s))
        return pb.PrepareReply(delay_s=delay_s)

    def apply(self, asked: pb.ApplyRequest, deadline_s: float | None) -> pb.AppliedReply:
        held = self.held(asked.whole.memory, asked.whole.part)
        verb = asked.WhichOneof("change")
        if verb is None:
            raise InvalidArgument("the call has no change")
        change = change_of(held.changes, verb, getattr(asked, verb))
        given = Given(asked.whole.rows)
        if verb in ("append", "allocate"):
            change = change.of(slots_of("slots", asked.slots, change.facts["count"]))
            places_B = codec.to_array("places", asked.places)
            generations_B = codec.to_array("generations", asked.generations)
            if verb == "allocate":
                places_B = slots_of("places", asked.places, len(change))
                check_rows("generations", generations_B, len(change))
            evicted_E = codec.to_array("evicted", asked.evicted)
            given = Given(asked.whole.rows, asked.first, places_B, evicted_E)
            given = replace(given, generations_B=generations_B)
        given = replace(given, epoch=codec.optional(asked, "epoch"))
        done = held.apply(change, given, request_of(asked.whole), Deadline(deadline_s))
        return pb.AppliedReply(applied=done.applied, skipped=done.skipped, delay_s=done.delay_s)

    def give(self, asked: pb.GiveRequest, deadline_s: float | None) -> pb.GiveReply:
        held = self.held(asked.whole.memory, asked.whole.part)
        request, deadline = request_of(asked.whole), Deadline(deadline_s)
        return pb.GiveReply(first=held.give_out(asked.whole.rows, request, deadline))

    def least(self, asked: pb.LeastRequest, deadline_s: float | None) -> pb.LeastReply:
        held = self.held(asked.whole.memory, asked.whole.part)
        request, deadline = request_of(asked.whole), Deadline(deadline_s)
        return to_least(held.least(asked.count, request, deadline))

    def widen(self, asked: Any, deadline_s: float | None) -> Any:
        held = self.held(asked.memory, asked.part)
        return widened(held, asked, self._message_bytes)

    def encode(self, asked: Any, deadline_s: float | None) -> Any:
        self.held(asked.memory, asked.part)
        memory = self._store.memory(asked.memory)
        if not isinstance(memory, HeldEncodedMemory):
            raise Unsupported(f"memory {memory.name!r} is not encoded")
        return summed(memory, asked)

    def cut(self, asked: pb.CutRequest, deadline_s: float | None) -> pb.CutReply:
        self.check(asked.part)
        return joint.step(self._store, asked, Deadline(deadline_s))

    def fetch(self, asked: pb.FetchRequest, deadline_s: float | None) -> pb.FetchReply:
        self.check(asked.part)
        with Deadline(deadline_s).held(self.making, "other memories"):
            # It is never sent again: what comes again is late.
            self.check_turn(asked.turn, again=False)
            return fetching.fetch(self._store, self.drop, asked)

    def make(self, asked: pb.MakeRequest, deadline_s: float | None) -> pb.MakeReply:
        self.check(asked.part)
        config = codec.config_of(asked.config)
        with Deadline(deadline_s).held(self.making, "other memories"):
            self.check_turn(asked.turn)
            held = self.mine(asked.memory)
            if held is not None and asked.turn and held.made == asked.turn:
                return pb.MakeReply()  # It was done before.
            # What part 0 no longer knows goes first, and what is encoded from it.
            for name in (*self._store.users(asked.memory), asked.memory):
                self.drop(name)
            self._store.create(asked.memory, config, made=asked.turn)
        return pb.MakeReply()

    def unmake(self, asked: pb.UnmakeRequest, deadline_s: float | None) -> pb.UnmakeReply:
        self.check(asked.part)
        with Deadline(deadline_s).held(self.making, "other memories"):
            self.check_turn(asked.turn)
            return pb.UnmakeReply(done=self.drop(asked.memory, asked.turn))

    def next_turn(self) -> int:
        """A number for what part 0 is about to make or drop, which none has had."""
        turn = self._store.turn + 1
        self._store.note_turn(turn)
        return turn

    def check_turn(self, turn: int, *, again: bool = True) -> None:
        """Raises `RequestTooOld` where a memory was made or dropped since; 0 is not known.

        again: it may be the same that was made or dropped last.
        """
        least = self._store.turn + (not again)
        if turn and turn < least:
            raise RequestTooOld(
                "memories were made or dropped since; nothing was changed",
                got=f"number {turn} of part 0",
                expected=f"≥ {least}",
                hint="where part 0 was put back from an older copy, make it again",
            )

    def drop(self, name: str, turn: int = 0) -> bool:
        """Takes its part of a memory away, and keeps nothing of it; returns whether it had one.

        turn: the number of the dropping.
        """
        there = name in self._store.list()
        if there:
            self._store.drop(name, turn=turn)
        else:
            self._store.note_turn(turn)
        self._forget(name)
        return there

    def mine(self, name: str) -> HeldMemory | None:
        """What is here of a memory, if there is any."""
        try:
            held = self._store.memory(name)
        except UnknownMemory:
            return None
        base = base_of(cast(Any, held))
        assert isinstance(base, HeldMemory)
        return base


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
