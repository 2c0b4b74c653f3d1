"""A server under mixed load for a long time: what its calls took, its memory and its log.

First callers that wait for each answer find how many calls a second it can do; then calls begin at
times drawn at random, `SHARE` as many, whether those before are answered or not, and as much more
or less as the core is faster or slower than it was then (`tests.faults.pace`). Half search 16
queries; a quarter read 256 rows, and a sixth step as many; the others append 16 rows, or erase the
16 that were appended first. Those that change rows have callers of their own: reads are told to
wait for none of them.

What others take of the cores meanwhile is told: calls wait for that as well.
"""

from __future__ import annotations

import collections
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig
from memstore.memory import Array, Memory, Slots
from memstore.shard.log import SEGMENT_BYTES
from tests.benchmarks.data import mixture
from tests.benchmarks.peers.client import ROOT
from tests.faults.pace import Pace

WIDTH, K = 128, 10
SEARCHED, READ, ADDED = 16, 256, 16
VERBS = {"search": 0.5, "gather": 0.25, "update": 0.17, "append": 0.04, "erase": 0.04}
READS = ("search", "gather")
CALLERS, WORKERS = 8, 32
"""That look for the capacity; that make the calls which begin at their own times, so many for reads
and so many for the others."""

SHARE, MOST_SPEED = 0.8, 2.0
"""Of the capacity; and how much faster a core becomes at most."""

LOOK_S = 0.5
APART_S = 5.0
"""What ended within so long of another is told as one."""


@dataclass(frozen=True)
class Plan:
    """How much is soaked, and how long.

    capacity_s: seconds that capacity is looked for.  warm_s, seconds: under load before it is
    measured, and after.  log_bytes: logged until a checkpoint is made.
    """

    rows: int
    capacity_s: float
    warm_s: float
    seconds: float
    log_bytes: int

    @property
    def log_bound(self) -> int:
        """Bytes that the log may take on disk: what is logged while a checkpoint is made is no
        more than was logged before it, and a checkpoint leaves a segment behind."""
        return 2 * self.log_bytes + SEGMENT_BYTES


