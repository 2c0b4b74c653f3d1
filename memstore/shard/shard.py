"""A shard: the unit of placement, log and recovery. It holds the slots with `slot % shards == i`.

Inside it a slot is a row number, `slot // shards`. One caller at a time changes it; readers wait
for no sealing, only for the few microseconds in which rows change.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memstore.config import MemoryConfig
from memstore.index import exact
from memstore.index.two_tier import TwoTierIndex, Version
from memstore.kernels.score import score_rows
from memstore.kernels.select import best_rows
from memstore.kernels.topk import top_k
from memstore.memory import NO_SLOT, Array, Proposal, SearchOptions, ShardDescription, Slots
from memstore.shard.records import RecordHeap
from memstore.shard.rows import RowTable


@dataclass(frozen=True)
class ShardResult:
    """What one shard found: as `SearchResult`, with rows for slots."""

    rows_QK: Slots
    scores_QK: Array
    proposal_QK: Array
    scored_Q: npt.NDArray[np.int64]
    row_version: int
    index_version: int


class Shard:
    """Rows, records and index of one shard, behind the verbs; arguments are checked already."""

    def __init__(self, config: MemoryConfig, number: int) -> None:
        self.config = config
        self.number = number
        self.rows = RowTable(config)
        self.records = RecordHeap(config.schema, config.lookup)
        self.index = TwoTierIndex(config.index_config, config.dim, seed=number)
        self._writer = threading.RLock()
        self._table = threading.RLock()

    def put(
        self,
        rows_B: Slots,
        keys_BD: Array | None,
        values_BV: Array | None,
        records: pa.Table | None,
        *,
        drifts: bool = False,
    ) -> None:
        """Writes rows whole. With `drifts` the sealed copies go on proposing them."""
        with self._writer:
            with self._table:
                self.rows.put(rows_B, keys_BD, values_BV)
                if records is not None:
                    self.records.put(rows_B, records)
                if keys_BD is not None and not drifts:
                    self.index.wrote(rows_B)
            if self.index.wants_sealing:
                self.index.seal(self._keys, self.rows.live_rows())

    def update(
        self, rows_B: Slots, key_grads_BD: Array | None, value_grads_BV: Array | None, lr: float
    ) -> int:
        """Takes one optimizer step; returns the number of distinct rows changed."""
        with self._writer, self._table:
            return self.rows.step(rows_B, key_grads_BD, value_grads_BV, lr)

    def erase(self, rows_B: Slots) -> None:
        with self._writer, self._table:
            self.rows.kill(rows_B)
            self.index.killed(rows_B)

    def reindex(self) -> None:
        with self._writer:
            self.index.rebuild(self._keys, self.rows.live_rows())

    def search(self, queries_QD: Array, k: int, options: SearchOptions) -> ShardResult:
        """Proposes, then scores the candidates from the rows as they are now."""
        every_row = options.exact or self.config.index_config.kind != "clustered"
        with self._table:
            version = self.index.version
            live_R = self.rows.live_rows() if every_row else version.fresh_F
            keys_ND = self.rows.keys_ND[: self.rows.size]
            row_version = self.rows.version
        if every_row:
            whole = len(live_R) == len(keys_ND)
            rows_QC = exact.propose(queries_QD, keys_ND, None if whole else live_R, k)
            tier_QC = np.full(rows_QC.shape, Proposal.EXACT, np.uint8)
            scored_Q = np.full(len(queries_QD), len(live_R))
        else:
            return self._search_tiers(version, queries_QD, keys_ND, row_version, k, options)
        scores_QC = np.empty(rows_QC.shape, queries_QD.dtype)
        with self._table:
            gone_QC = ~self.rows.is_alive(rows_QC.ravel()).reshape(rows_QC.shape)
            rows_QC[gone_QC] = NO_SLOT
            score_rows(queries_QD, self.rows.keys_ND, rows_QC, scores_QC)
            row_version = self.rows.version
        rows_QK, scores_QK, tier_QK = top_k(rows_QC, scores_QC, k, tier_QC)
        return ShardResult(rows_QK, scores_QK, tier_QK, scored_Q, row_version, version.number)

    def _search_tiers(
        self,
        version: Version,
        queries_QD: Array,
        keys_ND: Array,
        row_version: int,
        k: int,
        options: SearchOptions,
    ) -> ShardResult:
        sealed_QC, fresh_F = self.index.propose(version, queries_QD, k, options), version.fresh_F
        if len(fresh_F) > exact.BLOCK_ROWS:
            # Their scores are too many to lay out: they are proposed block by block.
            found_QC = exact.propose(queries_QD, keys_ND, fresh_F, k)
            sealed_QC = np.concatenate([sealed_QC, found_QC], axis=1)
            version = replace(version, fresh_F=fresh_F[:0])
        fresh = self.index.fresh(version, keys_ND, row_version)
        near_QF = queries_QD @ fresh.keys_FD.T
        slack_Q = fresh.longest * exact.error(queries_QD)
        with self._table:
            rows_QK, scores_QK, tier_QK, scored_Q = best_rows(
                queries_QD,
                self.rows.keys_ND,
                self.rows.alive_N[: self.rows.size],
                sealed_QC,
                version.fresh_F,
                near_QF,
                slack_Q,
                k,
            )
            row_version = self.rows.version
        if version.fresh_F is not fresh_F:
            tier_QK[np.isin(rows_QK, fresh_F)] = Proposal.FRESH
        return ShardResult(rows_QK, scores_QK, tier_QK, scored_Q, row_version, version.number)

    def alive(self, rows_B: Slots) -> npt.NDArray[np.bool_]:
        with self._table:
            return self.rows.is_alive(rows_B)

    def vectors(self, rows_B: Slots) -> tuple[Array, Array | None]:
        """Copies of the keys and values of rows."""
        with self._table:
            values_NV = self.rows.values_NV
            values_BV = None if values_NV is None else np.take(values_NV, rows_B, axis=0)
            return np.take(self.rows.keys_ND, rows_B, axis=0), values_BV

    def read_records(
        self, rows_B: Slots, columns: Sequence[str], list_limit: int | None
    ) -> pa.Table:
        with self._table:
            return self.records.take(rows_B, columns, list_limit)

    def lookup(
        self, column: str, values: pa.Array, limit: int
    ) -> tuple[list[Slots], npt.NDArray[np.bool_]]:
        with self._table:
            return self.records.lookup(column, values, limit, self.rows.alive_N)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Holds mutations off while a checkpoint reads; searches go on."""
        with self._writer:
            yield

    def travel(self) -> npt.NDArray[np.float64]:
        """How far each row's key has gone since it was appended, `[rows]`."""
        with self._table:
            return self.rows.travel_N[: self.rows.size].copy()

    def describe(self) -> ShardDescription:
        with self._table:
            version, live = self.index.version, self.rows.live
            book = version.codebook
            probe = 0 if book is None else min(self.index.probe(book), book.clusters)
            recall = None if book is None else book.recall
            return ShardDescription(
                rows=live,
                erased=self.rows.size - live,
                row_version=self.rows.version,
                index_version=version.number,
                sealed=version.sealed,
                fresh=len(version.fresh_F),
                segments=len(version.segments),
                clusters=0 if book is None else book.clusters,
                row_bytes=self.rows.bytes,
                index_bytes=self.index.bytes,
                record_bytes=self.records.bytes,
                alpha=0.0 if book is None else book.reduction.alpha,
                reach=0.0 if book is None else book.reduction.reach,
                probe=probe,
                recall=None if recall is None else recall.at(probe),
                recall_asked=recall is not None and recall.asked,
            )

    def _keys(self, rows_R: Slots) -> Array:
        with self._table:
            return np.take(self.rows.keys_ND, rows_R, axis=0)
