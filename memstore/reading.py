"""The reading half of the embedded memory: search, gather and lookup over all its shards."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from memstore import checks, routing, widening
from memstore.config import MemoryConfig
from memstore.dtypes import counting, storage
from memstore.errors import InvalidArgument, MemstoreError, ShardElsewhere, Unsupported
from memstore.memory import (
    Array,
    Description,
    LookupResult,
    Rows,
    SearchOptions,
    SearchResult,
    Slots,
    SlotsLike,
)
from memstore.meter import Meter
from memstore.placement import WHOLE, Part
from memstore.shard.shard import Shard

LEAST_MAX_K = 2_048
"""A small memory may be asked for this many; a larger one for as many as it ever held."""


class ReadableMemory:
    """The shards of one memory in this process, and the verbs that read them."""

    made = 0
    """The number under which the memory was made or restored, which no other of its name has; 0 is
    none: it was made before there were such numbers."""

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
        self._name = name
        self._config = config
        self._dtype = storage(config.dtype)
        self.next_slot = next_slot
        self.part = part
        self._here: dict[int, Shard] | None = {
            number: Shard(config, number, folder) for number in part.shards(config.shards)
        }
        self._retired: MemstoreError | None = None
        self.meter = Meter()

    @property
    def name(self) -> str:
        return self._name

    @property
    def config(self) -> MemoryConfig:
        return self._config

    @property
    def shards(self) -> list[Shard]:
        """Those that are here, rising; raises what `retire` said once they were let go of."""
        return [*self._by_number.values()]

    @property
    def _by_number(self) -> dict[int, Shard]:
        here = self._here
        if here is None:
            self._check_open()
            raise AssertionError("a memory lets go of its shards after it was retired")
        return here

    @property
    def candidates(self) -> widening.ShardCandidates:
        """What its shards have for training."""
        return widening.ShardCandidates(self.shards, self._config.shards)

    @property
    def most_found(self) -> int:
        """The largest k that is asked for."""
        return max(self.next_slot, LEAST_MAX_K)

    @property
    def version(self) -> int:
        """Rises with every mutation and sealing."""
        return sum(shard.rows.version + shard.index.version.number for shard in self.shards)

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> SearchResult:
        self._check_open()
        k = checks.positive("k", k)
        if k > self.most_found:
            raise InvalidArgument(
                "k is more than the memory ever held", got=k, expected=f"≤ {self.most_found}"
            )
        if self._config.index_config.kind == "none" and not options.exact:
            raise Unsupported(
                f"memory {self._name!r} has no index",
                hint="search it with SearchOptions(exact=True), which scores every row",
            )
        widening.check(self._name, self._config, options)
        queries_QD = self._matrix("queries", queries, self._config.dim)
        if options.filter is not None:
            checks.filter_columns(options.filter, self._config.schema)
        by_shard = {shard.number: shard.search(queries_QD, k, options) for shard in self.shards}
        found = routing.merged_results(by_shard, self._config.shards, k)
        if options.widens:
            return widening.widen(self.candidates, self.next_slot, queries_QD, found, options)
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
        views = [shard.rows.view for shard in self.shards]
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
        del views  # A row that is erased while it is read was held by them.
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
        count, found = self._config.shards, {}
        for shard in self.shards:
            first_row_Q = routing.first_rows(first_Q, shard.number, count)
            found[shard.number] = shard.lookup(column, asked, limit, first_row_Q)
        return routing.merged_lookups(found, count, limit)

    def describe(self) -> Description:
        self._check_open()
        shards = tuple(shard.describe() for shard in self.shards)
        return Description(
            name=self._name,
            config=self._config,
            next_slot=self.next_slot,
            shards=shards,
            made=self.made,
        )

    def alive(self, slots_B: Slots) -> Array:
        """Which slots are there, bool `[B]`."""
        alive_B = np.zeros(len(slots_B), bool)
        for shard, at, rows in self._split(slots_B):
            alive_B[at] = shard.alive(rows)
        return alive_B

    def summands(self, slots_B: Slots) -> Array:
        """Keys of slots, `[B, D]`, as they are now; zeros for what is not there."""
        keys_BD = np.zeros((len(slots_B), self._config.dim), self._dtype)
        for shard, at, rows in self._split(slots_B):
            view = shard.rows.view
            there_B = view.is_alive(rows)
            if there_B.all() and len(at) == len(slots_B):
                return view.keys(rows)
            keys_BD[at[there_B]] = view.keys(rows[there_B])
        return keys_BD

    def check_known(self, slots_B: Slots) -> None:
        """Raises `UnknownSlot` unless all are there."""
        self._check_open()
        checks.known(slots_B, self.alive(slots_B), self._name)

    def live_slots(self) -> Slots:
        """Every slot that is there, rising."""
        count, live = self._config.shards, [shard.rows.live_rows() for shard in self.shards]
        if count == 1:
            return live[0]
        slots = [rows * count + s.number for rows, s in zip(live, self.shards, strict=True)]
        return np.sort(np.concatenate(slots))

    def travel(self) -> Array:
        """How far the key of each slot has gone since it was appended, float64 `[next_slot]`."""
        travel_N = np.zeros(self.next_slot)
        for shard in self.shards:
            part = shard.travel()
            travel_N[shard.number :: self._config.shards][: len(part)] = part
        return travel_N

    def _split(self, slots_B: Slots) -> Iterator[tuple[Shard, Slots, Slots]]:
        """For each shard concerned: the shard, the positions in the call, the rows there."""
        for number, at, rows in routing.split(slots_B, self._config.shards):
            if number not in self._by_number:
                raise ShardElsewhere(
                    f"part {self.part} of memory {self._name!r} does not hold that shard",
                    got=f"shard {number}",
                    expected=f"one of {list(self._by_number)}",
                )
            yield self._by_number[number], at, rows

    def _rejoined(self, places: Sequence[Slots], arrays: Sequence[Array], width: int) -> Array:
        rows = sum(map(len, places))
        return routing.rejoined(places, arrays, np.empty((rows, width), self._dtype))

    def _check_open(self) -> None:
        if self._retired is not None:
            # One of its own for each call: it holds what that looked at.
            raise copy.copy(self._retired)

    def _matrix(self, name: str, value: Any, width: int, rows: int | None = None) -> Array:
        """Numbers to count with, not to keep."""
        return checks.matrix(name, value, width=width, dtype=counting(self._dtype), rows=rows)