@dataclass
class Seen:
    """What a soak saw after it was warm, and what went wrong at any time.  begun: when that was.

    took: by verb, (when a call was to begin, seconds until it was answered).  late: calls whose
    time had not come to begin when it ended.  resident, tables: by look, bytes of the server's
    own memory, no pages of files, and of them those of rows.  log: by look, bytes on disk.
    checkpoints: that were made, at any time.  speeds: by look, of the core beside what it was
    while capacity was looked for.  others: by look, the share of the cores that this process may
    use which neither it nor the server used, nor left idle.  looked, made, jobs: by look, seconds
    since it was warm, the checkpoints so far, and how long each kind of job of the index took so
    far.
    """

    capacity: float = 0.0
    begun: float = 0.0
    took: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {verb: [] for verb in VERBS}
    )
    errors: list[BaseException] = field(default_factory=list)
    late: int = 0
    resident: list[int] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    log: list[int] = field(default_factory=list)
    checkpoints: int = 0
    speeds: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    looked: list[float] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    jobs: list[dict[str, float]] = field(default_factory=list)

    def rates(self, seconds: float, parts: int = 3) -> list[float]:
        """Calls that were to begin in each part of so many seconds, a second."""
        times = [at for calls in self.took.values() for at, _ in calls]
        counts, _ = np.histogram(times, parts, (0.0, seconds))
        return [float(count) * parts / seconds for count in counts]

    def percentiles(self, verb: str, percent: float, parts: int = 3) -> list[float]:
        """Of the seconds that calls took, in each part of the time."""
        times = np.array(sorted(self.took[verb]))
        return [float(np.percentile(part[:, 1], percent)) for part in np.array_split(times, parts)]

    def slowest(self, count: int = 10) -> Iterator[str]:
        """Says what went on while the calls waited that took longest, in so many places."""
        calls = [(took, at, verb) for verb in VERBS for at, took in self.took[verb]]
        told: list[float] = []
        for took, at, verb in sorted(calls, reverse=True):
            end = at + took
            if any(abs(end - other) < APART_S for other in told):
                continue
            told.append(end)
            looks = np.flatnonzero(
                (np.array(self.looked) > at - 1) & (np.array(self.looked) < end + 1)
            )
            if len(looks):
                first, last = int(looks[0]), int(looks[-1])
                share = float(np.mean(self.others[first : last + 1]))
                jobs = {
                    kind: round(seconds - self.jobs[first][kind], 2)
                    for kind, seconds in self.jobs[last].items()
                    if seconds > self.jobs[first][kind]
                }
                made = self.made[last] - self.made[first]
                yield (
                    f"at {at:,.1f} s a {verb} took {took:.3f} s: others had {share:.0%} of the "
                    f"cores, {made} checkpoints ended, jobs took {jobs} s"
                )
            if len(told) == count:
                return

    def growth(self) -> float:
        """Resident memory beyond rows in the last tenth of the time, over that in the first."""
        beyond = np.array(self.resident) - np.array(self.tables)
        tenth = max(len(beyond) // 10, 1)
        return float(np.median(beyond[-tenth:]) / np.median(beyond[:tenth]))


def soak(folder: Path, plan: Plan) -> Seen:
    """Fills a store, serves it from a process of its own, and loads it as planned."""
    keys_ND, queries_QD = mixture(plan.rows + 4_096, 1_024)
    with memstore.open(folder) as store:
        config = MemoryConfig(dim=WIDTH, index=IndexConfig(), updates="logged")
        memory = store.create("m", config)
        memory.append(keys_ND[: plan.rows])
        memory.reindex()
    seen = Seen()
    with (
        _serving(folder, plan.log_bytes) as (process, address),
        memstore.connect(address) as client,
    ):
        pace = Pace()
        load = _Load(client.memory("m"), plan.rows, keys_ND, queries_QD, seen, pace)
        look = _Look(folder, process.pid, client.memory("m"), seen, pace)
        with look.going_on():
            seen.capacity = load.capacity(plan.capacity_s)
            load.open_loop(SHARE * seen.capacity, plan.warm_s, None)
            seen.begun = time.monotonic()
            look.measured.set()
            load.open_loop(SHARE * seen.capacity, plan.seconds, seen.took)
            seen.speeds = pace.speeds(seen.begun)
    return seen


class _Load:
    def __init__(
        self,
        memory: Memory,
        rows: int,
        keys_ND: Array,
        queries_QD: Array,
        seen: Seen,
        pace: Pace,
    ) -> None:
        self._memory, self._rows, self._seen, self._pace = memory, rows, seen, pace
        self._keys_ND, self._queries_QD = keys_ND, queries_QD
        self._grads_BD = np.full((READ, WIDTH), 1e-6, np.float32)
        self._added: collections.deque[Slots] = collections.deque()

    def call(self, verb: str, rng: np.random.Generator) -> None:
        if verb == "search":
            first = int(rng.integers(len(self._queries_QD) - SEARCHED))
            self._memory.search(self._queries_QD[first : first + SEARCHED], K)
        elif verb == "gather":
            self._memory.gather(rng.integers(self._rows, size=READ))
        elif verb == "update":
            self._memory.update(rng.integers(self._rows, size=READ), self._grads_BD, lr=1e-4)
        elif verb == "append" or not self._added:
            first = int(rng.integers(len(self._keys_ND) - ADDED))
            self._added.append(self._memory.append(self._keys_ND[first : first + ADDED]))
        else:
            with contextlib.suppress(IndexError):  # Another may have taken the last.
                self._memory.erase(self._added.popleft())

    def capacity(self, seconds: float) -> float:
        """Calls a second of callers that wait, in the second half of the time; the core is as fast
        as usual then."""
        for verb in VERBS:  # The server loads its kernels.
            self.call(verb, np.random.default_rng(0))
        counts, begun = [0] * CALLERS, time.monotonic()
        half, end = begun + seconds / 2, begun + seconds

        def work(number: int) -> None:
            rng = np.random.default_rng(number)
            while time.monotonic() < end and not self._seen.errors:
                self.call(str(rng.choice(list(VERBS), p=list(VERBS.values()))), rng)
                counts[number] += time.monotonic() >= half

        self._together(CALLERS, work)
        self._pace.usual(half)
        return sum(counts) / (time.monotonic() - half)

    def open_loop(
        self, rate: float, seconds: float, took: dict[str, list[tuple[float, float]]] | None
    ) -> None:
        """Begins calls at times of a Poisson process; what is late by the end is not begun."""
        rng = np.random.default_rng(7)
        times = np.cumsum(rng.exponential(1 / rate, int(MOST_SPEED * rate * seconds) + 1))
        verbs = rng.choice(list(VERBS), len(times), p=list(VERBS.values()))
        read = np.isin(verbs, READS)
        kinds = [
            iter([*zip(times[of].tolist(), verbs[of].tolist(), strict=True)])
            for of in (read, ~read)
        ]
        taking, begun, shown = threading.Lock(), time.monotonic(), self._pace.now()
        end = begun + seconds

        def work(number: int) -> None:
            own, calls = np.random.default_rng(number), kinds[number % len(kinds)]
            while not self._seen.errors:
                with taking:
                    at, verb = next(calls, (np.inf, ""))
                while (due := self._pace.when(shown + at)) > (now := time.monotonic()) < end:
                    time.sleep(min(due - now, LOOK_S / 2, end - now))
                    if self._seen.errors:
                        return
                if due >= end:
                    return
                if now >= end:
                    self._seen.late += took is not None
                    continue
                self.call(verb, own)
                if took is not None:
                    took[verb].append((due - begun, time.monotonic() - due))

        self._together(len(kinds) * WORKERS, work)

    def _together(self, callers: int, work: Callable[[int], None]) -> None:
        def guarded(number: int) -> None:
            try:
                work(number)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                self._seen.errors.append(error)

        threads = [threading.Thread(target=guarded, args=(number,)) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class _Look:
    """Looks at the server's memory and at its log again and again."""

    def __init__(self, folder: Path, pid: int, memory: Memory, seen: Seen, pace: Pace) -> None:
        self._folder, self._pid, self._memory, self._seen = folder, pid, memory, seen
        self._pace = pace
        self.measured = threading.Event()

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        ended = threading.Event()

        def look() -> None:
            manifest = self._folder / "memstore.json"
            last = manifest.stat().st_mtime_ns
            cores = Cores(self._pid)
            while not ended.wait(LOOK_S):
                self._pace.look()
                changed = manifest.stat().st_mtime_ns
                self._seen.checkpoints += changed != last
                last = changed
                self._seen.log.append(_log_bytes(self._folder))
                others = cores.others()
                if self.measured.is_set():
                    self._seen.others.append(others)
                    self._seen.looked.append(time.monotonic() - self._seen.begun)
                    self._seen.made.append(self._seen.checkpoints)
                    shards = self._memory.describe().shards
                    self._seen.tables.append(sum(shard.row_bytes for shard in shards))
                    self._seen.resident.append(_resident(self._pid))
                    self._seen.jobs.append(
                        {job.kind: job.seconds for shard in shards for job in shard.jobs}
                    )

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Cores:
    """What becomes of the cores that this process may use, since one last asked."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._last = self._now()

    def others(self) -> float:
        """The share that others used: neither this process nor the other, nor nobody."""
        now, last = self._now(), self._last
        self._last = now
        whole, idle, own = (a - b for a, b in zip(now, last, strict=True))
        return max(0.0, whole - idle - own) / max(whole, 1)

    def _now(self) -> tuple[int, int, int]:
        """Ticks of these cores, of them idle ones, and those of both processes on any."""
        whole = idle = own = 0
        names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
            name, *ticks = line.split()
            if name in names:
                whole += sum(map(int, ticks[:8]))  # those of guests are in them already
                idle += int(ticks[3]) + int(ticks[4])
        for pid in (os.getpid(), self._pid):
            with contextlib.suppress(FileNotFoundError):  # The server may have ended.
                ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                own += int(ticks[11]) + int(ticks[12])
        return whole, idle, own


@contextlib.contextmanager
def _serving(folder: Path, log_bytes: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "memstore.cli", "serve", str(folder)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--log-bytes", str(log_bytes)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait()


def _log_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("logs/*/*/*.seg"):
        with contextlib.suppress(FileNotFoundError):  # A checkpoint takes files away meanwhile.
            total += path.stat().st_size
    return total


def _resident(pid: int) -> int:
    """Of its own memory: pages of files, as of libraries, the system takes away and reads again."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(1_024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
