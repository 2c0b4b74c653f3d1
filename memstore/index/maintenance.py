"""Runs the jobs of a shard's index: in the background, or by the mutation that makes them due.

Two threads at most, each alive only while it has something to do: one seals and merges, which
takes a moment, the other measures, clusters and lays, which takes long; so that no writer has to
wait for a clustering. A job that fails is logged, leaves the old version serving, and is tried
again later.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import faiss

from memstore.deadline import NO_DEADLINE, Deadline
from memstore.errors import Overloaded, StoreClosed
from memstore.index import due, jobs
from memstore.index.fresh import Queue
from memstore.index.jobs import Source
from memstore.index.two_tier import TwoTierIndex
from memstore.memory import Array, JobDescription, Slots
from memstore.trim import give_back

OVERFLOW = 4
"""Times `fresh_limit` that rows may be fresh before mutations wait. Among 100,000 rows of 128 a
search of 16 queries takes about twice as long with 32,768 fresh rows as with none, and three times
as long with 65,536."""

SLICE = 65_536
"""Rows sealed at a time in the background: under a second, after which waiting writers look."""

SHARE = 4
"""One core in so many is used by a job that nobody waits for."""

REST = 3
"""Times as long as it worked that the thread that measures and clusters rests before it does so
again: where rows are overwritten so fast that all are others by then, it would never end."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Seconds until a failed job is tried again: at first, and at last after doubling."""

logger = logging.getLogger(__name__)


class _Stopped(Exception):
    """The job is wanted no more."""


