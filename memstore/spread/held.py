"""HeldMemory: the shards of a memory that one of several servers holds, and what the others ask.

A call on the whole memory is cut by part: each server is asked for its own, under the request id
and the digest of the whole, so that a retry of any of it is known for what it is. Slots are given
out, and the least used are chosen, where shard 0 is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from memstore.changes import NOTHING, Change, Outline
from memstore.changing import LOADER
from memstore.deadline import Deadline
from memstore.embedded import EmbeddedMemory
from memstore.errors import InvalidArgument, MemoryInUse, Overloaded, ShardElsewhere, Unsupported
from memstore.memory import NO_SLOT, Applied, Array, Description, SearchOptions, SearchResult, Slots
from memstore.retries import Asked, Reply
from memstore.shard.requests import Request
from memstore.spread.holding import Gate, Key

GIVEN_OUT = "\0slots of "
"""Before the name of a client: its window of the slots that it was given, apart from its others."""


@dataclass(frozen=True)
class Given:
    """Slots that were given out for a part of an `append` or `allocate`.

    of: rows of the whole call.  first: of an append, the first slot of the whole call.
    places_B, generations_B: of an allocate, where each row stands in the whole call, and the
    generation that its slot had when it was chosen.  evicted_E: slots that an append erases to make
    room.  epoch: of sums, that in which they were begun.
    """

    of: int
    first: int = NO_SLOT
    places_B: Slots = field(default_factory=NOTHING.copy)
    evicted_E: Slots = field(default_factory=NOTHING.copy)
    epoch: int | None = None
    generations_B: Slots = field(default_factory=NOTHING.copy)


@dataclass(frozen=True)
class LeastUsed:
    """The least used slots of a part, and what it knows of the request that asks for them.

    live: rows that are there.  done: rows that the request changed before.  slots_L, priority_L: in
    order of (priority, slot), of shards that do not know the request, and generations_L.
    places_A, given_A: what those that know it handed out.
    """

    live: int
    done: int
    slots_L: Slots
    priority_L: Array
    places_A: Slots = field(default_factory=NOTHING.copy)
    given_A: Slots = field(default_factory=NOTHING.copy)
    generations_L: Slots = field(default_factory=NOTHING.copy)


class HeldMemory(EmbeddedMemory):
    """Some of the shards of a memory. What is asked of it by slot must be about these alone."""

    epoch: int | None = None
    """Of an encoded memory: sums that were begun in another are not put."""

    drift: Callable[[], float] | None = None
    """Of an encoded memory: what tells its drift."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loader: object = None
        """Who alone is given slots, while a memory is loaded."""
        self.gate = Gate()
        """What mutations pass through; that of a store is one for all its memories."""

    @property
    def leads(self) -> bool:
        """Whether it has shard 0, and so gives out slots."""
        return self.part.number == 0

    def append(self, *_: Any, **__: Any) -> Slots:
        raise self._apart()

    def allocate(self, *_: Any, **__: Any) -> Slots:
        raise self._apart()

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> SearchResult:
        """What its shards have; narrower than k where that is more than they ever held."""
        if options.widens:
            raise Unsupported(
                "union, sample_clusters and sample_random need all shards of a memory",
                hint="ask a server of all, or leave them out",
            )
        if not self.leads and not isinstance(k, bool) and isinstance(k, int | np.integer):
            k = min(int(k), self.most_found)
        return super().search(queries, k, options)

    def describe(self) -> Description:
        drift = None if self.drift is None else self.drift()
        return replace(super().describe(), drift=drift)

    def prepare(self, outline: Outline, asked: Asked, deadline: Deadline) -> float:
        """Raises what a change would raise; returns the seconds that it waited for the index."""
        key = self._key(asked)
        new = self.gate.begin(key, outline.parts, deadline, lambda: self.knows(key))
        try:
            delay_s = self.admit(deadline) if outline.freshens else 0.0
            with self._mutating(deadline):
                self._check_open()
                slots_B = outline.slots_B[self.known(asked).left(outline.slots_B)]
                if outline.verb == "append":
                    self._make_room(slots_B)
                else:
                    self.check(outline.verb, slots_B, outline.reach)
        except BaseException:
            if new:
                self.gate.refuse(key)
            raise
        return delay_s

    def knows(self, key: Key) -> bool:
        """Whether it did something of a request."""
        return any(shard.windows.has(key.client, key.number) for shard in self.shards)

    def _key(self, asked: Asked) -> Key:
        return Key(self._name, asked.id.client, asked.id.number)

    def give_out(self, count: int, asked: Asked, deadline: Deadline) -> int:
        """The first of `count` new slots in a row, which nobody else is given.

        It is logged before it is told, and told again to who asks again: so a crash leaves holes,
        never a slot twice.
        """
        if not self.leads:
            raise ShardElsewhere("slots are given out by part 0", got=f"part {self.part}")
        shard, client = self.shards[0], GIVEN_OUT + asked.id.client
        with self._mutating(deadline):
            self._check_open()
            reply = shard.windows.check(
                client, asked.id.number, asked.digest, lambda: asked.former_digest
            )
            if reply is not None:
                return Reply.unpacked(reply).first
            self._check_loader()
            self.known(asked)
            first = self.next_slot
            told = Reply(asked=count, of=count, first=first).packed()
            request = Request(client, asked.id.number, asked.digest, told)
            shard.give_out(first + count, request)
            self.next_slot = first + count
        return first

    def apply(self, change: Change, given: Given, asked: Asked, deadline: Deadline) -> Applied:
        """Does the part of a change that is about its slots."""
        key = self._key(asked)
        with self.gate.doing(key, lambda: self.knows(key)):
            return self._let_in(change, given, asked, deadline)

    def _let_in(self, change: Change, given: Given, asked: Asked, deadline: Deadline) -> Applied:
        if self.epoch is None:
            return self._applied(change, given, asked, deadline)
        if change.verb not in ("append", "write", "touch", "erase"):
            raise Unsupported(f"memory {self._name!r} is encoded and has no rows of its own")
        with self._mutating(deadline):
            if change.freshens or change.verb == "write":
                self.check_epoch(given.epoch)
            return self._applied(change, given, asked, deadline)

    def check_epoch(self, epoch: int | None) -> None:
        """Raises `MemoryInUse` where sums were begun in another epoch; with mutations kept off."""
        if epoch != self.epoch:
            raise MemoryInUse(
                f"memory {self._name!r} was refreshed while its parts were summed",
                hint="sum them again",
            )

    def _applied(self, change: Change, given: Given, asked: Asked, deadline: Deadline) -> Applied:
        if change.verb == "append":
            return self.put_given(change, given, asked, deadline)
        if change.verb == "allocate":
            return self.renew_given(change, given, asked, deadline)
        return self.do(change, asked, deadline, given.of)

    def put_given(self, change: Change, given: Given, asked: Asked, deadline: Deadline) -> Applied:
        """Does its part of an `append`, in place of rows that leave."""
        delay_s = self.admit(deadline)
        with self._mutating(deadline):
            self._check_open()
            known = self.known(asked)
            change = change.taken(known.left(change.slots_B))
            self._make_room(change.slots_B)
            (evicted_E,) = known.rest(given.evicted_E)
            self.next_slot = max(self.next_slot, int(change.slots_B.max(initial=-1)) + 1)
            self.put(
                change.slots_B,
                change.rows["keys"],
                change.rows["values"],
                change.rows["records"],
                step=change.facts["step"],
                evicted=evicted_E[self.alive(evicted_E)],
                asked=asked,
                of=given.of,
                first=given.first,
            )
        return Applied(applied=known.applied + len(change), delay_s=delay_s)

    def renew_given(
        self, change: Change, given: Given, asked: Asked, deadline: Deadline
    ) -> Applied:
        """Does its part of an `allocate`; raises `Overloaded` where others were given its slots
        since they were chosen."""
        delay_s = self.admit(deadline)
        with self._mutating(deadline):
            known = self.known(asked)
            left = known.left(change.slots_B)
            change, places_B = change.taken(left), given.places_B[left]
            self.check_known(change.slots_B)
            if len(given.generations_B):
                self._check_tenants(change.slots_B, given.generations_B[left])
            records, step = change.rows["records"], change.facts["step"]
            self._renew(change.slots_B, places_B, records, step, asked, given.of)
        return Applied(applied=known.applied + len(change), delay_s=delay_s)

    def least(self, count: int, asked: Asked, deadline: Deadline) -> LeastUsed:
        """Its `count` least used slots, for a request that may have been here before."""
        with self._mutating(deadline):
            self._check_open()
            if count:
                self._check_loader()
            known = self.known(asked)
            slots_L, priority_L = self._by_use(min(count, self.live), known.shards)
            places_A, given_A = known.handed_out
            generations_L = self._tenants(slots_L)
        facts = slots_L, priority_L, places_A, given_A, generations_L
        return LeastUsed(self.live, known.applied, *facts)

    def _check_loader(self) -> None:
        """Raises `MemoryInUse` where slots are given to a load alone."""
        if self.loader is not None and LOADER.get() is not self.loader:
            raise MemoryInUse(
                f"memory {self._name!r} is being loaded, or that is taken back",
                hint="wait until that is done",
            )

    def _tenants(self, slots_B: Slots) -> Slots:
        generations_B = np.empty(len(slots_B), np.int64)
        for shard, at, rows in self._split(slots_B):
            generations_B[at] = shard.generations(rows)
        return generations_B

    def _check_tenants(self, slots_B: Slots, chosen_B: Slots) -> None:
        others = slots_B[self._tenants(slots_B) != chosen_B]
        if len(others):
            raise Overloaded(
                "others were given the least used slots meanwhile; nothing was changed",
                retry_after_s=0.0,
                got=others[:5].tolist(),
            )

    def _make_room(self, slots_B: Slots) -> None:
        """Raises where new rows have none, or where there are rows already."""
        if self.alive(slots_B).any():
            raise InvalidArgument("the slots were given to others", got=slots_B[:5].tolist())
        for shard, _, rows in self._split(slots_B):
            shard.reserve(rows)

    def _apart(self) -> Unsupported:
        return Unsupported(
            f"memory {self._name!r} is part {self.part} here: slots are given out over all parts",
            hint="ask a server",
        )
