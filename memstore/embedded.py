"""EmbeddedMemory: the verbs in this process, checked at the boundary and handed to the shards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import pyarrow as pa

from memstore import checks, routing
from memstore.config import MemoryConfig
from memstore.deadline import NO_DEADLINE, Deadline
from memstore.dtypes import counting
from memstore.errors import InvalidArgument, MemstoreError, RequestTooOld, Unsupported, WrongShape
from memstore.kernels.group import distinct
from memstore.kernels.half import wide
from memstore.memory import (
    NO_SLOT,
    Applied,
    Array,
    Numbers,
    Records,
    Refreshed,
    RequestId,
    Slots,
    SlotsLike,
)
from memstore.meter import metered
from memstore.reading import ReadableMemory
from memstore.retries import LOST, Asked, Known, Reply, answered
from memstore.shard.requests import RequestWindows

NOTHING = np.empty(0, np.int64)

LOADER: ContextVar[object] = ContextVar("LOADER", default=None)
"""Who appends, where one alone may while a memory is loaded."""

Keys = Array | Callable[[pa.Table], Array] | None
"""Keys, or how they are made of the records that are left to be put."""


@metered
class EmbeddedMemory(ReadableMemory):
    """The embedded `Memory`: checks a call at the boundary, then hands each shard its part."""

    def __init__(
        self, name: str, config: MemoryConfig, next_slot: int = 0, folder: Path | None = None
    ) -> None:
        """folder: where the rows lie that `storage="mapped"` keeps out of memory."""
        super().__init__(name, config, next_slot, folder)
        # One mutation at a time over all shards, so that what was checked still holds when done.
        self._mutation = threading.RLock()
        self.refusal: MemstoreError | None = None
        """What every mutation raises, where there is to be none."""
        self._held: MemstoreError | None = None
        self._loader: object = None
        self._before: tuple[int, list[RequestWindows]] = (next_slot, [])
        """The next slot, and the windows of requests, when a loading began."""

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
        keys_BD = self._keys(self._required("keys", keys))
        values_BV = self._values(values, len(keys_BD), required=True)
        table = checks.records(records, self._config.schema, len(keys_BD))
        step = checks.step_number(step)
        asked = Asked.of(request_id, "append", keys_BD, values_BV, table, step)
        deadline = Deadline(deadline_s)
        return self.put_new(len(keys_BD), keys_BD, values_BV, table, step, asked, deadline)

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
        slots_B = checks.slots(slots, unique=True)
        step = checks.step_number(step)
        keys_BD = None if keys is None else self._keys(keys, len(slots_B))
        values_BV = self._values(values, len(slots_B), required=False)
        table = None
        if records is not None:
            table = checks.records(records, self._config.schema, len(slots_B))
        if keys_BD is None and values_BV is None and table is None:
            raise InvalidArgument("nothing to write", expected="keys, values or records")
        asked = Asked.of(request_id, "write", slots_B, keys_BD, values_BV, table, step)
        deadline = Deadline(deadline_s)
        return self.put_over(slots_B, keys_BD, values_BV, table, step, asked, deadline)

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
        slots_B = checks.slots(slots)
        count, width = len(slots_B), self._config.dim
        weights_B = checks.share(
            "weights", checks.vector("weights", weights, dtype=counting(self._dtype), rows=count)
        )
        erase_BD = checks.share("erase", self._matrix("erase", erase, width, count))
        add_BD = self._matrix("add", add, width, count)
        step = checks.step_number(step)
        meant_B = self._meant(generations, count)
        asked = Asked.of(request_id, "blend", slots_B, weights_B, erase_BD, add_BD, step, meant_B)
        deadline = Deadline(deadline_s)
        delay_s = self.admit(deadline)
        with self._mutating(deadline):
            known = self.known(asked)
            slots_B, weights_B, erase_BD, add_BD, meant_B = known.rest(
                slots_B, weights_B, erase_BD, add_BD, meant_B
            )
            self.check_known(slots_B)
            most = self._largest(slots_B) + float(weights_B @ np.abs(add_BD).max(axis=1))
            checks.reach(most, self._dtype)
            kept_B = self._kept(slots_B, meant_B)
            changed = 0
            for shard, at, rows in self._split(slots_B):
                left, rows = at[kept_B[at]], rows[kept_B[at]]
                reply = Reply(len(left), len(at) - len(left), len(at), count)
                request = answered(asked, reply)
                if len(left):
                    parts = weights_B[left], erase_BD[left], add_BD[left]
                    shard.blend(rows, *parts, step, request=request)
                    changed += len(left)
                else:
                    shard.answer(request)
        skipped = known.skipped + len(slots_B) - changed
        return Applied(applied=known.applied + changed, skipped=skipped, delay_s=delay_s)

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
        slots_B = checks.slots(slots)
        if key_grads is None and value_grads is None:
            raise InvalidArgument("nothing to update", expected="key_grads or value_grads")
        key_grads_BD = None
        if key_grads is not None:
            key_grads_BD = self._matrix("key_grads", key_grads, self._config.dim, len(slots_B))
        value_grads_BV = self._values(value_grads, len(slots_B), name="value_grads")
        rate = checks.rate(self._config.optimizer_config.lr if lr is None else lr)
        checks.decay(rate, self._config.optimizer_config.weight_decay)
        for grads_BX in (key_grads_BD, value_grads_BV):
            checks.step(grads_BX, rate)
        count = len(slots_B)
        meant_B = self._meant(generations, count)
        asked = Asked.of(request_id, "update", slots_B, key_grads_BD, value_grads_BV, rate, meant_B)
        deadline = Deadline(deadline_s)
        drifts = key_grads is not None and self._config.index_config.drift_limit is not None
        delay_s = self.admit(deadline) if drifts else 0.0
        with self._mutating(deadline):
            known = self.known(asked)
            slots_B, key_grads_BD, value_grads_BV, meant_B = known.rest(
                slots_B, key_grads_BD, value_grads_BV, meant_B
            )
            self.check_known(slots_B)
            kept_B = None if meant_B is None else self._kept(slots_B, meant_B)
            applied, skipped = known.applied, known.skipped
            for shard, at, rows in self._split(slots_B):
                left = at
                if kept_B is not None:
                    left, rows = at[kept_B[at]], rows[kept_B[at]]
                skipped += len(at) - len(left)
                request = None
                if asked is not None:
                    reply = Reply(len(distinct(rows)), len(at) - len(left), len(at), count)
                    request = answered(asked, reply)
                if len(left):
                    grads = routing.taken(key_grads_BD, left), routing.taken(value_grads_BV, left)
                    applied += shard.update(rows, *grads, rate, request=request)
                else:
                    shard.answer(request)
        return Applied(applied=applied, skipped=skipped, delay_s=delay_s)

    def touch(
        self,
        slots: SlotsLike,
        step: int,
        weights: Numbers | None = None,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        slots_B, used_at = checks.slots(slots), checks.step_number(step)
        if used_at is None:
            raise InvalidArgument("step is missing", expected="the caller's step, ≥ 0")
        weights_B = None
        if weights is not None:
            if self._config.usage_config.kind != "discounted":
                raise InvalidArgument(
                    "weights mean nothing to last-step usage",
                    hint='leave them out, or make the memory with usage="discounted"',
                )
            weights_B = checks.vector("weights", weights, dtype="float64", rows=len(slots_B))
            if len(weights_B) and weights_B.min() < 0:
                raise InvalidArgument("weights are negative", got=weights_B.min(), expected="≥ 0")
        asked, count = Asked.of(request_id, "touch", slots_B, used_at, weights_B), len(slots_B)
        with self._mutating(Deadline(deadline_s)):
            known = self.known(asked)
            slots_B, weights_B = known.rest(slots_B, weights_B)
            self.check_known(slots_B)
            for shard, at, rows in self._split(slots_B):
                request = answered(asked, Reply(len(at), asked=len(at), of=count))
                shard.touch(rows, used_at, routing.taken(weights_B, at), request=request)
        return Applied(applied=known.applied + len(slots_B))

    def allocate(
        self,
        n: int,
        *,
        step: int | None = None,
        records: Records | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        n = checks.positive("n", n)
        step = checks.step_number(step)
        table = checks.records(records, self._config.schema, n)
        asked = Asked.of(request_id, "allocate", n, step, table)
        deadline = Deadline(deadline_s)
        self.admit(deadline)
        with self._mutating(deadline):
            self._check_open()
            live = sum(shard.rows.live for shard in self.shards)
            if n > self.next_slot:
                # So many there never were: nothing is made for them.
                raise InvalidArgument("too few slots", got=f"n={n}", expected=f"≤ {live}")
            known = self.known(asked)
            slots_B: Slots = known.given(n)
            left = np.flatnonzero(slots_B == NO_SLOT)
            chosen = self._least_used(len(left), known.shards)
            if len(chosen) < len(left):
                most = n - len(left) + len(chosen)
                raise InvalidArgument("too few slots", got=f"n={n}", expected=f"≤ {most}")
            slots_B[left] = chosen
            for shard, at, rows in self._split(chosen):
                places = left[at]
                counts = {"asked": len(at), "of": n}
                reply = Reply(len(at), **counts, places_A=places, slots_A=chosen[at])
                part = None if table is None else table.take(places)
                shard.renew(rows, part, step, request=answered(asked, reply))
        return slots_B

    def erase(
        self,
        slots: SlotsLike,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        slots_B = checks.slots(slots, unique=True)
        asked, count = Asked.of(request_id, "erase", slots_B), len(slots_B)
        with self._mutating(Deadline(deadline_s)):
            known = self.known(asked)
            (slots_B,) = known.rest(slots_B)
            self.check_known(slots_B)
            for shard, at, rows in self._split(slots_B):
                reply = Reply(len(at), asked=len(at), of=count)
                shard.erase(rows, request=answered(asked, reply))
        return Applied(applied=known.applied + len(slots_B))

    def reindex(self) -> None:
        self._check_open()
        for shard in self.shards:
            shard.reindex()

    def refresh(self, limit: int | None = None) -> Refreshed:
        raise Unsupported(
            f"memory {self._name!r} is not encoded", hint="only sums of parts can be refreshed"
        )

    # What the encoded memory and the store need beyond the verbs.

    def put_new(
        self,
        count: int,
        keys: Keys,
        values_BV: Array | None,
        records: pa.Table | None,
        step: int | None,
        asked: Asked | None,
        deadline: Deadline,
    ) -> Slots:
        """Appends rows whose arguments are checked; returns their slots."""
        self.admit(deadline)
        with self._mutating(deadline, appends=True):
            self._check_open()
            known = self.known(asked)
            first = known.first(self.next_slot)
            slots_B = np.arange(first, first + count)
            new_B, keys_BD, values_BV, records = self._rest(
                known, slots_B, keys, values_BV, records
            )
            for shard, _, rows in self._split(new_B):
                shard.reserve(rows)
            evicted = self._evicted(len(new_B), slots_B)
            before, done = self.next_slot, self._done()
            self.next_slot = max(self.next_slot, first + count)
            try:
                self.put(
                    new_B,
                    keys_BD,
                    values_BV,
                    records,
                    step=step,
                    evicted=evicted,
                    asked=asked,
                    of=count,
                    first=first,
                )
            except BaseException:
                # Where a shard did its part, the slots of the others stay theirs: they are asked
                # for again, or are holes.
                if self._done() == done:
                    self.next_slot = before
                raise
        return slots_B

    def put_over(
        self,
        slots_B: Slots,
        keys: Keys,
        values_BV: Array | None,
        records: pa.Table | None,
        step: int | None,
        asked: Asked | None,
        deadline: Deadline,
    ) -> Applied:
        """Overwrites rows by what is checked."""
        delay_s = 0.0 if keys is None else self.admit(deadline)
        with self._mutating(deadline):
            known = self.known(asked)
            self.check_known(*known.rest(slots_B))
            left_B, keys_BD, values_BV, records = self._rest(
                known, slots_B, keys, values_BV, records
            )
            self.put(left_B, keys_BD, values_BV, records, step=step, asked=asked, of=len(slots_B))
        return Applied(applied=known.applied + len(left_B), delay_s=delay_s)

    def _done(self) -> list[tuple[int, int]]:
        """Differs after whatever any of the shards logged or applied."""
        return [(shard.logged, shard.rows.version) for shard in self.shards]

    def known(self, asked: Asked | None) -> Known:
        """What the shards know of a request; with mutations kept off.

        Raises `RequestConflict` and `RequestTooOld`, of any shard.
        """
        if asked is None:
            return Known({}, len(self.shards))
        replies = {}
        for shard in self.shards:
            reply = shard.windows.check(asked.id.client, asked.id.number, asked.digest)
            if reply is not None:
                replies[shard.number] = Reply.unpacked(reply)
        if any(reply.asked == LOST for reply in replies.values()):
            raise RequestTooOld(
                "the request was half done when the memory was cut into other shards; it was not "
                "gone on with",
                got=f"request {asked.id.number} of client {asked.id.client!r}",
                hint="read what the memory holds, then ask anew under a number of its own",
            )
        return Known(replies, len(self.shards))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Holds mutations off, so that what is read meanwhile is of one moment."""
        with self._mutation:
            yield

    def hold(self, reason: MemstoreError | None, *, loads: bool = False, by: object = None) -> None:
        """Lets mutations raise `reason` from now on, None is to go on.  loads: but for appending,
        which is not logged, and may be taken back.  by: the `LOADER` who may; None is anybody."""
        with self._mutation:
            self._held, self._loader = reason, by
            self._before = self.next_slot, [s.windows.still() for s in self.shards if loads]
            for shard in self.shards:
                shard.loading = loads

    def take_back(self) -> None:
        """Erases what was appended since it is held, of which no log knows, and its requests."""
        with self._mutation:
            first, windows = self._before
            slots_B = np.arange(first, self.next_slot)
            for shard, _, rows in self._split(slots_B[self.alive(slots_B)]):
                shard.erase(rows)
            for shard, known in zip(self.shards, windows, strict=True):
                shard.windows = known

    def note_answer(self, asked: Asked, reply: Reply) -> None:
        """Knows a request that was loaded: as long as what was loaded stays."""
        request = answered(asked, reply)
        if request is not None:
            with self._mutation:
                self.shards[0].windows.note(request)

    def retire(self, reason: MemstoreError) -> None:
        """Lets every later call raise `reason`: its store was closed, or the memory dropped."""
        with self._mutation:
            self._retired = reason
        for shard in self.shards:
            shard.maintainer.stop()

    def close_logs(self) -> None:
        """Makes what was logged durable and lets go of the logs."""
        for shard in self.shards:
            if shard.journal is not None:
                shard.journal.log.close()

    def admit(self, deadline: Deadline = NO_DEADLINE) -> float:
        """Waits until rows may become fresh in every shard; returns for how many seconds.

        Raises `Overloaded` where it waits in vain. What comes in between is not counted: of
        callers that wait at once all go on.
        """
        self._check_open()
        return sum(shard.maintainer.admit(deadline) for shard in self.shards)

    @contextlib.contextmanager
    def _mutating(self, deadline: Deadline, *, appends: bool = False) -> Iterator[None]:
        """Keeps other mutations off; what was done is as durable as the log promises, when done."""
        for refusal in (self.refusal, *(shard.behind for shard in self.shards)):
            if refusal is not None:
                raise refusal
        with deadline.held(self._mutation, "other mutations"):
            if self._held is not None and not (appends and self._loads()):
                raise self._held
            yield
        for shard in self.shards:
            shard.commit()

    def _loads(self) -> bool:
        """Whether who appends now may, while all else is held."""
        return self.shards[0].loading and self._loader in (None, LOADER.get())

    def settle(self) -> None:
        """Waits until the background has nothing to do."""
        while not all(shard.maintainer.settle() for shard in self.shards):
            continue

    def put(
        self,
        slots_B: Slots,
        keys_BD: Array | None,
        values_BV: Array | None,
        records: pa.Table | None,
        *,
        drifts: bool = False,
        step: int | None = None,
        evicted: Slots = NOTHING,
        asked: Asked | None = None,
        of: int = 0,
        first: int | None = None,
    ) -> None:
        """Writes rows whose arguments are checked; those evicted leave at once, shard by shard.

        of: how many rows the request is about.  first: of all the slots that this appends; None
        where they were there before.
        """
        with self._mutation:
            leaving = {shard.number: rows for shard, _, rows in self._split(evicted)}
            for shard, at, rows in self._split(slots_B):
                part = None
                if records is not None:
                    part = records if len(at) == len(slots_B) else records.take(at)
                keys, values = routing.taken(keys_BD, at), routing.taken(values_BV, at)
                gone = leaving.pop(shard.number, NOTHING)
                reply = Reply(len(at), 0, len(at), of, NO_SLOT if first is None else first)
                shard.put(
                    rows,
                    keys,
                    values,
                    part,
                    drifts=drifts,
                    step=step,
                    evicted_E=gone,
                    next_slot=None if first is None else self.next_slot,
                    request=answered(asked, reply),
                )
            for number, rows in leaving.items():
                self.shards[number].erase(rows)

    def _largest(self, slots_B: Slots) -> float:
        """The largest magnitude in the keys of some slots."""
        keys = [shard.vectors(rows)[0] for shard, _, rows in self._split(slots_B)]
        return max((float(np.abs(wide(part)).max(initial=0.0)) for part in keys), default=0.0)

    def _meant(self, generations: SlotsLike | None, count: int) -> Slots | None:
        """The generations that a caller means, checked."""
        if generations is None:
            return None
        meant_B = checks.slots(generations)
        if len(meant_B) != count:
            raise WrongShape("generations have the wrong length", got=len(meant_B), expected=count)
        return meant_B

    def _kept(self, slots_B: Slots, meant_B: Slots | None) -> Array:
        """Which slots still have the tenant that the caller means, bool `[B]`."""
        kept_B = np.ones(len(slots_B), bool)
        if meant_B is not None:
            for shard, at, rows in self._split(slots_B):
                kept_B[at] = shard.generations(rows) == meant_B[at]
        return kept_B

    def _rest(
        self,
        known: Known,
        slots_B: Slots,
        keys: Keys,
        values_BV: Array | None,
        records: pa.Table | None,
    ) -> tuple[Slots, Array | None, Array | None, pa.Table | None]:
        """What is left to be put, with its keys."""
        made = callable(keys)
        left_B, keys_BD, values_BV, records = known.rest(
            slots_B, None if made else keys, values_BV, records
        )
        if callable(keys):
            keys_BD = self._keys(keys(records), len(left_B))
        return left_B, keys_BD, values_BV, records

    def _least_used(self, count: int, without: Sequence[int] = ()) -> Slots:
        """Up to `count` slots of smallest (usage, slot) over all shards, in that order.

        without: the numbers of shards that are left out.
        """
        found = [(s.number, *s.least_used(count)) for s in self.shards if s.number not in without]
        if not found:
            return NOTHING
        slots = np.concatenate([rows * len(self.shards) + s for s, rows, _ in found])
        priorities = np.concatenate([priority for _, _, priority in found])
        return slots[np.lexsort((slots, priorities))[:count]]

    def _evicted(self, count: int, own: Slots) -> Slots:
        """The least used slots that `count` new ones would push over the capacity.

        own: slots of the same request, which stay, though nobody used them yet.
        """
        capacity = self._config.capacity
        if capacity is None:
            return NOTHING
        if count > capacity:
            raise InvalidArgument(
                "more rows than the capacity", got=count, expected=f"≤ {capacity}"
            )
        over = sum(shard.rows.live for shard in self.shards) + count - capacity
        if over <= 0:
            return NOTHING
        if count == len(own):
            return self._least_used(over)
        found = self._least_used(over + len(own))
        return found[~np.isin(found, own)][:over]

    def _required(self, name: str, value: Array | None) -> Array:
        if value is None:
            raise InvalidArgument(f"{name} are missing", expected=f"(rows, {self._config.dim})")
        return value

    def _keys(self, keys: Array, rows: int | None = None) -> Array:
        return checks.matrix("keys", keys, width=self._config.dim, dtype=self._dtype, rows=rows)

    def _values(
        self, values: Array | None, rows: int, *, required: bool = False, name: str = "values"
    ) -> Array | None:
        width = self._config.value_dim
        if values is None and not (required and width is not None):
            return None
        if width is None:
            raise InvalidArgument(
                f"memory {self._name!r} has no values", got=name, hint="its key is its value"
            )
        if values is None:
            raise InvalidArgument(f"{name} are missing", expected=f"({rows}, {width})")
        dtype = self._dtype if name == "values" else counting(self._dtype)
        return checks.matrix(name, values, width=width, dtype=dtype, rows=rows)
