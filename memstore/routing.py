"""Slot → shard: splits a call by shard, fans it out, and merges what comes back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from memstore import checks
from memstore.config import MemoryConfig
from memstore.errors import InvalidArgument, MemstoreError, Unsupported
from memstore.kernels.topk import top_k
from memstore.memory import (
    NO_SLOT,
    Applied,
    Array,
    Description,
    LookupResult,
    Records,
    Refreshed,
    Rows,
    SearchOptions,
    SearchResult,
    Slots,
    SlotsLike,
)
from memstore.shard.shard import Shard, ShardResult

LEAST_MAX_K = 2_048
"""A small memory may be asked for this many; a larger one for as many as it ever held."""


class RoutedMemory:
    """The embedded `Memory`: checks a call at the boundary, then hands each shard its part."""

    def __init__(self, name: str, config: MemoryConfig, next_slot: int = 0) -> None:
        self._name = name
        self._config = config
        self.next_slot = next_slot
        self.shards = [Shard(config, i) for i in range(config.shards)]
        # One mutation at a time over all shards, so that what was checked still holds when done.
        self._mutation = threading.RLock()
        self._retired: MemstoreError | None = None

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
        self, keys: Array | None = None, values: Array | None = None, records: Records | None = None
    ) -> Slots:
        keys_BD = self._keys(self._required("keys", keys))
        values_BV = self._values(values, len(keys_BD), required=True)
        table = checks.records(records, self._config.schema, len(keys_BD))
        with self._mutation:
            self._check_open()
            slots_B = np.arange(self.next_slot, self.next_slot + len(keys_BD))
            self.next_slot += len(keys_BD)
            self.put(slots_B, keys_BD, values_BV, table)
        return slots_B

    def write(
        self,
        slots: SlotsLike,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
    ) -> Applied:
        slots_B = checks.slots(slots, unique=True)
        keys_BD = None if keys is None else self._keys(keys, len(slots_B))
        values_BV = self._values(values, len(slots_B), required=False)
        table = None
        if records is not None:
            table = checks.records(records, self._config.schema, len(slots_B))
        if keys_BD is None and values_BV is None and table is None:
            raise InvalidArgument("nothing to write", expected="keys, values or records")
        with self._mutation:
            self.check_known(slots_B)
            self.put(slots_B, keys_BD, values_BV, table)
        return Applied(applied=len(slots_B))

    def update(
        self,
        slots: SlotsLike,
        key_grads: Array | None = None,
        value_grads: Array | None = None,
        lr: float | None = None,
    ) -> Applied:
        slots_B = checks.slots(slots)
        if key_grads is None and value_grads is None:
            raise InvalidArgument("nothing to update", expected="key_grads or value_grads")
        key_grads_BD = None
        if key_grads is not None:
            key_grads_BD = self._matrix("key_grads", key_grads, self._config.dim, len(slots_B))
        value_grads_BV = self._values(value_grads, len(slots_B), name="value_grads")
        rate = checks.rate(self._config.optimizer_config.lr if lr is None else lr)
        for grads_BX in (key_grads_BD, value_grads_BV):
            checks.step(grads_BX, rate)
        changed = 0
        with self._mutation:
            self.check_known(slots_B)
            for shard, at, rows in self._split(slots_B):
                keys, values = _at(key_grads_BD, at), _at(value_grads_BV, at)
                changed += shard.update(rows, keys, values, rate)
        return Applied(applied=changed)

    def erase(self, slots: SlotsLike) -> Applied:
        slots_B = checks.slots(slots, unique=True)
        with self._mutation:
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
        queries_QD = self._matrix("queries", queries, self._config.dim)
        found = [shard.search(queries_QD, k, options) for shard in self.shards]
        return self._merge(found, k)

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
        keys_BD = values_BV = records = None
        if vectors:
            read = [shard.vectors(rows) for shard, _, rows in parts]
            keys_BD = self._reassemble(parts, [keys for keys, _ in read], self._config.dim)
            if self._config.value_dim is not None:
                values = [v for _, v in read if v is not None]
                values_BV = self._reassemble(parts, values, self._config.value_dim)
        if columns:
            tables = [shard.read_records(rows, columns, list_limit) for shard, _, rows in parts]
            records = self._reassemble_records(parts, tables, columns)
        return Rows(slots_B=slots_B, keys_BD=keys_BD, values_BV=values_BV, records=records)

    def lookup(self, column: str, values: Sequence[Any] | Array, limit: int) -> LookupResult:
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
        by_shard = [shard.lookup(column, asked, limit) for shard in self.shards]
        count = len(self.shards)
        lists, more_Q = by_shard[0]
        if count > 1:
            found = [[rows * count + s for rows in part] for s, (part, _) in enumerate(by_shard)]
            merged = [np.sort(np.concatenate(parts)) for parts in zip(*found, strict=True)]
            more_Q = np.any([more for _, more in by_shard], axis=0)
            more_Q |= np.array([len(slots) > limit for slots in merged], bool)
            lists = [slots[:limit] for slots in merged]
        offsets = np.concatenate([[0], np.cumsum([len(slots) for slots in lists], dtype=np.int64)])
        flat = np.concatenate(lists) if lists else np.empty(0, np.int64)
        return LookupResult(slots=flat, offsets=offsets.astype(np.int64), truncated_Q=more_Q)

    def reindex(self) -> None:
        with self._mutation:
            self._check_open()
            for shard in self.shards:
                shard.reindex()

    def refresh(self, limit: int | None = None) -> Refreshed:
        raise Unsupported(
            f"memory {self._name!r} is not encoded", hint="only sums of parts can be refreshed"
        )

    def describe(self) -> Description:
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
    ) -> None:
        """Writes rows whose arguments are checked."""
        with self._mutation:
            for shard, at, rows in self._split(slots_B):
                part = None
                if records is not None:
                    part = records if len(at) == len(slots_B) else records.take(at)
                shard.put(rows, _at(keys_BD, at), _at(values_BV, at), part, drifts=drifts)

    def check_known(self, slots_B: Slots) -> None:
        """Raises `UnknownSlot` unless all are there."""
        self._check_open()
        alive_B = np.zeros(len(slots_B), bool)
        for shard, at, rows in self._split(slots_B):
            alive_B[at] = shard.alive(rows)
        checks.known(slots_B, alive_B, self._name)

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
        count = len(self.shards)
        if count == 1:
            yield self.shards[0], np.arange(len(slots_B)), slots_B
            return
        home_B = slots_B % count
        for shard in self.shards:
            at = np.flatnonzero(home_B == shard.number)
            if len(at):
                yield shard, at, slots_B[at] // count

    def _merge(self, found: list[ShardResult], k: int) -> SearchResult:
        count = len(self.shards)
        if count == 1:
            # Its rows are the slots, and the best of them already.
            only = found[0]
            return self._result((only.rows_QK, only.scores_QK, only.proposal_QK), found)
        slots = [
            np.where(part.rows_QK == NO_SLOT, NO_SLOT, part.rows_QK * count + s)
            for s, part in enumerate(found)
        ]
        slots_QC, scores_QC, proposal_QC = (
            np.concatenate(parts, axis=1)
            for parts in (
                slots,
                [part.scores_QK for part in found],
                [part.proposal_QK for part in found],
            )
        )
        return self._result(top_k(slots_QC, scores_QC, k, proposal_QC), found)

    @staticmethod
    def _result(merged: tuple[Array, ...], found: list[ShardResult]) -> SearchResult:
        slots_QK, scores_QK, proposal_QK = merged
        return SearchResult(
            slots_QK=slots_QK,
            scores_QK=scores_QK,
            counts_Q=(slots_QK != NO_SLOT).sum(axis=1),
            proposal_QK=proposal_QK,
            scored_Q=np.sum([part.scored_Q for part in found], axis=0),
            row_versions_S=np.array([part.row_version for part in found], np.int64),
            index_versions_S=np.array([part.index_version for part in found], np.int64),
        )

    def _reassemble(
        self, parts: list[tuple[Shard, Slots, Slots]], arrays: list[Array], width: int
    ) -> Array:
        if len(parts) == 1:
            return arrays[0]
        whole = np.empty((sum(len(at) for _, at, _ in parts), width), self._config.dtype)
        for (_, at, _), array in zip(parts, arrays, strict=True):
            whole[at] = array
        return whole

    def _reassemble_records(
        self,
        parts: list[tuple[Shard, Slots, Slots]],
        tables: list[pa.Table],
        columns: Sequence[str],
    ) -> pa.Table:
        if len(parts) == 1:
            return tables[0]
        if not parts:
            return self._config.schema.empty_table().select(list(columns))
        order = np.concatenate([at for _, at, _ in parts])
        return pa.concat_tables(tables).take(np.argsort(order)).combine_chunks()

    def _required(self, name: str, value: Array | None) -> Array:
        if value is None:
            raise InvalidArgument(f"{name} are missing", expected=f"(rows, {self._config.dim})")
        return value

    def _matrix(self, name: str, value: Any, width: int, rows: int | None = None) -> Array:
        return checks.matrix(name, value, width=width, dtype=self._config.dtype, rows=rows)

    def _keys(self, keys: Array, rows: int | None = None) -> Array:
        return self._matrix("keys", keys, self._config.dim, rows)

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
        return self._matrix(name, values, width, rows)


def _at(array: Array | None, at: Slots) -> Array | None:
    return array if array is None or len(at) == len(array) else array[at]
