"""EmbeddedMemory: the verbs in this process, checked at the boundary and handed to the shards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from memstore import checks, routing, widening
from memstore.config import MemoryConfig
from memstore.dtypes import counting, storage
from memstore.errors import InvalidArgument, MemstoreError, Unsupported, WrongShape
from memstore.kernels.half import wide
from memstore.memory import (
    Applied,
    Array,
    Description,
    LookupResult,
    Numbers,
    Records,
    Refreshed,
    Rows,
    SearchOptions,
    SearchResult,
    Slots,
    SlotsLike,
)
from memstore.meter import Meter, metered
from memstore.shard.shard import Shard

NOTHING = np.empty(0, np.int64)

LEAST_MAX_K = 2_048
"""A small memory may be asked for this many; a larger one for as many as it ever held."""


@metered
class EmbeddedMemory:
    """The embedded `Memory`: checks a call at the boundary, then hands each shard its part."""

    def __init__(
        self, name: str, config: MemoryConfig, next_slot: int = 0, folder: Path | None = None
    ) -> None:
        """folder: where the rows lie that `storage="mapped"` keeps out of memory."""
        self._name = name
        self._config = config
        self._dtype = storage(config.dtype)
        self.next_slot = next_slot
        self.shards = [Shard(config, i, folder) for i in range(config.shards)]
        # One mutation at a time over all shards, so that what was checked still holds when done.
        self._mutation = threading.RLock()
        self._retired: MemstoreError | None = None
        self.refusal: MemstoreError | None = None
        """What every mutation raises, where there is to be none."""
        self.meter = Meter()

    @property
    def name(self) -> str:
        return self._name

    @property
    def config(self) -> MemoryConfig:
        return self._config

    @property
    def version(self) -> int:
        """Rises with every mutation and sealing."""
        return sum(shard.rows.version + shard.index.version.number for shard in self.shards)

    def append(
        self,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
    ) -> Slots:
        keys_BD = self._keys(self._required("keys", keys))
        values_BV = self._values(values, len(keys_BD), required=True)
        table = checks.records(records, self._config.schema, len(keys_BD))
        step = checks.step_number(step)
        self.admit()
        with self._mutating():
            self._check_open()
            slots_B = np.arange(self.next_slot, self.next_slot + len(keys_BD))
            for shard, _, rows in self._split(slots_B):
                shard.reserve(rows)
            evicted = self._evicted(len(keys_BD))
            self.next_slot += len(keys_BD)
            self.put(slots_B, keys_BD, values_BV, table, step=step, evicted=evicted)
        return slots_B

    def write(
        self,
        slots: SlotsLike,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
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
        delay_s = 0.0 if keys_BD is None else self.admit()
        with self._mutating():
            self.check_known(slots_B)
            self.put(slots_B, keys_BD, values_BV, table, step=step)
        return Applied(applied=len(slots_B), delay_s=delay_s)

    def blend(
        self,
        slots: SlotsLike,
        weights: Numbers,
        erase: Array,
        add: Array,
        *,
        step: int | None = None,
        generations: SlotsLike | None = None,
    ) -> Applied:
        slots_B = checks.slots(slots)
        count, width = len(slots_B), self._config.dim
        weights_B = checks.share(
            "weights", checks.vector("weights", weights, dtype=counting(self._dtype), rows=count)
        )
        erase_BD = checks.share("erase", self._matrix("erase", erase, width, count))
        add_BD = self._matrix("add", add, width, count)
        step = checks.step_number(step)
        delay_s = self.admit()
        with self._mutating():
            self.check_known(slots_B)
            most = self._largest(slots_B) + float(weights_B @ np.abs(add_BD).max(axis=1))
            checks.reach(most, self._dtype)
            kept = self._of_generation(slots_B, generations)
            slots_B, weights_B = slots_B[kept], weights_B[kept]
            erase_BD, add_BD = erase_BD[kept], add_BD[kept]
            for shard, at, rows in self._split(slots_B):
                shard.blend(rows, weights_B[at], erase_BD[at], add_BD[at], step)
        return Applied(applied=len(slots_B), skipped=count - len(slots_B), delay_s=delay_s)

    def update(
        self,
        slots: SlotsLike,
        key_grads: Array | None = None,
        value_grads: Array | None = None,
        lr: float | None = None,
        *,
        generations: SlotsLike | None = None,
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
        drifts = key_grads is not None and self._config.index_config.drift_limit is not None
        delay_s = self.admit() if drifts else 0.0
        changed, skipped = 0, 0
        with self._mutating():
            self.check_known(slots_B)
            if generations is not None:
                kept = self._of_generation(slots_B, generations)
                skipped = len(slots_B) - int(kept.sum())
                slots_B = slots_B[kept]
                key_grads_BD = None if key_grads_BD is None else key_grads_BD[kept]
                value_grads_BV = None if value_grads_BV is None else value_grads_BV[kept]
            for shard, at, rows in self._split(slots_B):
                keys, values = routing.taken(key_grads_BD, at), routing.taken(value_grads_BV, at)
                changed += shard.update(rows, keys, values, rate)
        return Applied(applied=changed, skipped=skipped, delay_s=delay_s)

    def touch(self, slots: SlotsLike, step: int, weights: Numbers | None = None) -> Applied:
        slots_B = checks.slots(slots)
        if checks.step_number(step) is None:
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
        with self._mutating():
            self.check_known(slots_B)
            for shard, at, rows in self._split(slots_B):
                shard.touch(rows, step, routing.taken(weights_B, at))
        return Applied(applied=len(slots_B))

    def allocate(self, n: int, *, step: int | None = None, records: Records | None = None) -> Slots:
        n = checks.positive("n", n)
        step = checks.step_number(step)
        table = checks.records(records, self._config.schema, n)
        self.admit()
        with self._mutating():
            self._check_open()
            slots_B = self._least_used(n)
            if len(slots_B) < n:
                raise InvalidArgument("too few slots", got=f"n={n}", expected=f"≤ {len(slots_B)}")
            for shard, at, rows in self._split(slots_B):
                shard.renew(rows, None if table is None else table.take(at), step)
        return slots_B

    def erase(self, slots: SlotsLike) -> Applied:
        slots_B = checks.slots(slots, unique=True)
        with self._mutating():
            self.check_known(slots_B)
            for shard, _, rows in self._split(slots_B):
                shard.erase(rows)
        return Applied(applied=len(slots_B))

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> SearchResult:
        self._check_open()
        k = checks.positive("k", k)
        most = max(self.next_slot, LEAST_MAX_K)
        if k > most:
            raise InvalidArgument(
                "k is more than the memory ever held", got=k, expected=f"≤ {most}"
            )
        if self._config.index_config.kind == "none" and not options.exact:
            raise Unsupported(
                f"memory {self._name!r} has no index",
                hint="search it with SearchOptions(exact=True), which scores every row",
            )
        if options.sample_clusters and not self._config.index_config.sealed:
            raise Unsupported(
                f"memory {self._name!r} has no clusters to sample",
                got=f"sample_clusters={options.sample_clusters}",
                hint="every row is scored; sample_random adds some to the k best",
            )
        queries_QD = self._matrix("queries", queries, self._config.dim)
        if options.filter is not None:
            checks.filter_columns(options.filter, self._config.schema)
        by_shard = [shard.search(queries_QD, k, options) for shard in self.shards]
        found = routing.merged_results(by_shard, k)
        if options.widens:
            return widening.widen(self.shards, self.next_slot, queries_QD, found, options)
        return found

    def gather(
        self,
        slots: SlotsLike,
        *,
        vectors: bool = True,
        columns: Sequence[str] = (),
        list_limit: int | None = None,
    ) -> Rows:
        slots_B = checks.slots(slots)
        unknown = [column for column in columns if column not in self._config.records]
        if unknown:
            names = list(self._config.records)
            raise InvalidArgument("no such record column", got=unknown, expected=f"among {names}")
        if list_limit is not None:
            checks.positive("list_limit", list_limit)
        self.check_known(slots_B)
        parts = list(self._split(slots_B))
        places = [at for _, at, _ in parts]
        keys_BD = values_BV = records = None
        if vectors:
            read = [shard.vectors(rows) for shard, _, rows in parts]
            keys_BD = self._rejoined(places, [keys for keys, _, _ in read], self._config.dim)
            if self._config.value_dim is not None:
                values = [v for _, v, _ in read if v is not None]
                values_BV = self._rejoined(places, values, self._config.value_dim)
            generations = [generations for _, _, generations in read]
        else:
            generations = [shard.generations(rows) for shard, _, rows in parts]
        generations_B = routing.rejoined(places, generations, np.empty(len(slots_B), np.int64))
        if columns and not parts:
            records = self._config.schema.empty_table().select(list(columns))
        elif columns:
            tables = [shard.read_records(rows, columns, list_limit) for shard, _, rows in parts]
            records = routing.rejoined_records(places, tables)
        return Rows(
            slots_B=slots_B,
            generations_B=generations_B,
            keys_BD=keys_BD,
            values_BV=values_BV,
            records=records,
        )

    def lookup(
        self,
        column: str,
        values: Sequence[Any] | Array,
        limit: int,
        cursor: SlotsLike | None = None,
    ) -> LookupResult:
        self._check_open()
        if column not in self._config.lookup:
            declared = list(self._config.lookup)
            raise InvalidArgument(
                "the column cannot be looked up", got=repr(column), expected=f"among {declared}"
            )
        checks.positive("limit", limit)
        kind = self._config.schema.field(column).type
        item = kind.value_type if pa.types.is_list(kind) else kind
        asked = checks.column("lookup values", values, item)
        first_Q = None if cursor is None else checks.cursor(cursor, len(asked))
        count = len(self.shards)
        found = [
            shard.lookup(column, asked, limit, routing.first_rows(first_Q, shard.number, count))
            for shard in self.shards
        ]
        return routing.merged_lookups(found, limit)

    def reindex(self) -> None:
        self._check_open()
        for shard in self.shards:
            shard.reindex()

    def refresh(self, limit: int | None = None) -> Refreshed:
        raise Unsupported(
            f"memory {self._name!r} is not encoded", hint="only sums of parts can be refreshed"
        )

    def describe(self) -> Description:
        self._check_open()
        shards = tuple(shard.describe() for shard in self.shards)
        return Description(
            name=self._name, config=self._config, next_slot=self.next_slot, shards=shards
        )

    # What the encoded memory and the store need beyond the verbs.

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Holds mutations off, so that what is read meanwhile is of one moment."""
        with self._mutation:
            yield

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

    def admit(self) -> float:
        """Waits until rows may become fresh in every shard; returns for how many seconds.

        Raises `Overloaded` where it waits in vain. What comes in between is not counted: of
        callers that wait at once all go on.
        """
        self._check_open()
        return sum(shard.maintainer.admit() for shard in self.shards)

    @contextlib.contextmanager
    def _mutating(self) -> Iterator[None]:
        """Keeps other mutations off; what was done is as durable as the log promises, when done."""
        if self.refusal is not None:
            raise self.refusal
        with self._mutation:
            yield
        for shard in self.shards:
            shard.commit()

    def settle(self) -> None:
        """Waits until the background has nothing to do."""
        while not all(shard.maintainer.settle() for shard in self.shards):
            continue

    def _check_open(self) -> None:
        if self._retired is not None:
            raise self._retired

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
    ) -> None:
        """Writes rows whose arguments are checked; those evicted leave at once, shard by shard."""
        with self._mutation:
            leaving = {shard.number: rows for shard, _, rows in self._split(evicted)}
            for shard, at, rows in self._split(slots_B):
                part = None
                if records is not None:
                    part = records if len(at) == len(slots_B) else records.take(at)
                keys, values = routing.taken(keys_BD, at), routing.taken(values_BV, at)
                gone = leaving.pop(shard.number, NOTHING)
                shard.put(rows, keys, values, part, drifts=drifts, step=step, evicted_E=gone)
            for number, rows in leaving.items():
                self.shards[number].erase(rows)

    def alive(self, slots_B: Slots) -> Array:
        """Which slots are there, bool `[B]`."""
        alive_B = np.zeros(len(slots_B), bool)
        for shard, at, rows in self._split(slots_B):
            alive_B[at] = shard.alive(rows)
        return alive_B

    def check_known(self, slots_B: Slots) -> None:
        """Raises `UnknownSlot` unless all are there."""
        self._check_open()
        checks.known(slots_B, self.alive(slots_B), self._name)

    def _largest(self, slots_B: Slots) -> float:
        """The largest magnitude in the keys of some slots."""
        keys = [shard.vectors(rows)[0] for shard, _, rows in self._split(slots_B)]
        return max((float(np.abs(wide(part)).max(initial=0.0)) for part in keys), default=0.0)

    def _of_generation(self, slots_B: Slots, generations: SlotsLike | None) -> Array:
        """Which slots still have the tenant that the caller means, bool `[B]`."""
        kept = np.ones(len(slots_B), bool)
        if generations is None:
            return kept
        meant_B = checks.slots(generations)
        if len(meant_B) != len(slots_B):
            raise WrongShape(
                "generations have the wrong length", got=len(meant_B), expected=len(slots_B)
            )
        for shard, at, rows in self._split(slots_B):
            kept[at] = shard.generations(rows) == meant_B[at]
        return kept

    def _least_used(self, count: int) -> Slots:
        """Up to `count` slots of smallest (usage, slot) over all shards, in that order."""
        found = [(shard.number, *shard.least_used(count)) for shard in self.shards]
        slots = np.concatenate([rows * len(self.shards) + s for s, rows, _ in found])
        priorities = np.concatenate([priority for _, _, priority in found])
        return slots[np.lexsort((slots, priorities))[:count]]

    def _evicted(self, count: int) -> Slots:
        """The least used slots that `count` new ones would push over the capacity."""
        capacity = self._config.capacity
        if capacity is None:
            return NOTHING
        if count > capacity:
            raise InvalidArgument(
                "more rows than the capacity", got=count, expected=f"≤ {capacity}"
            )
        over = sum(shard.rows.live for shard in self.shards) + count - capacity
        return self._least_used(over) if over > 0 else NOTHING

    def live_slots(self) -> Slots:
        """Every slot that is there, rising."""
        count = len(self.shards)
        return np.sort(np.concatenate([s.rows.live_rows() * count + s.number for s in self.shards]))

    def travel(self) -> Array:
        """How far the key of each slot has gone since it was appended, float64 `[next_slot]`."""
        travel_N = np.zeros(self.next_slot)
        for shard in self.shards:
            part = shard.travel()
            travel_N[shard.number :: len(self.shards)][: len(part)] = part
        return travel_N

    def _split(self, slots_B: Slots) -> Iterator[tuple[Shard, Slots, Slots]]:
        """For each shard concerned: the shard, the positions in the call, the rows there."""
        for number, at, rows in routing.split(slots_B, len(self.shards)):
            yield self.shards[number], at, rows

    def _rejoined(self, places: Sequence[Slots], arrays: Sequence[Array], width: int) -> Array:
        rows = sum(map(len, places))
        return routing.rejoined(places, arrays, np.empty((rows, width), self._dtype))

    def _required(self, name: str, value: Array | None) -> Array:
        if value is None:
            raise InvalidArgument(f"{name} are missing", expected=f"(rows, {self._config.dim})")
        return value

    def _matrix(self, name: str, value: Any, width: int, rows: int | None = None) -> Array:
        """Numbers to count with, not to keep."""
        return checks.matrix(name, value, width=width, dtype=counting(self._dtype), rows=rows)

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
