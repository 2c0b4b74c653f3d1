"""A shard: the unit of placement, log and recovery. It holds the slots with `slot % shards == i`.

Inside it a slot is a row number, `slot // shards`. One caller at a time changes it. Readers take
no lock: what they see is published by reference, rows before the index that names them and the
row version last, and they take it the other way round. They wait for nothing but a column that is
made ready for its first `lookup`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memstore.config import DRIFT_LIMIT, MemoryConfig
from memstore.filters import Filter
from memstore.index import exact
from memstore.index.fresh import MOST_LAID_OUT, Fresh
from memstore.index.jobs import Source
from memstore.index.maintenance import Maintainer
from memstore.index.passing import Passing
from memstore.index.two_tier import TwoTierIndex, Version
from memstore.kernels.group import distinct
from memstore.kernels.half import packed
from memstore.kernels.near import peaks
from memstore.kernels.score import score_rows
from memstore.kernels.select import best_rows
from memstore.kernels.topk import drop_repeats, top_k
from memstore.memory import NO_SLOT, Array, Proposal, SearchOptions, ShardDescription, Slots
from memstore.shard import filters
from memstore.shard.cut import Changed, Cut
from memstore.shard.journal import Journal, batches
from memstore.shard.log_format import Kind, Record
from memstore.shard.records import RecordHeap
from memstore.shard.rows import RowTable, RowView
from memstore.shard.usage import NEVER, note_use

NONE = np.empty(0, np.int64)

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


class Shard:
    """Rows, records and index of one shard, behind the verbs; arguments are checked already."""

    def __init__(self, config: MemoryConfig, number: int, folder: Path | None = None) -> None:
        self.config = config
        self.number = number
        self.rows = RowTable(config, number, folder)
        self.records = RecordHeap(config.schema, config.lookup)
        self.index = TwoTierIndex(config.index_config, config.dim, self._keys, seed=number)
        self._answers = filters.KeptAnswers()
        self._lives = 0
        self._writer = threading.RLock()
        source = Source(
            read=self._keys,
            live=self.rows.live_rows,
            count=lambda: self.rows.live,
            alive=self.rows.is_alive,
            writers=self._writer,
            travel=lambda rows_R: self.rows.travel_N[rows_R],
            version=lambda: self.rows.version,
        )
        self.maintainer = Maintainer(self.index, source, f"shard {number}")
        self.journal: Journal | None = None
        self.changed = Changed()
        """The blocks of rows changed since the last checkpoint."""
        self.cut: Cut | None = None
        """What a checkpoint reads that is being written."""

    def reserve(self, rows_B: Slots) -> None:
        """Makes room for rows that are to be put; raises `StorageFull` where there is none."""
        with self._writer:
            self.rows.reserve(int(rows_B.max(initial=-1)) + 1)

    def put(
        self,
        rows_B: Slots,
        keys_BD: Array | None,
        values_BV: Array | None,
        records: pa.Table | None,
        *,
        drifts: bool = False,
        step: int | None = None,
        evicted_E: Slots = NONE,
    ) -> None:
        """Writes rows whole, in place of those evicted.

        drifts: keys that can be made again: the sealed copies go on proposing the rows, and nothing
        is logged.
        """
        with self._writer:
            self.reserve(rows_B)
            priority_B = self._priorities(rows_B, step)
            if self.journal is not None and not drifts:
                self.journal.put(rows_B, keys_BD, values_BV, records, priority_B, evicted_E)
            if len(evicted_E):
                self._erase(evicted_E)
            self._put(rows_B, keys_BD, values_BV, records, priority_B, drifts=drifts)
            self.maintainer.mutated()

    def blend(
        self,
        rows_B: Slots,
        weights_B: Array,
        erase_BD: Array,
        add_BD: Array,
        step: int | None = None,
    ) -> None:
        """Writes keys sparsely, in call order; the rows are found by what they are now."""
        with self._writer:
            used = None
            if step is not None:
                used = self.rows.usage.touched(rows_B, step, weights_B)
            image: dict[str, Array] = {}
            if self.journal is not None:
                self.rows.ready_to_blend()
                draft, rows_U, local_B = self.journal.draft(self.rows, rows_B)
                draft.blend(local_B, weights_B, erase_BD, add_BD)
                priority_U = None if used is None else used[1]
                image = self.journal.drafted(Kind.PUT, rows_U, ("keys",), priority_U)
            with self._change(rows_B):
                if image:
                    self.rows.adopt(rows_U, image)
                else:
                    self.rows.blend(rows_B, weights_B, erase_BD, add_BD)
                self.index.wrote(rows_B)
                if used is not None:
                    self.rows.usage.priority_N[used[0]] = used[1]
            self.maintainer.mutated()

    def touch(self, rows_B: Slots, step: int, weights_B: Array | None) -> None:
        with self._writer:
            if self.journal is not None:
                self.journal.touch(*self.rows.usage.touched(rows_B, step, weights_B))
            with self._change(rows_B):
                self.rows.touch(rows_B, step, weights_B)

    def renew(self, rows_B: Slots, records: pa.Table | None, step: int | None = None) -> None:
        """Hands rows to new tenants."""
        with self._writer:
            priority_B = self._priorities(rows_B, step, new=True)
            if self.journal is not None:
                generations_B = self.generations(rows_B) + 1
                self.journal.renew(rows_B, generations_B, records, priority_B)
            self._renew(rows_B, records, priority_B)
            self.maintainer.mutated()

    def least_used(self, count: int) -> tuple[Slots, Array]:
        """Up to `count` live rows of smallest (usage, row), and their priorities."""
        with self._writer:
            rows = self.rows.usage.least(self.rows.alive_N, count)
            return rows, self.rows.usage.priority_N[rows]

    def generations(self, rows_B: Slots) -> npt.NDArray[np.int64]:
        return self.rows.view.generation_N[rows_B]

    def update(
        self, rows_B: Slots, key_grads_BD: Array | None, value_grads_BV: Array | None, lr: float
    ) -> int:
        """Takes one optimizer step; returns the number of distinct rows changed."""
        with self._writer:
            image: dict[str, Array] = {}
            if self.journal is not None and self.config.updates == "logged":
                given = {"keys": key_grads_BD, "values": value_grads_BV}
                self.rows.ready_to_step(**{name: g is not None for name, g in given.items()})
                draft, rows_U, local_B = self.journal.draft(self.rows, rows_B)
                changed = draft.step(local_B, key_grads_BD, value_grads_BV, lr)
                parts = tuple(name for name, grads in given.items() if grads is not None)
                image = self.journal.drafted(Kind.STEP, rows_U, parts)
            with self._change(rows_B):
                try:
                    if image:
                        self.rows.adopt(rows_U, image)
                    else:
                        changed = self.rows.step(rows_B, key_grads_BD, value_grads_BV, lr)
                finally:
                    # The keys may have moved where the step of the values failed.
                    if key_grads_BD is not None:
                        self._moved(rows_B)
            self.maintainer.mutated()
        return changed

    def erase(self, rows_B: Slots) -> None:
        with self._writer:
            if self.journal is not None:
                self.journal.kill(rows_B)
            self._erase(rows_B)

    def replay(self, log: Iterable[tuple[int, Record]]) -> Slots:
        """Applies what a log has behind the checkpoint.

        Returns the rows that are there whose keys it had, rising.
        """
        with self._writer:
            before, keyed = self.rows.version, [np.empty(0, np.int64)]
            for kind, parts in batches(log):
                if "keys" in parts:
                    keyed.append(parts["rows"])
                self._apply(kind, **parts)
            if self.rows.version != before:
                self.maintainer.mutated()
            rows = distinct(np.concatenate(keyed))
            return rows[self.rows.is_alive(rows)]

    @property
    def logged(self) -> int:
        """The last record of its log; 0 where there is none."""
        return 0 if self.journal is None else self.journal.log.last

    def commit(self) -> None:
        """Returns once all mutations so far are as durable as the log promises."""
        if self.journal is not None:
            self.journal.log.commit(self.journal.log.last)

    def reindex(self) -> None:
        """Clusters all rows anew; mutations go on meanwhile, but for a moment.

        Rows that are searched on a device are copied there, if they are not. Raises `DeviceError`.
        """
        self.maintainer.cluster()
        if self.index.mirror is not None:
            if self.config.index_config.kind == "exact":
                self.index.mirror.load(lambda: self.rows.view)
            else:
                self.index.mirror.reopen()

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
        keys_ND, marks = view.keys_ND, view.marks
        answer = None if tree is None else self._answer(tree, stamp, view)
        passing = None if answer is None else answer()
        if passing is not None and not every_row:
            every_row = self.index.scans(version, passing, options)
        if every_row:
            rows_QC, scored = self._propose_every(queries_QD, view, k, passing)
            tier_QC = np.full(rows_QC.shape, Proposal.EXACT, np.uint8)
            scored_Q = np.full(len(queries_QD), scored)
        else:
            if passing is None:
                return self._search_tiers(version, queries_QD, view, row_version, k, options)
            rows_QC, tier_QC = self._propose_passing(version, queries_QD, view, k, options, passing)
            scored_Q = (rows_QC != NO_SLOT).sum(axis=1)
            few_Q = scored_Q < min(k, passing.count)
            if few_Q.any():
                found_QC = exact.propose(queries_QD[few_Q], keys_ND, passing.rows(), k, marks)
                rows_QC, tier_QC = _replaced(rows_QC, tier_QC, few_Q, found_QC)
                scored_Q[few_Q] = passing.count
        scores_QC = np.empty(rows_QC.shape, queries_QD.dtype)
        rows_QC[~view.is_alive(rows_QC)] = NO_SLOT
        score_rows(queries_QD, packed(keys_ND), marks, rows_QC, scores_QC)
        if tree is not None and self._stamp != stamp:
            # After the scores: a writer puts records first, so none stands beside an older one.
            self._refuse(tree, rows_QC)
            scores_QC[rows_QC == NO_SLOT] = -np.inf
        rows_QK, scores_QK, tier_QK = top_k(rows_QC, scores_QC, k, tier_QC)
        return ShardResult(rows_QK, scores_QK, tier_QK, scored_Q, row_version, version.number)

    def sample(
        self, queries_QD: Array, k: int, options: SearchOptions, rng: np.random.Generator
    ) -> tuple[Slots, Array, npt.NDArray[np.int64]]:
        """The k best rows of sampled clusters, `[Q, K]`, their scores, and how many were scored."""
        tree = options.filter
        version, stamp = self.index.version, self._stamp
        passing = None if tree is None else self._answer(tree, stamp, self.rows.view)()
        rows_QC = np.empty((len(queries_QD), 0), np.int64)
        if passing is None or not self.index.scans(version, passing, options):
            rows_QC = self.index.sample(version, queries_QD, k, options, rng, passing)
        (rows_QC,) = drop_repeats(rows_QC)
        scores_QC, _ = self.score(queries_QD, rows_QC, tree)
        rows_QK, scores_QK = top_k(rows_QC, scores_QC, k)
        return rows_QK, scores_QK, (rows_QC != NO_SLOT).sum(axis=1)

    def score(self, queries_QD: Array, rows_QC: Slots, tree: Filter | None) -> tuple[Array, int]:
        """Scores rows as they are now, at the version returned, −inf for none.

        Blanks in place the rows that are gone and those whose record fails now.
        """
        scores_QC = np.empty(rows_QC.shape, queries_QD.dtype)
        row_version, view = self.rows.version, self.rows.view
        rows_QC[~view.is_alive(rows_QC)] = NO_SLOT
        score_rows(queries_QD, packed(view.keys_ND), view.marks, rows_QC, scores_QC)
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
        found_QC = exact.propose(queries_QD[owed_Q], view.keys_ND, some_R, k, view.marks)
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
        passing: Passing,
    ) -> tuple[Slots, Array]:
        """Candidates of both tiers among the rows that pass, each once, and their tiers."""
        fresh_F = passing.among(version.fresh_F)
        fresh_QC = exact.propose(queries_QD, view.keys_ND, fresh_F, k, view.marks)
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
        view: RowView,
        row_version: int,
        k: int,
        options: SearchOptions,
    ) -> ShardResult:
        sealed_QC, fresh = self.index.propose(version, queries_QD, k, options), version.fresh
        if fresh.places > MOST_LAID_OUT:
            # Their scores are too many to lay out: they are proposed block by block.
            found_QC = exact.propose(queries_QD, view.keys_ND, fresh.rows_F, k, view.marks)
            sealed_QC = np.concatenate([sealed_QC, found_QC], axis=1)
            fresh = Fresh()
        near_FQ, slack_Q = fresh.products(queries_QD, view.numbers)
        rows_QK, scores_QK, tier_QK, scored_Q = best_rows(
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

    @property
    def writers(self) -> AbstractContextManager[object]:
        """Held, keeps off all that changes rows, records or index; searches go on."""
        return self._writer

    def travel(self) -> npt.NDArray[np.float64]:
        """How far each row's key has gone since it was appended, `[rows]`."""
        return self.rows.travel_N.copy()

    def describe(self) -> ShardDescription:
        row_version, version = self.rows.version, self.index.version
        live, size = self.rows.live, self.rows.size
        book = version.codebook
        probe = 0 if book is None else min(self.index.probe(book), book.clusters)
        recall = None if book is None else book.recall
        graph, window = version.graph, self.index.window(version)
        if graph is not None and window is not None:
            probe, recall = window, graph.recall
        drift_R = self.index.drift.bounds(self.rows.travel_N[:size])
        limit = self.index.drift.limit or DRIFT_LIMIT
        return ShardDescription(
            rows=live,
            erased=size - live,
            row_version=row_version,
            index_version=version.number,
            sealed=version.sealed,
            fresh=version.fresh.count,
            segments=len(version.segments),
            clusters=version.clusters,
            walked=0 if graph is None else len(graph),
            row_bytes=self.rows.bytes,
            index_bytes=self.index.bytes,
            record_bytes=self.records.bytes,
            alpha=0.0 if book is None else book.reduction.alpha,
            reach=0.0 if book is None else book.reduction.reach,
            probe=probe,
            recall=None if recall is None else recall.at(probe),
            recall_asked=recall is not None and recall.asked,
            drift=float(drift_R.max(initial=0.0)),
            drifted=float((drift_R > limit).mean()) if len(drift_R) else 0.0,
            sealed_age=0 if book is None else row_version - version.row_version,
            jobs=self.maintainer.costs,
            overloaded=self.maintainer.overloaded,
            device_bytes=0 if self.index.room is None else self.index.room.bytes,
        )

    def _apply(
        self,
        kind: Kind,
        rows: Slots,
        records: pa.Table | None = None,
        generations: Array | None = None,
        priority: Array | None = None,
        evicted: Slots = NONE,
        **image: Array,
    ) -> None:
        """Does again what a record tells."""
        evicted = evicted[self.rows.is_alive(evicted)]
        if len(evicted):
            self._erase(evicted)
        if kind == Kind.KILL:
            self._erase(rows[self.rows.is_alive(rows)])
        elif kind == Kind.RENEW:
            self._renew(rows, records, priority)
            self.rows.usage.generation_N[rows] = generations
        elif kind == Kind.TOUCH:
            with self._change(rows):
                self.rows.usage.priority_N[rows] = priority
        elif kind == Kind.STEP:
            with self._change(rows):
                self.rows.adopt(rows, image)
                if "keys" in image:
                    self._moved(rows)
        else:
            keys_BD, values_BV = image.pop("keys", None), image.pop("values", None)
            self._put(rows, keys_BD, values_BV, records, priority)
            if image:
                self.rows.adopt(rows, image)

    def _put(
        self,
        rows_B: Slots,
        keys_BD: Array | None,
        values_BV: Array | None,
        records: pa.Table | None,
        priority_B: Array | None,
        *,
        drifts: bool = False,
    ) -> None:
        with self._change(rows_B), self._records_first(rows_B, records):
            self.rows.put(rows_B, keys_BD, values_BV)
            if keys_BD is not None:
                (self.index.moved if drifts else self.index.wrote)(rows_B)
            if priority_B is not None:
                self.rows.usage.priority_N[rows_B] = priority_B

    def _renew(self, rows_B: Slots, records: pa.Table | None, priority_B: Array | None) -> None:
        with self._change(rows_B), self._records_first(rows_B, records):
            self.rows.renew(rows_B)
            self.index.wrote(rows_B)
            if priority_B is not None:
                self.rows.usage.priority_N[rows_B] = priority_B

    def _priorities(self, rows_B: Slots, step: int | None, *, new: bool = False) -> Array | None:
        """What the priorities of distinct rows are after a use, in the order of the call.

        new: as if they had never been used.
        """
        if step is None:
            return None
        usage = self.rows.usage
        priority_B = np.full(len(rows_B), NEVER) if new else usage.priority_N[rows_B]
        note_use(usage.config, priority_B, np.arange(len(rows_B)), step, None)
        return priority_B

    def _moved(self, rows_B: Slots) -> None:
        self.index.moved(rows_B)
        if self.index.drift.counts:
            self.index.drifted(rows_B, self.rows.travel_N[rows_B])

    def _erase(self, rows_B: Slots) -> None:
        with self._change(rows_B):
            self.rows.kill(rows_B)
            self.index.killed(rows_B)
            self._lives += 1

    @contextlib.contextmanager
    def _change(self, rows_B: Slots) -> Iterator[None]:
        """Lets one mutation of some rows through; it counts once readers can see all of it."""
        with self._writer:
            if self.cut is not None:
                self.cut.before(rows_B)
            self.changed.add(rows_B)
            try:
                yield
            except BaseException:
                self.rows.release()
                raise
            finally:
                self.rows.version += 1

    @contextlib.contextmanager
    def _records_first(self, rows_B: Slots, records: pa.Table | None) -> Iterator[None]:
        """Attaches records before their rows come alive; takes them back if that fails."""
        before = None if records is None else self.records.lines_of(rows_B)
        try:
            if records is not None:
                self.records.put(rows_B, records)
            yield
            self._lives += before is not None
        except BaseException:
            if before is not None:
                self.records.put_back(rows_B, before)
            raise

    def _keys(self, rows_R: Slots) -> Array:
        return self.rows.view.numbers(np.ascontiguousarray(rows_R))


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
