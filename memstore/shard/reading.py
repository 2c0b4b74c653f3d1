"""The reading half of a shard: candidates, scores and records of its rows as they are now.

Readers take no lock: what they see is published by reference, rows before the index that names
them and the row version last, and they take it the other way round. They wait for nothing but a
column that is made ready for its first `lookup`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memstore.config import MemoryConfig
from memstore.filters import Filter
from memstore.index import exact
from memstore.index.fresh import MOST_LAID_OUT, Fresh
from memstore.index.passing import Passing
from memstore.index.scanning import best
from memstore.index.two_tier import TwoTierIndex, Version
from memstore.kernels.half import packed
from memstore.kernels.near import peaks
from memstore.kernels.score import score_rows
from memstore.kernels.select import best_rows
from memstore.kernels.sequence import quiet
from memstore.kernels.topk import drop_repeats, top_k
from memstore.memory import NO_SLOT, Array, Proposal, SearchOptions, Slots
from memstore.shard import filters
from memstore.shard.records import RecordHeap
from memstore.shard.row_view import RowView
from memstore.shard.rows import RowTable

SUMMED_ROWS = 65_536
"""Rows whose keys are summed at a time where all are scored and none is stored."""

ATTEMPTS = 3
"""Times that a search is made while rows are erased so fast that it finds fewer than it was to."""


@dataclass(frozen=True)
class ShardResult:
    """What one shard found: as `SearchResult`, with rows for slots."""

    rows_QK: Slots
    scores_QK: Array
    proposal_QK: Array
    scored_Q: npt.NDArray[np.int64]
    row_version: int
    index_version: int


class ReadableShard:
    """Rows, records and index of one shard, and what reads them; arguments are checked already."""

    def __init__(self, config: MemoryConfig, number: int, folder: Path | None = None) -> None:
        self.config = config
        self.number = number
        self.rows = RowTable(config, number, folder)
        self.records = RecordHeap(config.schema, config.lookup)
        self.index = TwoTierIndex(
            *(config.index_config, config.dim, self._keys, number), copied=config.keeps_keys
        )
        self._answers = filters.KeptAnswers()
        self._lives = 0
        """Changes with the set of live rows of a memory that has records."""

    def search(self, queries_QD: Array, k: int, options: SearchOptions) -> ShardResult:
        """The best rows as they are now.

        Rows that are erased while it runs are missing from what it finds: then it looks again.
        """
        for _ in range(ATTEMPTS):
            stamp = self._stamp
            found = self._search(queries_QD, k, options)
            if stamp == self._stamp or (found.rows_QK[:, -1:] != NO_SLOT).all():
                break
        return found

    def _search(self, queries_QD: Array, k: int, options: SearchOptions) -> ShardResult:
        """Proposes, then scores the candidates."""
        tree = options.filter
        every_row = options.exact or not self.config.index_config.sealed
        # Each is at least as new as those taken before it: see the top of the file.
        row_version, version, stamp = self.rows.version, self.index.version, self._stamp
        view = self.rows.view
        answer = None if tree is None else self._answer(tree, stamp, view)
        passing = None if answer is None else answer()
        if passing is not None and not every_row:
            every_row = self.index.scans(version, passing, options)
        elif not every_row and self.config.storage == "memory" and view.sums is None:
            every_row = self.index.scans_all(version, len(queries_QD), options)
            self.index.suffered(version, len(queries_QD), options)
            if every_row:
                self.index.recent.saw(queries_QD.astype(np.float32, copy=False))
        if every_row:
            rows_QC, scored = self._propose_every(queries_QD, view, k, passing)
            tier_QC = np.full(rows_QC.shape, Proposal.EXACT, np.uint8)
            scored_Q = np.full(len(queries_QD), scored)
        else:
            if passing is None and view.sums is None:
                return self._search_tiers(version, queries_QD, view, row_version, k, options)
            rows_QC, tier_QC, scored_Q = self._propose_passing(
                version, queries_QD, view, k, options, passing
            )
            if passing is not None:
                few_Q = (rows_QC != NO_SLOT).sum(axis=1) < min(k, passing.count)
                if few_Q.any():
                    found_QC = _exactly(queries_QD[few_Q], view, passing.rows(), k)
                    rows_QC, tier_QC = _replaced(rows_QC, tier_QC, few_Q, found_QC)
                    scored_Q[few_Q] += passing.count
        rows_QC[~view.is_alive(rows_QC)] = NO_SLOT
        scores_QC = _scores(queries_QD, view, rows_QC)
        if tree is not None and self._stamp != stamp:
            # After the scores: a writer puts records first, so none stands beside an older one.
            self._refuse(tree, rows_QC)
            scores_QC[rows_QC == NO_SLOT] = -np.inf
        rows_QK, scores_QK, tier_QK = top_k(rows_QC, scores_QC, k, tier_QC)
        return ShardResult(rows_QK, scores_QK, tier_QK, scored_Q, row_version, version.number)

    def sample(
        self, queries_QD: Array, k: int, options: SearchOptions, rng: np.random.Generator
    ) -> tuple[Slots, Array, npt.NDArray[np.int64]]:
        """The k best rows of sampled clusters, `[Q, K]`, their scores, and how many rows each query
        was compared with."""
        tree = options.filter
        version, stamp = self.index.version, self._stamp
        passing = None if tree is None else self._answer(tree, stamp, self.rows.view)()
        found = best((), len(queries_QD), 0)
        if passing is None or not self.index.scans(version, passing, options):
            found = self.index.sample(version, queries_QD, k, options, rng, passing)
        (rows_QC,) = drop_repeats(found.rows_QC)
        scores_QC, _ = self.score(queries_QD, rows_QC, tree)
        rows_QK, scores_QK = top_k(rows_QC, scores_QC, k)
        return rows_QK, scores_QK, found.compared_Q

    def score(self, queries_QD: Array, rows_QC: Slots, tree: Filter | None) -> tuple[Array, int]:
        """Scores rows as they are now, at the version returned, −inf for none.

        Blanks in place the rows that are gone and those whose record fails now.
        """
        row_version, view = self.rows.version, self.rows.view
        rows_QC[~view.is_alive(rows_QC)] = NO_SLOT
        scores_QC = _scores(queries_QD, view, rows_QC)
        if tree is not None:
            # After the scores: a writer puts records first, so none stands beside an older one.
            self._refuse(tree, rows_QC)
            scores_QC[rows_QC == NO_SLOT] = -np.inf
        return scores_QC, row_version

    def strike(self, rows_QC: Slots, tree: Filter | None) -> None:
        """Blanks in place the rows that are gone and those whose record fails now."""
        rows_QC[~self.rows.is_alive(rows_QC)] = NO_SLOT
        if tree is not None:
            self._refuse(tree, rows_QC)

    def live(self, tree: Filter | None) -> Slots:
        """The rows that are there and pass, rising."""
        stamp, view = self._stamp, self.rows.view
        return view.live_rows() if tree is None else self._answer(tree, stamp, view)().rows()

    @property
    def _stamp(self) -> tuple[int, int]:
        """Changes whenever a record or the set of live rows does; not with a step or a key."""
        return self.records.version, self._lives

    def _answer(self, tree: Filter, stamp: tuple[int, int], view: RowView) -> Callable[[], Passing]:
        """How to find which rows pass now. stamp: taken before the rows and records are."""
        key = (*stamp, len(view.alive_N))
        kept = self._answers.get(tree, key)
        if kept is not None:
            return lambda: kept
        alive_N = view.alive_N.copy()
        chunks, where_N = self.records.heap(len(alive_N))

        def evaluate() -> Passing:
            found = filters.passing(tree, chunks, where_N, alive_N)
            self._answers.put(tree, key, found)
            return found

        return evaluate

    def _refuse(self, tree: Filter, rows_QC: Slots) -> None:
        """Blanks the candidates whose record, changed since they were proposed, fails now."""
        rows_U = np.unique(rows_QC[rows_QC != NO_SLOT])
        columns = sorted({leaf.column for leaf in tree.leaves()})
        records = self.records.take(rows_U, columns, None)
        passes_U = filters.evaluate(tree, records).to_numpy(zero_copy_only=False)
        rows_QC[~np.isin(rows_QC, rows_U[passes_U])] = NO_SLOT

    def _propose_every(
        self, queries_QD: Array, view: RowView, k: int, passing: Passing | None
    ) -> tuple[Slots, int]:
        """Candidates out of the rows that are there and pass, and how many rows these are.

        The device proposes them, where it has the rows and more than a few of them pass.
        """
        mirror, owed_Q = self.index.mirror, np.arange(len(queries_QD))
        rows_QC = np.empty((len(queries_QD), 0), np.int64)
        if mirror is not None and (passing is None or passing.sparse is None):
            rows, now = len(view.keys_ND), lambda: self.rows.view
            rows_QC, owed_Q = mirror.propose(queries_QD, k, rows, now, passing)
            if not len(owed_Q):
                live = np.count_nonzero(view.alive_N) if passing is None else passing.count
                return rows_QC, int(live)
        live_R = view.live_rows() if passing is None else passing.rows()
        some_R = None if len(live_R) == len(view.keys_ND) else live_R
        found_QC = _exactly(queries_QD[owed_Q], view, some_R, k)
        if len(owed_Q) == len(queries_QD):
            return found_QC, len(live_R)
        wide_QC = np.full((len(queries_QD), max(found_QC.shape[1], rows_QC.shape[1])), NO_SLOT)
        wide_QC[:, : rows_QC.shape[1]] = rows_QC
        wide_QC[owed_Q, : found_QC.shape[1]] = found_QC
        return wide_QC, len(live_R)

    def _propose_passing(
        self,
        version: Version,
        queries_QD: Array,
        view: RowView,
        k: int,
        options: SearchOptions,
        passing: Passing | None,
    ) -> tuple[Slots, Array, npt.NDArray[np.int64]]:
        """Candidates of both tiers among the rows that pass, each once, their tiers, and how many
        rows and centroids each query was compared with."""
        fresh_F = version.fresh_F if passing is None else passing.among(version.fresh_F)
        fresh_QC = _exactly(queries_QD, view, fresh_F, k)
        sealed = self.index.propose(version, queries_QD, k, options, passing)
        rows_QC = np.concatenate([fresh_QC, sealed.rows_QC], axis=1)
        tier_QC = np.full(rows_QC.shape, Proposal.SEALED, np.uint8)
        tier_QC[:, : fresh_QC.shape[1]] = Proposal.FRESH
        rows_QC, tier_QC = drop_repeats(rows_QC, tier_QC)
        return rows_QC, tier_QC, sealed.compared_Q + len(fresh_F)

    def _search_tiers(
        self,
        version: Version,
        queries_QD: Array,
        view: RowView,
        row_version: int,
        k: int,
        options: SearchOptions,
    ) -> ShardResult:
        sealed, fresh = self.index.propose(version, queries_QD, k, options), version.fresh
        sealed_QC, scored_Q = sealed.rows_QC, sealed.compared_Q
        scored_Q += fresh.count
        if fresh.places > MOST_LAID_OUT:
            # Their scores are too many to lay out: they are proposed block by block.
            found_QC = _exactly(queries_QD, view, fresh.rows_F, k)
            sealed_QC = np.concatenate([sealed_QC, found_QC], axis=1)
            fresh = Fresh()
        view.want(sealed_QC.ravel(), "keys")
        near_FQ, slack_Q = fresh.products(queries_QD, view.numbers)
        rows_QK, scores_QK, tier_QK = best_rows(
            queries_QD,
            packed(view.keys_ND),
            view.marks,
            view.alive_N,
            sealed_QC,
            fresh.standing_F,
            near_FQ,
            peaks(near_FQ),
            slack_Q,
            k,
        )
        if version.fresh is not fresh:
            tier_QK[np.isin(rows_QK, version.fresh_F)] = Proposal.FRESH
        return ShardResult(rows_QK, scores_QK, tier_QK, scored_Q, row_version, version.number)

    def generations(self, rows_B: Slots) -> npt.NDArray[np.int64]:
        return self.rows.view.generation_N[rows_B]

    def alive(self, rows_B: Slots) -> npt.NDArray[np.bool_]:
        return self.rows.is_alive(rows_B)

    def vectors(self, rows_B: Slots) -> tuple[Array, Array | None, npt.NDArray[np.int64]]:
        """Copies of the keys, values and generations of rows; those of a row are of one moment."""
        keys_BD, values_BV, generations_B = self.rows.view.tenants(np.ascontiguousarray(rows_B))
        return keys_BD, None if self.rows.values_NV is None else values_BV, generations_B

    def read_records(
        self, rows_B: Slots, columns: Sequence[str], list_limit: int | None
    ) -> pa.Table:
        return self.records.take(rows_B, columns, list_limit)

    def lookup(
        self, column: str, values: pa.Array, limit: int, first_Q: Slots | None = None
    ) -> tuple[list[Slots], npt.NDArray[np.bool_]]:
        return self.records.lookup(column, values, limit, self.rows.alive_N, first_Q)

    def travel(self) -> npt.NDArray[np.float64]:
        """How far each row's key has gone since it was appended, `[rows]`."""
        return self.rows.travel_N.copy()

    def _keys(self, rows_R: Slots) -> Array:
        return self.rows.view.numbers(np.ascontiguousarray(rows_R))


