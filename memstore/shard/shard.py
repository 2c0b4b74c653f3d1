"""A shard: the unit of placement, log and recovery. It holds the slots with `slot % shards == i`.

Inside it a slot is a row number, `slot // shards`. One caller at a time changes it. Readers wait
for no sealing; they wait while rows change, and while a column is first made ready for `lookup`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memstore.config import MemoryConfig
from memstore.filters import Filter
from memstore.index import exact
from memstore.index.passing import Passing
from memstore.index.two_tier import TwoTierIndex, Version
from memstore.kernels.half import packed, wide
from memstore.kernels.score import score_rows
from memstore.kernels.select import best_rows
from memstore.kernels.topk import drop_repeats, top_k
from memstore.memory import NO_SLOT, Array, Proposal, SearchOptions, ShardDescription, Slots
from memstore.shard import filters
from memstore.shard.records import RecordHeap
from memstore.shard.rows import RowTable
from memstore.trim import give_back

logger = logging.getLogger(__name__)


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
        self.rows = RowTable(config, number)
        self.records = RecordHeap(config.schema, config.lookup)
        self.index = TwoTierIndex(config.index_config, config.dim, seed=number)
        self._answers = filters.KeptAnswers()
        self._erasures = 0
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
            with self._table, self._records_first(rows_B, records):
                self.rows.put(rows_B, keys_BD, values_BV)
                if keys_BD is not None and not drifts:
                    self.index.wrote(rows_B)
            self._seal()

    def blend(self, rows_B: Slots, weights_B: Array, erase_BD: Array, add_BD: Array) -> None:
        """Writes keys sparsely, in call order; the rows are found by what they are now."""
        with self._writer:
            with self._table:
                self.rows.blend(rows_B, weights_B, erase_BD, add_BD)
                self.index.wrote(rows_B)
            self._seal()

    def touch(self, rows_B: Slots, step: int, weights_B: Array | None) -> None:
        with self._writer, self._table:
            self.rows.touch(rows_B, step, weights_B)

    def renew(self, rows_B: Slots, records: pa.Table | None) -> None:
        """Hands rows to new tenants."""
        with self._writer:
            with self._table, self._records_first(rows_B, records):
                self.rows.renew(rows_B)
                self.index.wrote(rows_B)
            self._seal()

    def least_used(self, count: int) -> tuple[Slots, Array]:
        """Up to `count` live rows of smallest (usage, row), and their priorities."""
        with self._table:
            rows = self.rows.usage.least(self.rows.live_rows(), count)
            return rows, self.rows.usage.priority_N[rows]

    def generations(self, rows_B: Slots) -> npt.NDArray[np.int64]:
        with self._table:
            return self.rows.usage.generation_N[rows_B]

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
            self._erasures += 1

    def reindex(self) -> None:
        with self._writer:
            self.index.rebuild(self._keys, self.rows.live_rows())
        give_back()

    def search(self, queries_QD: Array, k: int, options: SearchOptions) -> ShardResult:
        """Proposes, then scores the candidates from the rows as they are now."""
        tree = options.filter
        every_row = options.exact or self.config.index_config.kind != "clustered"
        with self._table:
            version, stamp = self.index.version, self._stamp
            live_R = self.rows.live_rows() if every_row and tree is None else version.fresh_F
            keys_ND = self.rows.keys_ND[: self.rows.size]
            row_version = self.rows.version
            answer = None if tree is None else self._answer(tree)
        passing = None if answer is None else answer()
        if passing is not None and not every_row:
            every_row = self.index.scans(version, passing, options)
        if every_row:
            live_R = live_R if passing is None else passing.rows()
            whole = len(live_R) == len(keys_ND)
            rows_QC = exact.propose(queries_QD, keys_ND, None if whole else live_R, k)
            tier_QC = np.full(rows_QC.shape, Proposal.EXACT, np.uint8)
            scored_Q = np.full(len(queries_QD), len(live_R))
        else:
            if passing is None:
                return self._search_tiers(version, queries_QD, keys_ND, row_version, k, options)
            rows_QC, tier_QC = self._propose_passing(
                version, queries_QD, keys_ND, k, options, passing
            )
            scored_Q = (rows_QC != NO_SLOT).sum(axis=1)
            few_Q = scored_Q < min(k, passing.count)
            if few_Q.any():
                found_QC = exact.propose(queries_QD[few_Q], keys_ND, passing.rows(), k)
                rows_QC, tier_QC = _replaced(rows_QC, tier_QC, few_Q, found_QC)
                scored_Q[few_Q] = passing.count
        scores_QC = np.empty(rows_QC.shape, queries_QD.dtype)
        with self._table:
            gone_QC = ~self.rows.is_alive(rows_QC.ravel()).reshape(rows_QC.shape)
            rows_QC[gone_QC] = NO_SLOT
            if tree is not None and self._stamp != stamp:
                self._refuse(tree, rows_QC)
            score_rows(queries_QD, packed(self.rows.keys_ND), rows_QC, scores_QC)
            row_version = self.rows.version
        rows_QK, scores_QK, tier_QK = top_k(rows_QC, scores_QC, k, tier_QC)
        return ShardResult(rows_QK, scores_QK, tier_QK, scored_Q, row_version, version.number)

    @property
    def _stamp(self) -> tuple[int, int]:
        """Changes whenever a record or the set of live rows does; not with a step or a key."""
        return self.records.version, self._erasures

    def _answer(self, tree: Filter) -> Callable[[], Passing]:
        """How to find which rows pass now: to be called without the lock that this needs."""
        stamp = self._stamp
        kept = self._answers.get(tree, stamp)
        if kept is not None:
            return lambda: kept
        size = self.rows.size
        (chunks, where_N), alive_N = self.records.heap(size), self.rows.alive_N[:size].copy()

        def evaluate() -> Passing:
            found = filters.passing(tree, chunks, where_N, alive_N)
            self._answers.put(tree, stamp, found)
            return found

        return evaluate

    def _refuse(self, tree: Filter, rows_QC: Slots) -> None:
        """Blanks the candidates whose record, changed since they were proposed, fails now."""
        rows_U = np.unique(rows_QC[rows_QC != NO_SLOT])
        columns = sorted({leaf.column for leaf in tree.leaves()})
        records = self.records.take(rows_U, columns, None)
        passes_U = filters.evaluate(tree, records).to_numpy(zero_copy_only=False)
        rows_QC[~np.isin(rows_QC, rows_U[passes_U])] = NO_SLOT

    def _propose_passing(
        self,
        version: Version,
        queries_QD: Array,
        keys_ND: Array,
        k: int,
        options: SearchOptions,
        passing: Passing,
    ) -> tuple[Slots, Array]:
        """Candidates of both tiers among the rows that pass, each once, and their tiers."""
        fresh_QC = exact.propose(queries_QD, keys_ND, passing.among(version.fresh_F), k)
        sealed_QC = self.index.propose(version, queries_QD, k, options, passing)
        rows_QC = np.concatenate([fresh_QC, sealed_QC], axis=1)
        tier_QC = np.full(rows_QC.shape, Proposal.SEALED, np.uint8)
        tier_QC[:, : fresh_QC.shape[1]] = Proposal.FRESH
        rows_QC, tier_QC = drop_repeats(rows_QC, tier_QC)
        return rows_QC, tier_QC

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
                packed(self.rows.keys_ND),
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
        self, column: str, values: pa.Array, limit: int, first_Q: Slots | None = None
    ) -> tuple[list[Slots], npt.NDArray[np.bool_]]:
        with self._table:
            return self.records.lookup(column, values, limit, self.rows.alive_N, first_Q)

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
                clusters=version.clusters,
                row_bytes=self.rows.bytes,
                index_bytes=self.index.bytes,
                record_bytes=self.records.bytes,
                alpha=0.0 if book is None else book.reduction.alpha,
                reach=0.0 if book is None else book.reduction.reach,
                probe=probe,
                recall=None if recall is None else recall.at(probe),
                recall_asked=recall is not None and recall.asked,
            )

    @contextlib.contextmanager
    def _records_first(self, rows_B: Slots, records: pa.Table | None) -> Iterator[None]:
        """Attaches records before their rows come alive; takes them back if that fails."""
        before = None if records is None else self.records.lines_of(rows_B)
        try:
            if records is not None:
                self.records.put(rows_B, records)
            yield
        except BaseException:
            if before is not None:
                self.records.put_back(rows_B, before)
            raise

    def _seal(self) -> None:
        if not self.index.wants_sealing:
            return
        try:
            self.index.seal(self._keys, self.rows.live_rows())
        except (RuntimeError, MemoryError) as error:
            # The mutation took effect; its rows stay fresh, and the next one tries again.
            logger.warning("shard %d could not be sealed: %s", self.number, error)
        give_back()

    def _keys(self, rows_R: Slots) -> Array:
        with self._table:
            keys_RD = np.take(self.rows.keys_ND, rows_R, axis=0)
        return wide(keys_RD)


def _replaced(
    rows_QC: Slots, tier_QC: Array, few_Q: npt.NDArray[np.bool_], found_FC: Slots
) -> tuple[Slots, Array]:
    """The candidates, in which those of the queries `few_Q` are what every passing row gave."""
    width = max(rows_QC.shape[1], found_FC.shape[1])
    rows_QW = np.full((len(rows_QC), width), NO_SLOT, np.int64)
    tier_QW = np.zeros(rows_QW.shape, np.uint8)
    rows_QW[:, : rows_QC.shape[1]], tier_QW[:, : tier_QC.shape[1]] = rows_QC, tier_QC
    rows_QW[few_Q], tier_QW[few_Q] = NO_SLOT, Proposal.EXACT
    rows_QW[few_Q, : found_FC.shape[1]] = found_FC
    return rows_QW, tier_QW
