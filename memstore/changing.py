"""The changing half of the embedded memory: mutations over its shards, whose arguments are checked.

One call of a mutation may be all that was asked for, or a part of it, where other shards of the
memory lie elsewhere: a `Whole` says of what.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import pyarrow as pa

from memstore import checks, routing
from memstore.changes import Change
from memstore.config import MemoryConfig
from memstore.deadline import NO_DEADLINE, Deadline
from memstore.errors import InvalidArgument, MemstoreError, RequestTooOld
from memstore.kernels.group import distinct
from memstore.kernels.half import wide
from memstore.memory import NO_SLOT, Applied, Array, Slots
from memstore.placement import WHOLE, Part
from memstore.reading import ReadableMemory
from memstore.retries import LOST, Asked, Known, Reply, answered
from memstore.shard.requests import RequestWindows

NOTHING = np.empty(0, np.int64)

LOADER: ContextVar[object] = ContextVar("LOADER", default=None)
"""Who appends, where one alone may while a memory is loaded."""

Keys = Array | Callable[[pa.Table], Array] | None
"""Keys, or how what rows have for them is made of the records that are left to be put."""


class ChangeableMemory(ReadableMemory):
    """The shards of one memory in this process, and what changes them."""

    def __init__(
        self,
        name: str,
        config: MemoryConfig,
        next_slot: int = 0,
        folder: Path | None = None,
        part: Part = WHOLE,
    ) -> None:
        """folder: where the rows lie that `storage="mapped"` keeps out of memory.
        part: which of its shards are here."""
        super().__init__(name, config, next_slot, folder, part)
        # One mutation at a time over all shards, so that what was checked still holds when done.
        self._mutation = threading.RLock()
        self.refusal: MemstoreError | None = None
        """What every mutation raises, where there is to be none."""
        self._held: MemstoreError | None = None
        self._loader: object = None
        self._before: tuple[int, list[RequestWindows]] = (next_slot, [])
        """The next slot, and the windows of requests, when a loading began."""

    def do(
        self, change: Change, asked: Asked | None, deadline: Deadline, of: int | None = None
    ) -> Applied:
        """Does a change of rows that are there.

        of: how many rows the request is about, where this is a part of it.
        """
        delay_s = self.admit(deadline) if change.freshens else 0.0
        of = len(change) if of is None else of
        with self._mutating(deadline):
            known = self.known(asked)
            change = change.taken(known.left(change.slots_B))
            self.check(change.verb, change.slots_B, change.facts.get("reach", 0.0))
            apply = {
                "write": self._write,
                "blend": self._blend,
                "update": self._update,
                "touch": self._touch,
                "erase": self._erase,
            }[change.verb]
            applied, skipped = apply(change, asked, of)
        return Applied(
            applied=known.applied + applied, skipped=known.skipped + skipped, delay_s=delay_s
        )

    def check(self, verb: str, slots_B: Slots, reach: float) -> None:
        """Raises unless rows are there, and may take a change; with mutations kept off.

        reach: how much it may add to a number of a row.
        """
        self.check_known(slots_B)
        if verb == "blend":
            checks.reach(self._largest(slots_B) + reach, self._dtype)

    def _write(self, change: Change, asked: Asked | None, of: int) -> tuple[int, int]:
        rows, step = change.rows, change.facts["step"]
        parts = rows["keys"], rows["values"], rows["records"]
        self.put(change.slots_B, *parts, step=step, asked=asked, of=of)
        return len(change), 0

    def _blend(self, change: Change, asked: Asked | None, of: int) -> tuple[int, int]:
        slots_B, step = change.slots_B, change.facts["step"]
        weights_B, erase_BD, add_BD, meant_B = change.arrays(
            "weights", "erase", "add", "generations"
        )
        kept_B, changed = self._kept(slots_B, meant_B), 0
        for shard, at, rows in self._split(slots_B):
            left, rows = at[kept_B[at]], rows[kept_B[at]]
            request = answered(asked, Reply(len(left), len(at) - len(left), len(at), of))
            if len(left):
                parts = weights_B[left], erase_BD[left], add_BD[left]
                shard.blend(rows, *parts, step, request=request)
                changed += len(left)
            else:
                shard.answer(request)
        return changed, len(slots_B) - changed

    def _update(self, change: Change, asked: Asked | None, of: int) -> tuple[int, int]:
        rate = change.facts["lr"]
        key_grads_BD, value_grads_BV, meant_B = change.arrays(
            "key_grads", "value_grads", "generations"
        )
        kept_B = None if meant_B is None else self._kept(change.slots_B, meant_B)
        applied = skipped = 0
        for shard, at, rows in self._split(change.slots_B):
            left = at
            if kept_B is not None:
                left, rows = at[kept_B[at]], rows[kept_B[at]]
            skipped += len(at) - len(left)
            request = None
            if asked is not None:
                reply = Reply(len(distinct(rows)), len(at) - len(left), len(at), of)
                request = answered(asked, reply)
            if len(left):
                grads = routing.taken(key_grads_BD, left), routing.taken(value_grads_BV, left)
                applied += shard.update(rows, *grads, rate, request=request)
            else:
                shard.answer(request)
        return applied, skipped

    def _touch(self, change: Change, asked: Asked | None, of: int) -> tuple[int, int]:
        weights_B, used_at = change.rows["weights"], change.facts["step"]
        for shard, at, rows in self._split(change.slots_B):
            request = answered(asked, Reply(len(at), asked=len(at), of=of))
            shard.touch(rows, used_at, routing.taken(weights_B, at), request=request)
        return len(change), 0

    def _erase(self, change: Change, asked: Asked | None, of: int) -> tuple[int, int]:
        for shard, at, rows in self._split(change.slots_B):
            reply = Reply(len(at), asked=len(at), of=of)
            shard.erase(rows, request=answered(asked, reply))
        return len(change), 0

    def hand_out(self, change: Change, asked: Asked | None, deadline: Deadline) -> Slots:
        """Does an `allocate`; returns the slots."""
        n, step = change.facts["count"], change.facts["step"]
        self.admit(deadline)
        with self._mutating(deadline):
            self._check_open()
            if n > self.next_slot:
                # So many there never were: nothing is made for them.
                raise too_few(n, self.live)
            known = self.known(asked)
            slots_B: Slots = known.given(n)
            left = np.flatnonzero(slots_B == NO_SLOT)
            chosen = self._least_used(len(left), known.shards)
            if len(chosen) < len(left):
                raise too_few(n, n - len(left) + len(chosen))
            slots_B[left] = chosen
            records = change.rows["records"]
            part = None if records is None else records.take(left)
            self._renew(chosen, left, part, step, asked, n)
        return slots_B

    def _renew(
        self,
        chosen: Slots,
        places: Slots,
        records: pa.Table | None,
        step: int | None,
        asked: Asked | None,
        of: int,
    ) -> None:
        """Hands slots to new tenants.  places: where each stands among all that were asked for."""
        for shard, at, rows in self._split(chosen):
            counts = {"asked": len(at), "of": of}
            reply = Reply(len(at), **counts, places_A=places[at], slots_A=chosen[at])
            part = None if records is None else records.take(at)
            shard.renew(rows, part, step, request=answered(asked, reply))

    @property
    def live(self) -> int:
        """How many rows are there."""
        return sum(shard.rows.live for shard in self.shards)

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
            return Known({}, self._config.shards)
        replies = {}
        for shard in self.shards:
            reply = shard.windows.check(
                asked.id.client, asked.id.number, asked.digest, lambda: asked.former_digest
            )
            if reply is not None:
                replies[shard.number] = Reply.unpacked(reply)
        if any(reply.asked == LOST for reply in replies.values()):
            raise RequestTooOld(
                "the request was half done when the memory was cut into other shards; it was not "
                "gone on with",
                got=f"request {asked.id.number} of client {asked.id.client!r}",
                hint="read what the memory holds, then ask anew under a number of its own",
            )
        return Known(replies, self._config.shards)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Holds mutations off, so that what is read meanwhile is of one moment."""
        with self._mutation:
            yield

    def hold(
        self,
        reason: MemstoreError | None,
        *,
        loads: bool = False,
        by: object = None,
        index: bool = True,
    ) -> None:
        """Lets mutations raise `reason` from now on, None is to go on.  loads: but for appending,
        which is not logged, and may be taken back.  by: the `LOADER` who may; None is anybody.
        index: whether that takes in what is appended, or rests."""
        with self._mutation:
            self._held, self._loader = reason, by
            self._before = self.next_slot, [s.windows.still() for s in self.shards if loads]
            for shard in self.shards:
                shard.loading = loads
                shard.maintainer.rests = loads and not index

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

    def let_go(self) -> None:
        """Holds no rows any more, whoever has it, after `retire`: they go with who reads them."""
        shards, self._here = self.shards, None
        for shard in shards:
            shard.maintainer.let_go()

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
        shards = self.shards
        for refusal in (self.refusal, *(shard.behind for shard in shards)):
            if refusal is not None:
                raise refusal
        with deadline.held(self._mutation, "other mutations"):
            if self._held is not None and not (appends and self._loads()):
                raise self._held
            yield
        for shard in shards:
            shard.commit()

    def _loads(self) -> bool:
        """Whether who appends now may, while all else is held."""
        return self.shards[0].loading and self._loader in (None, LOADER.get())

    def wake(self) -> None:
        """Begins in the background what was due when the store was closed."""
        for shard in self.shards:
            shard.maintainer.wake()

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
        logs: bool = True,
        step: int | None = None,
        evicted: Slots = NOTHING,
        asked: Asked | None = None,
        of: int = 0,
        first: int | None = None,
    ) -> None:
        """Writes rows whose arguments are checked; those evicted leave at once, shard by shard.

        drifts, logs: as in `Shard.put`.  of: how many rows the request is about.  first: of all the
        slots that this appends; None where they were there before.
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
                    logs=logs,
                    step=step,
                    evicted_E=gone,
                    next_slot=None if first is None else self.next_slot,
                    request=answered(asked, reply),
                )
            for number, rows in leaving.items():
                self._by_number[number].erase(rows)

    def index_again(self, slots_B: Slots) -> None:
        """Has the index take rows as they are now, shard by shard."""
        with self._mutation:
            for shard, _, rows in self._split(slots_B):
                shard.index_again(rows)

    def _largest(self, slots_B: Slots) -> float:
        """The largest magnitude in the keys of some slots."""
        keys = [shard.vectors(rows)[0] for shard, _, rows in self._split(slots_B)]
        return max((float(np.abs(wide(part)).max(initial=0.0)) for part in keys), default=0.0)

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
            keys_BD = keys(records)
            if self._config.keeps_keys:
                shape = {"width": self._config.dim, "rows": len(left_B)}
                keys_BD = checks.matrix("keys", keys_BD, dtype=self._dtype, **shape)
        return left_B, keys_BD, values_BV, records

    def _least_used(self, count: int, without: Sequence[int] = ()) -> Slots:
        """Up to `count` slots of smallest (usage, slot) over all shards, in that order.

        without: the numbers of shards that are left out.
        """
        return self._by_use(count, without)[0]

    def _by_use(self, count: int, without: Sequence[int]) -> tuple[Slots, Array]:
        """The same, with their priorities."""
        found = [(s.number, *s.least_used(count)) for s in self.shards if s.number not in without]
        shards = self._config.shards
        slots = [routing.slots_of(rows, number, shards) for number, rows, _ in found]
        return routing.least(slots, [priority for _, _, priority in found], count)

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
        over = self.live + count - capacity
        if over <= 0:
            return NOTHING
        if count == len(own):
            return self._least_used(over)
        found = self._least_used(over + len(own))
        return found[~np.isin(found, own)][:over]


def too_few(n: int, most: int) -> InvalidArgument:
    return InvalidArgument("too few slots", got=f"n={n}", expected=f"≤ {most}")
