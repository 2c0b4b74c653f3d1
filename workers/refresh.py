"""Refreshing: keeps encoded memories near the sums of their parts, at a bounded share of a machine.

    with Refresher(store, share=0.2):                    a thread beside training
        train(…)
    with memstore.connect("ray:memstore/facts") as client:
        Refresher(client, share=0.2).run(stop)           memtrain refresh

The engine does the work, over all shards and servers: `refresh(limit)` encodes the slots of those
part rows that drifted most, and reads each part row once a batch. Here is decided when, of which
memory and how much at once: one batch of the memory that drifted most, then a rest that is as much
longer as the share is smaller. What the index takes to seal what was written counts as work.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from memstore.errors import InvalidArgument, MemstoreError, Overloaded, StoreClosed, UnknownMemory
from memstore.memory import Description, Memory

DRIFT = 0.05
"""Of a part row, relative: below it a key is as good as new, for what a search proposes is scored
again from the parts by who reads it."""

BATCH_S = 0.5
"""That a batch should take: writers and trainers wait for no more than a part of it."""

FIRST, LEAST, MOST = 1 << 14, 1 << 10, 1 << 20
"""Slots of a batch: the first, and the bounds between which it is fitted to the time it takes."""

LOOK_S, IDLE_S = 5.0, 1.0
"""For which what is known of other memories may be old; between looks where nothing is to do."""

PAUSES_S = (0.5, 1.0, 2.0, 5.0)
"""After a failure that may pass, the last again and again."""

logger = logging.getLogger(__name__)


class Source(Protocol):
    """A `Store`, or a client of servers."""

    def list(self) -> list[str]: ...

    def memory(self, name: str) -> Memory: ...


@dataclass(frozen=True)
class Progress:
    """What a worker has done.

    drift: of the memory that drifts most, as far as is known; None before it was looked at.
    encoded: slots.  worked_s: what its calls took, wherever they were answered, and the index until
    it had sealed what they wrote; sealed_s: of that, the index; cpu_s: its own thread, on the
    processor.  rested_s: in which it was not to work.  why: the last failure.
    """

    drift: float | None = None
    batches: int = 0
    encoded: int = 0
    failed: int = 0
    worked_s: float = 0.0
    sealed_s: float = 0.0
    cpu_s: float = 0.0
    rested_s: float = 0.0
    why: str = ""

    def __str__(self) -> str:
        drift = "not looked yet" if self.drift is None else f"drift {self.drift:.3g}"
        why = f"; {self.failed} failures, the last: {self.why}" if self.why else ""
        return (
            f"{drift}, {self.encoded:,} slots in {self.batches:,} batches, "
            f"{self.worked_s:,.1f} s, {self.share:.0%} of the time{why}"
        )

    @property
    def share(self) -> float:
        """Of its time, that it worked."""
        return self.worked_s / max(self.worked_s + self.rested_s, 1e-9)


class Sealing:
    """What sealing in the background has taken, of the rows of one memory that were encoded."""

    def __init__(self) -> None:
        self.encoded = 0
        """Slots that, as far as is known, are not sealed yet."""
        self._known: dict[int, tuple[int, float]] = {}
        """By shard, rows and seconds of before."""

    def told(self, described: Description) -> float:
        """The seconds since it was told last, of the shard that sealed longest: what is sealed at
        the same time counts once. Of other rows that were sealed with them, none."""
        sealed, longest_s = 0, 0.0
        for number, shard in enumerate(described.shards):
            rows = sum(job.rows for job in shard.jobs if job.kind == "seal")
            seconds = sum(job.seconds for job in shard.jobs if job.kind in ("seal", "merge"))
            before, before_s = self._known.get(number, (0, 0.0))
            self._known[number] = rows, seconds
            if rows >= before and seconds >= before_s:  # Else it was opened anew.
                sealed += rows - before
                longest_s = max(longest_s, seconds - before_s)
        own = min(self.encoded, sealed)
        fresh = sum(shard.fresh for shard in described.shards)
        self.encoded = min(self.encoded - own, fresh)
        return longest_s * own / sealed if own else 0.0


class Refresher:
    """A worker, that runs in its own thread as a context, or in that of who calls `run`."""

    def __init__(
        self,
        source: Source,
        *,
        share: float = 0.2,
        drift: float = DRIFT,
        names: Sequence[str] | None = None,
    ) -> None:
        """share: of the time, in (0, 1], that it may work.  drift: what it lets a part row drift,
        > 0.  names: of encoded memories; None is all that there are. Raises `InvalidArgument`."""
        if not 0.0 < share <= 1.0:
            raise InvalidArgument("a share is out of range", got=share, expected="0 < share ≤ 1")
        if not drift > 0.0:
            raise InvalidArgument("a drift is out of range", got=drift, expected="> 0")
        self._source, self._names = source, names
        self.share, self.drift = share, drift
        self.progress = Progress()
        self._known: dict[str, float] = {}
        self._sealing: dict[str, Sealing] = {}
        self._looked = -LOOK_S
        self._limit = FIRST
        self._working, self._stop = threading.Lock(), threading.Event()
        self._held_s = 0.0
        """For which it was paused, all together."""
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="memstore-refresh", daemon=True)

    def run(
        self,
        stop: threading.Event,
        *,
        once: bool = False,
        tell: Callable[[Progress], object] = lambda progress: None,
    ) -> Progress:
        """Works until it is stopped; with `once` until no part row drifted further than it may.

        What may pass is tried again. Raises what will not: `StoreClosed`, `NotAllowed`, …; of
        memories that were named `UnknownMemory`, and `InvalidArgument` of one that is not encoded.
        tell: called between batches.
        """
        failures = 0
        while not stop.is_set():
            began, cpu = time.perf_counter(), time.thread_time()
            busy, encoded, sealed, why, pause = False, 0, 0.0, "", 0.0
            try:
                with self._working:
                    # Waiting for that was no work.
                    began, cpu = time.perf_counter(), time.thread_time()
                    name, sealed = self._most_drifted()
                    busy = name is not None
                    if name is not None:
                        encoded = self._batch(name)
                failures = 0
            except UnknownMemory:
                if self._names is not None:
                    raise
                self._looked, busy = -LOOK_S, True  # It was dropped meanwhile.
            except MemstoreError as error:
                if not error.retryable:
                    raise
                why, pause = str(error), PAUSES_S[min(failures, len(PAUSES_S) - 1)]
                if isinstance(error, Overloaded):
                    pause = max(pause, error.retry_after_s)
                failures += 1
                logger.warning("no refresh: %s", error)
            worked, cpu = time.perf_counter() - began + sealed, time.thread_time() - cpu
            ends = once and not busy and not why
            rest = 0.0 if ends else worked * (1.0 - self.share) / self.share
            if not busy and not why and not ends:
                pause = IDLE_S
            rest = max(rest, pause)
            self._note(encoded, worked, sealed, cpu, rest, why)
            tell(self.progress)
            if ends:
                break
            self._rest(rest, stop)
        return self.progress

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which it changes nothing: behind the batch that it is at. The time in it is
        none that it may work a share of."""
        with self._working:
            began = time.perf_counter()
            try:
                yield
            finally:
                self._held_s += time.perf_counter() - began

    def _rest(self, seconds: float, stop: threading.Event) -> None:
        """Waits so long, and longer where it is paused meanwhile."""
        while True:
            held_s = self._held_s
            stop.wait(seconds)
            with self._working:
                seconds = min(seconds, self._held_s - held_s)
            if seconds <= 0.0 or stop.is_set():
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends behind the batch that it is at; raises what ended it before."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            self.run(self._stop)
        except StoreClosed:
            return
        except Exception as error:  # noqa: BLE001 - told to who started it
            logger.error("refreshing ended: %s", error)
            self._failure = error

    def _most_drifted(self) -> tuple[str | None, float]:
        """The memory that drifted most; None where none did further than it may. And for how long
        indices sealed what was encoded, as far as was not told yet."""
        sealed_s = 0.0
        worst = max(self._known, key=self._known.__getitem__, default=None)
        old = time.monotonic() - self._looked > LOOK_S
        if worst is None or self._known[worst] <= self.drift or old:
            names = self._source.list() if self._names is None else self._names
            known = dict[str, float]()
            for name in names:
                memory = self._source.memory(name)
                if memory.config.encoding is not None:
                    described = memory.describe()
                    known[name] = described.drift or 0.0
                    if memory.config.index_config.maintenance == "background":
                        sealed_s += self._sealing.setdefault(name, Sealing()).told(described)
                elif self._names is not None:
                    raise InvalidArgument(
                        f"memory {name!r} is refreshed by nobody",
                        got="keys of its own",
                        expected="an encoded memory",
                    )
            self._known = known
            self._looked = time.monotonic()
            worst = max(self._known, key=self._known.__getitem__, default=None)
        if worst is None or self._known[worst] <= self.drift:
            return None, sealed_s
        return worst, sealed_s

    def _batch(self, name: str) -> int:
        began = time.perf_counter()
        refreshed = self._source.memory(name).refresh(self._limit)
        seconds = time.perf_counter() - began
        self._known[name] = refreshed.drift_after
        self._sealing.setdefault(name, Sealing()).encoded += refreshed.encoded
        if seconds > 2 * BATCH_S:
            self._limit = max(LEAST, self._limit // 2)
        elif seconds < BATCH_S / 2 and refreshed.encoded > self._limit // 2:
            self._limit = min(MOST, self._limit * 2)
        return refreshed.encoded

    def _note(
        self, encoded: int, worked: float, sealed: float, cpu: float, rest: float, why: str
    ) -> None:
        before = self.progress
        self.progress = Progress(
            drift=max(self._known.values(), default=before.drift if why else 0.0),
            batches=before.batches + (encoded > 0),
            encoded=before.encoded + encoded,
            failed=before.failed + bool(why),
            worked_s=before.worked_s + worked,
            sealed_s=before.sealed_s + sealed,
            cpu_s=before.cpu_s + cpu,
            rested_s=before.rested_s + rest,
            why=why or before.why,
        )