def _scores(queries_QD: Array, view: RowView, rows_QC: Slots) -> Array:
    """The scores of rows as they are now, −inf for `NO_SLOT`."""
    scores_QC = np.empty(rows_QC.shape, queries_QD.dtype)
    if view.sums is None:
        view.want(rows_QC.ravel(), "keys")
        score_rows(queries_QD, packed(view.keys_ND), view.marks, rows_QC, scores_QC)
        return scores_QC
    rows_U, at_QC = np.unique(rows_QC, return_inverse=True)
    at_QC = at_QC.reshape(rows_QC.shape)
    if len(rows_U) and rows_U[0] == NO_SLOT:
        rows_U, at_QC = rows_U[1:], at_QC - 1
    keys_UD = view.keys(rows_U)
    score_rows(queries_QD, packed(keys_UD), quiet(len(keys_UD)), at_QC, scores_QC)
    return scores_QC


def _exactly(queries_QD: Array, view: RowView, rows_R: Slots | None, k: int) -> Slots:
    """Candidates among rows, rising, or among all: the k best are among them."""
    if view.sums is None and view.residency is None:
        return exact.propose(queries_QD, view.keys_ND, rows_R, k, view.marks)
    rows_R = np.arange(len(view.keys_ND)) if rows_R is None else rows_R
    rows_QK = np.full((len(queries_QD), 0), NO_SLOT, np.int64)
    scores_QK = np.empty(rows_QK.shape, queries_QD.dtype)
    for first in range(0, len(rows_R), SUMMED_ROWS):
        some_B = np.ascontiguousarray(rows_R[first : first + SUMMED_ROWS])
        keys_BD = view.keys(some_B)
        found_QC = exact.propose(queries_QD, keys_BD, None, k)
        found_scores_QC = np.empty(found_QC.shape, queries_QD.dtype)
        marks = quiet(len(keys_BD))
        score_rows(queries_QD, packed(keys_BD), marks, found_QC, found_scores_QC)
        rows_QK, scores_QK = top_k(
            np.concatenate([rows_QK, np.where(found_QC == NO_SLOT, NO_SLOT, some_B[found_QC])], 1),
            np.concatenate([scores_QK, found_scores_QC], axis=1),
            k,
        )
    return rows_QK


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