class Maintainer:
    """Keeps the index of one shard sealed, merged, measured, clustered and laid."""

    def __init__(self, index: TwoTierIndex, source: Source, name: str) -> None:
        self.index = index
        self.name = name
        self.overloaded = 0
        self._source = dataclasses.replace(source, read=self._reading(source.read))
        self._costs = {kind: JobDescription(kind=kind) for kind in KINDS}
        self._moved = threading.Condition()
        self._threads: dict[str, threading.Thread] = {}
        self._started: list[threading.Thread] = []
        self.rests = False
        """Whether nothing is done in the background: all rows are to be clustered anew soon."""
        self._retry_at = {"seal": 0.0, "cluster": 0.0}
        self._pause_s = {"seal": FIRST_PAUSE_S, "cluster": FIRST_PAUSE_S}
        self._stopped = False
        # Of two clusterings the later one holds what the earlier one does.
        self._clustering = threading.Lock()
        self._callers = 0

    @property
    def costs(self) -> tuple[JobDescription, ...]:
        return tuple(self._costs.values())

    def mutated(self) -> None:
        """To be called after each mutation, by its thread and before it lets the next one in."""
        if self.index.config.kind == "auto":
            # Here, so that who only reads a store lays nothing.
            self.index.recent.known = self._asked
        if self.rests or not due.sealing(self.index):
            return
        if self.index.config.maintenance == "background":
            self.wake()
            return
        # Where it fails the mutation took effect all the same, and the next one tries again.
        with contextlib.suppress(RuntimeError, MemoryError):
            self._inline()

    def wake(self) -> None:
        """Begins in the background what was due when a store was closed, if that is to be so."""
        if self.index.config.maintenance == "background" and due.sealing(self.index):
            # Before the first clustering there is nothing to seal rows into.
            self._start("cluster" if self.index.version.codebook is None else "seal")

    def _asked(self) -> None:
        """Begins, in the thread of a search, what waited for real queries: no write may follow."""
        if self.index.config.maintenance == "background":
            self._start("cluster")

    def admit(self, deadline: Deadline = NO_DEADLINE) -> float:
        """Waits until rows may become fresh; returns for how long, in seconds.

        Raises `Overloaded` where nothing was sealed for the `patience_s` of the index.
        """
        if not self._over():
            return 0.0
        began = time.monotonic()
        patience_s, fresh = self.index.config.patience_s, self.index.version.fresh.count
        self._start("seal")
        with self._moved:
            until = began + patience_s
            while self._over() and not self._stopped:
                if self.index.version.fresh.count < fresh:
                    fresh = self.index.version.fresh.count
                    until = time.monotonic() + patience_s
                wait_s = min(until - time.monotonic(), deadline.left_s)
                if self._moved.wait(wait_s):
                    continue
                if not deadline.left_s:
                    raise deadline.exceeded("rows to be sealed")
                if time.monotonic() >= until:
                    self.overloaded += 1
                    raise Overloaded(
                        f"too many rows of {self.name} are not sealed yet",
                        got=f"{self.index.version.fresh.count} fresh",
                        expected=f"≤ {self._most}",
                        retry_after_s=self._wait_s(),
                    )
        return time.monotonic() - began

    def cluster(self) -> None:
        """Clusters all rows anew before it returns; raises what goes wrong.

        A clustering that runs in the background already gives up, since this one has newer rows.
        """
        with self._moved:
            self._callers += 1
        try:
            with self._clustering:
                self._run("cluster", lambda: jobs.cluster(self.index, self._source))
        finally:
            with self._moved:
                self._callers -= 1
                # Who rests before it does the same has nothing left to do.
                self._moved.notify_all()

    def settle(self, timeout_s: float = 60.0) -> bool:
        """Waits until nothing is to be done in the background; returns whether it is so."""
        with self._moved:
            return self._moved.wait_for(lambda: not self._threads, timeout_s)

    def stop(self) -> None:
        """Ends the threads, at the next block of rows that they would read."""
        with self._moved:
            self._stopped = True
            self._moved.notify_all()
        for thread in self._started:
            thread.join()

    def let_go(self) -> None:
        """Holds no rows any more, after `stop`; jobs that are asked for raise `StoreClosed`.

        Rows refer to what keeps their index, by this, and no more to themselves: they go with who
        read them last, and wait for no collection of garbage.
        """

        def gone(*_: object) -> Any:
            raise StoreClosed("the memory was closed, or dropped", hint="open its store again")

        self._source = Source(gone, gone, gone, gone, self._source.writers, gone, gone)
        self.index.queue = Queue(gone)
        self.index.recent.known = None

    # In the thread of a mutation.

    def _inline(self) -> None:
        if not self._wants_clustering():
            self._seal()
            self._merge()
            self._measure()
        self._cluster()
        self._lay()

    @property
    def _most(self) -> int:
        return OVERFLOW * self.index.config.fresh_limit

    def _over(self) -> bool:
        version, config = self.index.version, self.index.config
        behind = version.fresh.count > self._most and version.codebook is not None
        return behind and config.maintenance == "background" and not self.rests

    def _wait_s(self) -> float:
        cost = self._costs["seal"]
        over = self.index.version.fresh.count - self._most
        work_s = over * cost.seconds / cost.rows if cost.rows else FIRST_PAUSE_S
        return max(work_s, 0.05) + max(self._retry_at["seal"] - time.monotonic(), 0.0)

    # In the threads of the background.

    def _start(self, role: str) -> None:
        """Sees to it that the thread of `seal` or `cluster` is there."""
        with self._moved:
            if role not in self._threads and not self._stopped and not self.rests:
                thread = threading.Thread(
                    target=self._work, args=(role,), name=f"memstore-{role}", daemon=True
                )
                self._threads[role] = thread
                self._started = [*filter(threading.Thread.is_alive, self._started), thread]
                _working.add(self)
                thread.start()

    def _work(self, role: str) -> None:
        cores = faiss.omp_get_max_threads()
        try:
            while self._has_work(role):
                # The number of threads is one of this thread's own.
                faiss.omp_set_num_threads(cores if self._over() else max(1, cores // SHARE))
                self._try(role)
        finally:
            with self._moved:
                if self._threads.get(role) is threading.current_thread():
                    del self._threads[role]
                self._moved.notify_all()

    def _has_work(self, role: str) -> bool:
        """Waits out a pause; takes the thread off the list if there is nothing to do."""
        with self._moved:
            while not self._stopped and not self.rests and self._due(role):
                pause_s = self._retry_at[role] - time.monotonic()
                if pause_s <= 0:
                    return True
                self._moved.wait(pause_s)
            del self._threads[role]
            return False

    def _try(self, role: str) -> None:
        try:
            if role == "seal":
                if self._long_due():
                    self._start("cluster")
                self._seal(SLICE)
                self._merge()
            else:
                with self._clustering:
                    began = time.monotonic()
                    self._measure()
                    self._cluster()
                    self._lay()
                    now = time.monotonic()
                    self._retry_at["cluster"] = now + REST * (now - began)
                self._start("seal")
        except _Stopped:
            pass
        except (RuntimeError, MemoryError):
            self._retry_at[role] = time.monotonic() + self._pause_s[role]
            self._pause_s[role] = min(2 * self._pause_s[role], LONGEST_PAUSE_S)
        else:
            self._pause_s[role] = FIRST_PAUSE_S
        with self._moved:
            self._moved.notify_all()

    def _due(self, role: str) -> bool:
        if role == "cluster":
            return self._long_due()
        sealing = due.sealing(self.index) and self.index.version.codebook is not None
        merging = due.merging(self.index.version)
        return sealing or merging or ("cluster" not in self._threads and self._long_due())

    def _long_due(self) -> bool:
        live = self._source.count()
        jobs_due = (due.measuring, due.clustering, due.laying)
        return any(job(self.index, live) for job in jobs_due)

    def _wants_clustering(self) -> bool:
        return due.clustering(self.index, self._source.count())

    def _seal(self, most: int | None = None) -> None:
        if due.sealing(self.index) and self.index.version.codebook is not None:
            self._run("seal", lambda: jobs.seal(self.index, self._source, most))
            with self._moved:
                self._moved.notify_all()

    def _merge(self) -> None:
        if due.merging(self.index.version):
            self._run("merge", lambda: jobs.merge(self.index, self._source))

    def _measure(self) -> None:
        live = self._source.count()
        clustering = due.clustering(self.index, live)
        if due.measuring(self.index, live) and not clustering:
            self._run("measure", lambda: jobs.measure(self.index, self._source))

    def _cluster(self) -> None:
        if self._wants_clustering():
            self._run("cluster", lambda: jobs.cluster(self.index, self._source, tune=False))

    def _lay(self) -> None:
        if due.laying(self.index, self._source.count()):
            self._run("lay", lambda: jobs.lay(self.index, self._source))
            self._measure()

    def _run(self, kind: str, job: Callable[[], int]) -> None:
        began = time.monotonic()
        try:
            rows = job()
        except (RuntimeError, MemoryError) as error:
            cost = self._costs[kind]
            self._costs[kind] = dataclasses.replace(cost, failed=cost.failed + 1)
            logger.warning("job %s of %s failed: %s", kind, self.name, error)
            raise
        if kind == "cluster" or (kind == "merge" and len(self.index.version.segments) == 1):
            # Only where most of an index was replaced: to fetch back the pages that every sealing
            # needs takes longer than the sealing.
            give_back()
        cost = self._costs[kind]
        self._costs[kind] = dataclasses.replace(
            cost,
            runs=cost.runs + 1,
            rows=cost.rows + rows,
            seconds=cost.seconds + time.monotonic() - began,
        )

    def _reading(self, read: Callable[[Slots], Array]) -> Callable[[Slots], Array]:
        """Reads rows, unless the job that asks is wanted no more."""

        def reading(rows_R: Slots) -> Array:
            here = threading.current_thread()
            if here is self._threads.get("cluster") and (self._stopped or self._callers):
                raise _Stopped
            if here is self._threads.get("seal") and self._stopped:
                raise _Stopped
            return read(rows_R)

        return reading


KINDS = ("seal", "merge", "measure", "cluster", "lay")

_working: weakref.WeakSet[Maintainer] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Lets no thread run on into the end of the process, where what it calls is taken down."""
    for maintainer in list(_working):
        maintainer.stop()
