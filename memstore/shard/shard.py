"""A shard: the unit of placement, log and recovery. It holds the slots with `slot % shards == i`.

Inside it a slot is a row number, `slot // shards`. One caller at a time changes it; how it is read
meanwhile stands in `shard.reading`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa

from memstore.config import DRIFT_LIMIT, MemoryConfig
from memstore.errors import LogFailed
from memstore.index.jobs import Source
from memstore.index.maintenance import Maintainer
from memstore.kernels.group import distinct
from memstore.memory import Array, ShardDescription, Slots
from memstore.shard.blocks import BLOCK_ROWS
from memstore.shard.cut import Changed, Cut
from memstore.shard.journal import Journal, batches
from memstore.shard.log_format import Kind, Record
from memstore.shard.reading import ReadableShard
from memstore.shard.requests import Request, RequestWindows
from memstore.shard.usage import NEVER, note_use

NONE = np.empty(0, np.int64)


class Shard(ReadableShard):
    """One shard behind the verbs; arguments are checked already."""

    def __init__(self, config: MemoryConfig, number: int, folder: Path | None = None) -> None:
        super().__init__(config, number, folder)
        self._writer = threading.RLock()
        source = Source(
            read=self._keys,
            live=self.rows.live_rows,
            count=lambda: self.rows.live,
            alive=self.rows.is_alive,
            writers=self._writer,
            travel=lambda rows_R: self.rows.travel_N[rows_R],
            version=lambda: self.rows.version,
            stored=config.keeps_keys,
        )
        self.maintainer = Maintainer(self.index, source, f"shard {number}")
        self.journal: Journal | None = None
        self.changed = Changed()
        """The blocks of rows changed since the last checkpoint."""
        self.cut: Cut | None = None
        """What a checkpoint reads that is being written."""
        self.windows = RequestWindows()
        self.behind: LogFailed | None = None
        """What every mutation raises once a record was logged that could not be applied."""
        self.loading = False
        """Whether rows are put, and erased again, without being logged."""
        self.given_out = 0
        """The first slot of the memory that no record of its log has given out."""

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
        logs: bool = True,
        step: int | None = None,
        evicted_E: Slots = NONE,
        next_slot: int | None = None,
        request: Request | None = None,
    ) -> None:
        """Writes rows whole, in place of those evicted.

        drifts: the sealed copies go on proposing the rows.  logs: False for keys that can be made
        again.  next_slot: of the memory, where slots are given out with it.
        """
        with self._writer:
            self.reserve(rows_B)
            priority_B = self._priorities(rows_B, step)
            logged = logs and not self.loading
            if self.journal is not None and logged:
                vectors = {"keys": keys_BD, "values": values_BV}
                rest = {"records": records, "priority": priority_B}
                self.journal.put(rows_B, vectors | rest, evicted_E, next_slot, request)
            with self._applying(request, logged=logged):
                if len(evicted_E):
                    self._erase(evicted_E)
                self._put(rows_B, keys_BD, values_BV, records, priority_B, drifts=drifts)
            self.maintainer.mutated()

    def index_again(self, rows_B: Slots) -> None:
        """Has the index take rows as they are now, which do not change by that."""
        with self._writer:
            self.index.wrote(rows_B)
            self.index.renumber()
            self.maintainer.mutated()

    def blend(
        self,
        rows_B: Slots,
        weights_B: Array,
        erase_BD: Array,
        add_BD: Array,
        step: int | None = None,
        *,
        request: Request | None = None,
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
                image = self.journal.drafted(Kind.PUT, rows_U, ("keys",), priority_U, request)
            with self._applying(request), self._change(rows_B):
                if image:
                    self.rows.adopt(rows_U, image)
                else:
                    self.rows.blend(rows_B, weights_B, erase_BD, add_BD)
                self.index.wrote(rows_B)
                if used is not None:
                    self.rows.usage.priority_N[used[0]] = used[1]
            self.maintainer.mutated()

    def touch(
        self, rows_B: Slots, step: int, weights_B: Array | None, *, request: Request | None = None
    ) -> None:
        with self._writer:
            if self.journal is not None:
                rows_U, priority_U = self.rows.usage.touched(rows_B, step, weights_B)
                self.journal.touch(rows_U, priority_U, request)
            with self._applying(request), self._change(rows_B):
                self.rows.touch(rows_B, step, weights_B)

    def answer(self, request: Request | None) -> None:
        """Knows a request that changes nothing here."""
        if request is not None:
            self.touch(NONE, 0, None, request=request)

    def give_out(self, next_slot: int, request: Request) -> None:
        """Logs that the slots of the memory below a number are given out."""
        with self._writer:
            if self.journal is not None:
                self.journal.give_out(next_slot, request)
            with self._applying(request):
                self.given_out = max(self.given_out, next_slot)

    def renew(
        self,
        rows_B: Slots,
        records: pa.Table | None,
        step: int | None = None,
        *,
        request: Request | None = None,
    ) -> None:
        """Hands rows to new tenants."""
        with self._writer:
            priority_B = self._priorities(rows_B, step, new=True)
            if self.journal is not None:
                generations_B = self.generations(rows_B) + 1
                self.journal.renew(rows_B, generations_B, records, priority_B, request)
            with self._applying(request):
                self._renew(rows_B, records, priority_B)
            self.maintainer.mutated()

    def least_used(self, count: int) -> tuple[Slots, Array]:
        """Up to `count` live rows of smallest (usage, row), and their priorities."""
        with self._writer:
            rows = self.rows.usage.least(self.rows.alive_N, count)
            return rows, self.rows.usage.priority_N[rows]

    def update(
        self,
        rows_B: Slots,
        key_grads_BD: Array | None,
        value_grads_BV: Array | None,
        lr: float,
        *,
        request: Request | None = None,
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
                image = self.journal.drafted(Kind.STEP, rows_U, parts, request=request)
            with self._applying(request, logged=bool(image)), self._change(rows_B):
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

    def erase(self, rows_B: Slots, *, request: Request | None = None) -> None:
        with self._writer:
            if self.journal is not None and not self.loading:
                self.journal.kill(rows_B, request)
            with self._applying(request, logged=not self.loading):
                self._erase(rows_B)

    def clear(self) -> None:
        """Gives back the memory of rows that are gone, blocks of them that nobody reads."""
        with self._writer:
            blocks_K = self.rows.unread()
            if len(blocks_K):
                rows = (blocks_K[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()
                if self.cut is not None:
                    self.cut.before(rows)
                # Of zeros nothing lies in the next checkpoint.
                self.changed.add(rows)
                self.rows.clear(blocks_K)

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

    @property
    def writers(self) -> AbstractContextManager[object]:
        """Held, keeps off all that changes rows, records or index; searches go on."""
        return self._writer

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
        next_slot: Array | None = None,
        request: Sequence[bytes] = (),
        **image: Array,
    ) -> None:
        """Does again what records of one kind tell."""
        for each in request:
            self.windows.note(Request.unpacked(each))
        if next_slot is not None:
            self.given_out = max(self.given_out, int(next_slot.max()))
        evicted = evicted[self.rows.is_alive(evicted)]
        if len(evicted):
            self._erase(evicted)
        if kind == Kind.KILL:
            self._erase(rows[self.rows.is_alive(rows)])
        elif kind == Kind.RENEW:
            self._renew(rows, records, priority)
            self.rows.usage.generation_N[rows] = generations
        elif kind == Kind.TOUCH:
            if len(rows):  # What only tells of slots given out, or of a reply, changes no row.
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

    @contextlib.contextmanager
    def _applying(self, request: Request | None, *, logged: bool = True) -> Iterator[None]:
        """Applies what was logged, with its request; where that fails the log is right and the
        memory is not, until it is opened again."""
        try:
            yield
        except BaseException as error:
            if self.journal is None or not logged:
                raise
            self.behind = LogFailed(
                f"shard {self.number} has logged what it could not apply",
                got=f"{type(error).__name__}: {error}",
                hint="close the store and open it again: it is done then",
            )
            if isinstance(error, Exception):
                raise self.behind from error
            raise
        if request is not None:
            self.windows.note(request)

    def _moved(self, rows_B: Slots) -> None:
        self.index.moved(rows_B)
        if self.index.drift.counts:
            self.index.drifted(rows_B, self.rows.travel_N[rows_B])

    def _erase(self, rows_B: Slots) -> None:
        with self._change(rows_B):
            self.rows.kill(rows_B)
            self.index.killed(rows_B)
            self._lives += 1
        self.clear()

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
