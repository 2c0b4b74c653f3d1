"""Snapshots: taking and restoring one beside cp of the same files, and searches beside one.

Rows are float32, 128 wide, with a key's Adagrad state and a tuned index. A snapshot is taken of a
mark, so that it is the copying alone; it ends with all files durable, and so does the peer: `cp -r`
of the same files, then `sync` of each. All of it is read from files that the system has in memory.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.runner import Figure, Measured, at_least, at_most, paired_seconds

K, SEARCHED, SEARCHES = 10, 16, 2_000
PAUSE_S = 0.002


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a folder of the working directory, which should be on the disk that counts."""
    rows, rounds = (100_000, 3) if quick else (1_000_000, 5)
    keys_ND, queries_QD = mixture(rows, 512)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".durable_snapshot-") as folder:
        place = Path(folder)
        with memstore.open(place / "store") as store:
            memory = store.create(
                "m", MemoryConfig(dim=WIDTH, optimizer="adagrad", index=IndexConfig())
            )
            memory.append(keys_ND)
            for start in range(0, rows, 8_192):
                slots_B = np.arange(start, min(start + 8_192, rows))
                memory.update(slots_B, keys_ND[slots_B] * np.float32(1e-3), lr=1e-3)
            memory.reindex()
            store.mark("here")
            size = store.snapshot(place / "first", at="here").bytes
            case = f"{rows:,} x {WIDTH} float32 with Adagrad state, {size / 1e6:,.0f} MB"
            yield from _copies(store, place, case, size, rounds)
            yield _searches(store, memory, place, case, queries_QD)


def _copies(
    store: memstore.Store, place: Path, case: str, size: int, rounds: int
) -> Iterator[Figure]:
    """Rates beside those of cp, by turns."""
    copied = place / "first" / "files"

    def cp() -> float:
        target = place / "cp"
        return _timed(target, lambda: _durable_copy(copied, target))

    def snapshot() -> float:
        target = place / "snapshot"
        return _timed(target, lambda: store.snapshot(target, at="here"))

    def restore() -> float:
        target = place / "restored"
        return _timed(target, lambda: memstore.restore(place / "first", target))

    for name, work in (("snapshot_rate", snapshot), ("restore_rate", restore)):
        timed = paired_seconds(work, cp, rounds)
        ours, theirs = size / timed.a_s / 1e6, size / timed.b_s / 1e6
        figure = Figure(name, f"{case}; peer: cp", ours, "MB/s", theirs, ratio=1 / timed.ratio)
        yield at_least(0.5, figure)


def _searches(
    store: memstore.Store,
    memory: memstore.Memory,
    place: Path,
    case: str,
    queries_QD: np.ndarray,
) -> Figure:
    """Searches while snapshots are taken one after the other, and while none is."""

    def search(number: int) -> float:
        at = number % (len(queries_QD) - SEARCHED)
        time.sleep(PAUSE_S)
        begun = time.perf_counter()
        memory.search(queries_QD[at : at + SEARCHED], K)
        return time.perf_counter() - begun

    for number in range(50):
        search(number)
    idle = [search(number) for number in range(SEARCHES)]
    ended = threading.Event()

    def keep() -> None:
        while not ended.is_set():
            target = place / "beside"
            store.snapshot(target, at="here")
            shutil.rmtree(target)

    thread = threading.Thread(target=keep)
    thread.start()
    busy = [search(number) for number in range(SEARCHES)]
    ended.set()
    thread.join()
    p99_ms, idle_ms = (1e3 * float(np.percentile(times, 99)) for times in (busy, idle))
    name = f"{case}; {SEARCHED} queries beside snapshots; peer: beside none"
    return at_most(2.0, Figure("search_p99_snapshot", name, p99_ms, "ms", idle_ms))


def _durable_copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)
    files = [path for path in target.rglob("*") if path.is_file()]
    subprocess.run(["sync", *files], check=True)


def _timed(target: Path, work: Callable[[], object]) -> float:
    """Seconds of some work that makes a folder, which is taken away again."""
    begun = time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    shutil.rmtree(target)
    return seconds
