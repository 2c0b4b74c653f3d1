"""SpreadMemory: one memory over the parts that several servers hold, with the verbs of any other.

    facts = SpreadMemory("facts", config, parts, fan, next_request)
    facts.update(slots, grads)       each part is asked whether it can, then each does its own

A part is here or elsewhere: a `HeldMemory`, or what asks a server for one. What a call finds is
merged; a mutation of one part goes there at once. One of several parts is prepared by each before
the first applies it, so what would be refused changes nothing; where one is lost in between,
`HalfDone` is raised, and who asks again under the same request id gets the rest done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa

from memstore import checks, routing, widening
from memstore.changes import Change, Changes
from memstore.changing import too_few
from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.dtypes import counting, storage
from memstore.errors import (
    InvalidArgument,
    MemstoreError,
    Unreachable,
    Unsupported,
)
from memstore.memory import (
    MOST,
    NO_SLOT,
    Applied,
    Array,
    Description,
    LookupResult,
    Memory,
    Numbers,
    Records,
    Refreshed,
    RequestId,
    Rows,
    SearchOptions,
    SearchResult,
    Slots,
    SlotsLike,
)
from memstore.placement import homes
from memstore.reading import LEAST_MAX_K
from memstore.retries import Asked
from memstore.spread.candidates import SpreadCandidates
from memstore.spread.fan import Fan, MemoryPart, SearchAll, all_of, done_by, insisted, lost_by
from memstore.spread.held import Given, LeastUsed

NOTHING = np.empty(0, np.int64)


class SpreadMemory:
    """A `Memory` over all its parts, in order of their numbers."""

    next_slot = MOST
    """Part 0 alone knows it: here no slot is taken for one that never was."""

    def __init__(
        self,
        name: str,
        config: MemoryConfig,
        parts: Sequence[MemoryPart],
        fan: Fan,
        next_request: Callable[[], RequestId],
        *,
        appends: Memory | None = None,
        allocates: Memory | None = None,
        search_all: SearchAll | None = None,
        made: int = 0,
    ) -> None:
        """appends, allocates: who appends, and who does what takes the least used of all parts;
        None does so here: of all servers, one may do the second.  search_all: a shorter way than
        to have each part searched by itself.  made: the number under which it was made."""
        self._name, self._config, self._parts, self.made = name, config, parts, made
        self.fan, self._next_request = fan, next_request
        self._appends, self._allocates = appends, allocates
        self._search_all = search_all or self._search_each
        self._changes = Changes(name, config)
        self._choosing = threading.RLock()

    @property
    def name(self) -> str:
        return self._name

    @property
    def config(self) -> MemoryConfig:
        return self._config

    def append(
        self,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        capacity = self._config.capacity
        other = self._appends if capacity is None else self._allocates
        if other is not None:
            numbered: dict[str, Any] = {"request_id": request_id, "deadline_s": deadline_s}
            return other.append(keys, values, records, step=step, **numbered)
        change = self._changes.append(keys, values, records, step)
        return self.put_new(change, self.asked(change, request_id), Deadline(deadline_s))

    def put_new(
        self, change: Change, asked: Asked, deadline: Deadline, epochs: Sequence[int] = ()
    ) -> Slots:
        """Appends what is checked.  epochs: of sums, by part, those in which they were begun."""
        count, capacity = change.facts["count"], self._config.capacity
        if capacity is None:
            slots_B = self._given(count, asked, deadline)
            self._apply(change.of(slots_B), asked, deadline, first=slots_B, epochs=epochs)
            return slots_B
        if count > capacity:
            raise InvalidArgument(
                "more rows than the capacity", got=count, expected=f"≤ {capacity}"
            )
        with deadline.held(self._choosing, "other mutations"):
            slots_B = self._given(count, asked, deadline)
            evicted_E = self._evicted(slots_B, capacity, asked, deadline)
            new = change.of(slots_B)
            self._apply(new, asked, deadline, first=slots_B, evicted_E=evicted_E, epochs=epochs)
        return slots_B

    def put_over(
        self, change: Change, asked: Asked, deadline: Deadline, epochs: Sequence[int] = ()
    ) -> Applied:
        """Overwrites rows by what is checked.  epochs: as in `put_new`."""
        return self._apply(change, asked, deadline, epochs=epochs)

    def done(self, asked: Asked, deadline: Deadline) -> int:
        """How many rows a request changed before; raises `RequestConflict`."""
        return sum(each.done for each in self._least(0, asked, deadline))

    def alive(self, slots_B: Slots) -> Array:
        """Which slots are there, bool `[B]`."""
        alive_B = np.zeros(len(slots_B), bool)
        split = self.split(slots_B) if len(slots_B) else []
        calls = [partial(self._parts[i].candidates.standing, slots_B[at], None) for i, at in split]
        for (_, at), found in zip(split, all_of(self.fan(calls)) if calls else [], strict=True):
            alive_B[at] = found
        return alive_B

    def write(
        self,
        slots: SlotsLike,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        change = self._changes.write(slots, keys, values, records, step)
        return self._do(change, request_id, deadline_s)

    def blend(
        self,
        slots: SlotsLike,
        weights: Numbers,
        erase: Array,
        add: Array,
        *,
        step: int | None = None,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        change = self._changes.blend(slots, weights, erase, add, step, generations)
        return self._do(change, request_id, deadline_s)

    def update(
        self,
        slots: SlotsLike,
        key_grads: Array | None = None,
        value_grads: Array | None = None,
        lr: float | None = None,
        *,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        change = self._changes.update(slots, key_grads, value_grads, lr, generations)
        return self._do(change, request_id, deadline_s)

    def touch(
        self,
        slots: SlotsLike,
        step: int,
        weights: Numbers | None = None,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        return self._do(self._changes.touch(slots, step, weights), request_id, deadline_s)

    def allocate(
        self,
        n: int,
        *,
        step: int | None = None,
        records: Records | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        if self._allocates is not None:
            numbered: dict[str, Any] = {"request_id": request_id, "deadline_s": deadline_s}
            return self._allocates.allocate(n, step=step, records=records, **numbered)
        change = self._changes.allocate(n, step, records)
        asked, deadline = self.asked(change, request_id), Deadline(deadline_s)
        n = change.facts["count"]
        with deadline.held(self._choosing, "other mutations"):
            found = self._least(n, asked, deadline)
            live = sum(each.live for each in found)
            if n > live:
                raise too_few(n, live)
            slots_B = np.full(n, NO_SLOT, np.int64)
            for each in found:
                slots_B[each.places_A] = each.given_A
            places = np.flatnonzero(slots_B == NO_SLOT)
            chosen = _least_of(found, len(places))
            if len(chosen) < len(places):
                raise too_few(n, n - len(places) + len(chosen))
            slots_B[places] = chosen
            [table] = change.arrays("records")
            rows = {"records": None if table is None else table.take(places)}
            change = Change("allocate", chosen, rows, change.facts)
            if len(chosen):
                tenants_B = _tenants(found, chosen)
                given: dict[str, Any] = {"of": n, "places_B": places, "generations_B": tenants_B}
                self._apply(change, asked, deadline, **given)
        return slots_B

    def erase(
        self,
        slots: SlotsLike,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        return self._do(self._changes.erase(slots), request_id, deadline_s)

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> SearchResult:
        if options.widens:
            return self._widened(queries, k, options)
        found = self._search_all(queries, k, options)
        errors = [each for each in found if isinstance(each, MemstoreError)]
        lost = [error for error in errors if isinstance(error, Unreachable)]
        if len(lost) < len(errors):
            raise next(error for error in errors if error not in lost)
        results = [each for each in found if isinstance(each, SearchResult)]
        if lost and not (options.partial and results):
            raise lost_by(lost)
        if lost and k > LEAST_MAX_K and isinstance(found[0], MemstoreError):
            # Nobody else knows how much the memory ever held.
            raise lost_by(lost)
        return results[0] if len(found) == 1 else routing.joined_results(results, k)

    def _search_each(self, queries: Array, k: int, options: SearchOptions) -> list[Any]:
        calls = [partial(part.search, queries, k, options) for part in self._parts]
        return self.fan(calls, spare=options.partial)

    def _widened(self, queries: Array, k: int, options: SearchOptions) -> SearchResult:
        """What is found, and what training adds, of all parts."""
        widening.check(self._name, self._config, options)
        plain: dict[str, Any] = {"union": False, "sample_clusters": 0, "sample_random": 0}
        found = self.search(queries, k, replace(options, partial=False, **plain))
        width, dtype = self._config.dim, counting(storage(self._config.dtype))
        queries_QD = checks.matrix("queries", queries, width=width, dtype=dtype)
        parts = [part.candidates for part in self._parts]
        source = SpreadCandidates(parts, lambda calls: all_of(self.fan(calls)))
        next_slot = self._parts[0].describe().next_slot
        return widening.widen(source, next_slot, queries_QD, found, options)

    def gather(
        self,
        slots: SlotsLike,
        *,
        vectors: bool = True,
        columns: Sequence[str] = (),
        list_limit: int | None = None,
    ) -> Rows:
        slots_B = checks.slots(slots)
        options: dict[str, Any] = {
            "vectors": vectors,
            "columns": columns,
            "list_limit": list_limit,
        }
        split = self.split(slots_B)
        if len(split) == 1:
            return self._parts[split[0][0]].gather(slots_B, **options)
        calls = [partial(self._parts[i].gather, slots_B[at], **options) for i, at in split]
        rows: list[Rows] = all_of(self.fan(calls))
        return _rejoined(slots_B, [at for _, at in split], rows, self._config)

    def lookup(
        self,
        column: str,
        values: Sequence[Any] | Array,
        limit: int,
        cursor: SlotsLike | None = None,
    ) -> LookupResult:
        calls = [partial(part.lookup, column, values, limit, cursor) for part in self._parts]
        found: list[LookupResult] = all_of(self.fan(calls))
        return found[0] if len(found) == 1 else routing.joined_lookups(found, limit)

    def reindex(self) -> None:
        all_of(self.fan([part.reindex for part in self._parts]))

    def refresh(self, limit: int | None = None) -> Refreshed:
        raise Unsupported(
            f"memory {self._name!r} is not encoded", hint="only sums of parts can be refreshed"
        )

    def describe(self) -> Description:
        found: list[Description] = all_of(self.fan([part.describe for part in self._parts]))
        parts, shards = len(self._parts), range(self._config.shards)
        return Description(
            name=self._name,
            config=self._config,
            next_slot=found[0].next_slot,
            drift=max((d.drift for d in found if d.drift is not None), default=None),
            shards=tuple(found[j % parts].shards[j // parts] for j in shards),
            made=self.made,
        )

    def asked(self, change: Change, request_id: RequestId | None) -> Asked:
        """The request, under a number of its own where it has none: parts are asked again."""
        given = self._next_request() if request_id is None else request_id
        return cast(Asked, Asked.of(given, *change.content))

    def _do(
        self, change: Change, request_id: RequestId | None, deadline_s: float | None
    ) -> Applied:
        return self._apply(change, self.asked(change, request_id), Deadline(deadline_s))

    def _apply(
        self,
        change: Change,
        asked: Asked,
        deadline: Deadline,
        *,
        of: int | None = None,
        first: Slots = NOTHING,
        places_B: Slots = NOTHING,
        evicted_E: Slots = NOTHING,
        epochs: Sequence[int] = (),
        generations_B: Slots = NOTHING,
    ) -> Applied:
        """Has each part do what is about its slots, once all have said that they can.

        of: rows of the whole call.  first: of an append, its slots.  The rest: as in `Given`.
        """
        of = len(change) if of is None else of
        first_slot = int(first[0]) if len(first) else NO_SLOT
        leaving = dict(self.split(evicted_E)) if len(evicted_E) else {}
        split = dict(self.split(change.slots_B)) if len(change) or not leaving else {}
        split |= {i: NOTHING for i in leaving if i not in split}
        changes, given = {}, {}
        for i, at in split.items():
            changes[i] = change.taken(at)
            given[i] = Given(
                of,
                first_slot,
                places_B[at] if len(places_B) else NOTHING,
                evicted_E[leaving[i]] if i in leaving else NOTHING,
                epochs[i] if epochs else None,
                generations_B[at] if len(generations_B) else NOTHING,
            )
        waited = [0.0]
        if len(split) > 1:
            outlines = {i: replace(changes[i].outline, parts=tuple(split)) for i in split}
            asks = [partial(self._parts[i].prepare, outlines[i], asked, deadline) for i in split]
            waited = all_of(insisted(self.fan, asks, deadline))
        calls = [
            partial(self._parts[i].apply, changes[i], given[i], asked, deadline) for i in split
        ]
        outcomes = insisted(self.fan, calls, deadline)
        failed = [i for i, each in enumerate(outcomes) if isinstance(each, MemstoreError)]
        if 0 < len(failed) < len(outcomes):
            # It is not to stay half done for what was over in a moment.
            left = insisted(self.fan, [calls[i] for i in failed], deadline)
            for i, each in zip(failed, left, strict=True):
                outcomes[i] = each
        done = done_by(outcomes, asked)
        return Applied(
            applied=sum(each.applied for each in done),
            skipped=sum(each.skipped for each in done),
            delay_s=sum(waited) + sum(each.delay_s for each in done),
        )

    def _given(self, count: int, asked: Asked, deadline: Deadline) -> Slots:
        first = self._parts[0].give_out(count, asked, deadline)
        return np.arange(first, first + count)

    def _least(self, count: int, asked: Asked, deadline: Deadline) -> list[LeastUsed]:
        calls = [partial(part.least, count, asked, deadline) for part in self._parts]
        found: list[LeastUsed] = all_of(self.fan(calls))
        return found

    def _evicted(self, own_B: Slots, capacity: int, asked: Asked, deadline: Deadline) -> Slots:
        """The least used slots that new ones push over the capacity."""
        most = 2 * len(own_B)
        found = self._least(most, asked, deadline)
        # Of a call that was half done before, some are there already; they stay.
        there = sum(each.done for each in found)
        over = sum(each.live for each in found) + len(own_B) - there - capacity
        if over <= 0:
            return NOTHING
        if over + there > most:
            # It holds more than its capacity: calls that were lost had not evicted yet.
            found = self._least(over + there, asked, deadline)
        chosen = _least_of(found, over + there)
        return chosen[~np.isin(chosen, own_B)][:over]

    def split(self, slots_B: Slots) -> list[tuple[int, Slots]]:
        """For each part concerned, its number and the positions in the call; of none, part 0."""
        if len(self._parts) == 1 or not len(slots_B):
            return [(0, np.arange(len(slots_B)))]
        home_B = homes(slots_B, self._config.shards, len(self._parts))
        found = [(i, np.flatnonzero(home_B == i)) for i in range(len(self._parts))]
        return [(i, at) for i, at in found if len(at)]


def _least_of(found: Sequence[LeastUsed], count: int) -> Slots:
    slots = [each.slots_L for each in found]
    return routing.least(slots, [each.priority_L for each in found], count)[0]


def _tenants(found: Sequence[LeastUsed], chosen_B: Slots) -> Slots:
    """The generations that slots had when they were found."""
    slots_L = np.concatenate([each.slots_L for each in found])
    order_L = np.argsort(slots_L)
    generations_L: Slots = np.concatenate([each.generations_L for each in found])
    return generations_L[order_L][np.searchsorted(slots_L[order_L], chosen_B)]


def _rejoined(
    slots_B: Slots, places: Sequence[Slots], rows: Sequence[Rows], config: MemoryConfig
) -> Rows:
    """Rows that parts gave, in the order of the call."""

    def joined(name: str, width: int | None) -> Array | None:
        arrays = [getattr(each, name) for each in rows]
        if width is None or arrays[0] is None:
            return None
        whole = np.empty((len(slots_B), width), storage(config.dtype))
        return routing.rejoined(places, arrays, whole)

    records: list[pa.Table] = [each.records for each in rows if each.records is not None]
    generations = [each.generations_B for each in rows]
    return Rows(
        slots_B=slots_B,
        generations_B=routing.rejoined(places, generations, np.empty(len(slots_B), np.int64)),
        keys_BD=joined("keys_BD", config.dim),
        values_BV=joined("values_BV", config.value_dim),
        records=routing.rejoined_records(places, records) if records else None,
    )
