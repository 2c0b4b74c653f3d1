"""A store that survives: writing with a log, checkpoints beside searches, opening, doing again.

Rows are float32, 128 wide, with a tuned index of codes of 8 bits. A write is 64 rows; without the
log it is the same memory whose shard has none. `open` is from `memstore.open` to the first answer,
of files that the system has in memory; a process that opens a store for the first time also loads
its kernels, which is not counted. What is done again are writes of 64 rows each, applied to the
memory, and their index work left to the background as ever.
"""

from __future__ import annotations

import contextlib
import mmap
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig, files
from memstore.embedded import EmbeddedMemory
from memstore.errors import Overloaded
from memstore.memory import Array
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.runner import Figure, Measured, at_least, at_most, paired_medians

K, SEARCHED, ROWS = 10, 16, 64
ALONE_S = 3.0
"""So long searches and writes go on beside each other, and beside no checkpoint."""

SHARE = 0.01
"""Of the rows, neighbours of each other, that change before the second checkpoint."""


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a folder of the working directory, which should be on the disk that counts."""
    rows, writes, rounds = (100_000, 1_000, 5) if quick else (1_000_000, 16_000, 15)
    keys_ND, queries_QD = mixture(rows, 512)
    case = f"{rows:,} x {WIDTH} float32"
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".durable_store-") as folder:
        place = Path(folder)
        with memstore.open(place / "store") as store:
            memory = store.create("m", MemoryConfig(dim=WIDTH, index=IndexConfig()))
            assert isinstance(memory, EmbeddedMemory)
            memory.append(keys_ND)
            memory.reindex()
            memory.settle()
            yield from _checkpoints(store, memory, place, case, keys_ND, queries_QD)
            yield _logged_writes(memory, case, keys_ND, rounds)
            memory.settle()
        opened_s, new_s = _opened(place, queries_QD, 1.0 if quick else 8.0)
        yield at_most(1.0, Figure("open_seconds", case, opened_s, "s"))
        words = f"{case}; peer: a word written to each page of as many bytes of new memory"
        yield Figure("open_seconds", words, opened_s, "s", new_s)
        yield _done_again(place, case, keys_ND, writes)


def _checkpoints(
    store: memstore.Store,
    memory: EmbeddedMemory,
    place: Path,
    case: str,
    keys_ND: Array,
    queries_QD: Array,
) -> Iterator[Figure]:
    """The first checkpoint, searches and writes beside it, and one of a few changes.

    Rows are overwritten by others of the same kind: by noise, the index would find less and less,
    and visit ever more lists for the recall that it is to reach.
    """

    def search() -> None:
        at = int(time.perf_counter() * 1e4) % (len(queries_QD) - SEARCHED)
        memory.search(queries_QD[at : at + SEARCHED], K)

    rng = np.random.default_rng(1)

    def write() -> None:
        slots_B, others_B = rng.choice(memory.next_slot, (2, ROWS), replace=False)
        memory.write(slots_B, keys_ND[others_B])

    for _ in range(20):
        search()
        write()
    for _ in range(2):  # The first time is to warm up.
        idle: dict[str, list[float]] = {"search": [], "write": []}
        with _beside(search, idle["search"]), _beside(write, idle["write"]):
            time.sleep(ALONE_S)
        memory.settle()
    busy: dict[str, list[float]] = {"search": [], "write": []}
    with _beside(search, busy["search"]), _beside(write, busy["write"]):
        whole_s = _seconds(store.checkpoint)
    whole = _bytes(place)
    few = memory.next_slot * SHARE
    memory.write(np.arange(int(few)), keys_ND[::-1][: int(few)])
    memory.settle()
    few_s = _seconds(store.checkpoint)
    yield Figure("checkpoint_seconds", f"{case}; all of it, {whole / 1e6:,.0f} MB", whole_s, "s")
    few_case = f"{case}; {SHARE:.0%} of the rows changed, and some; peer: all of it"
    yield Figure("checkpoint_seconds", few_case, few_s, "s", whole_s)
    words = {"search": f"{SEARCHED} queries", "write": f"{ROWS} rows"}
    for name, times in busy.items():
        p99_s, idle_s = float(np.percentile(times, 99)), float(np.percentile(idle[name], 99))
        each = f"{case}; {words[name]}, beside a checkpoint; peer: beside none; {len(times)} calls"
        figure = Figure(f"{name}_p99_checkpoint", each, 1e3 * p99_s, "ms", 1e3 * idle_s)
        yield at_most(2.0, figure) if name == "search" else figure


def _logged_writes(memory: EmbeddedMemory, case: str, keys_ND: Array, rounds: int) -> Figure:
    """Writes with the log and without, by turns; the index takes both alike."""
    [shard] = memory.shards
    journal = shard.journal
    rng = np.random.default_rng(2)
    draws = [rng.choice(len(keys_ND), ROWS, replace=False) for _ in range(100)]

    def write() -> None:
        for slots_B in draws:
            memory.write(slots_B, keys_ND[slots_B])

    def unlogged() -> None:
        shard.journal = None
        try:
            write()
        finally:
            shard.journal = journal

    timed = paired_medians(write, unlogged, rounds)
    name = f"{case}; {ROWS} rows a write, fsync=interval; peer: without the log"
    each_us = 1e6 / len(draws)
    figure = Figure(
        "write_time", name, timed.a_s * each_us, "us", timed.b_s * each_us, ratio=timed.ratio
    )
    return at_most(1.3, figure)


def _opened(place: Path, queries_QD: Array, pause_s: float) -> tuple[float, float]:
    """Seconds until a store that was closed answers, and until as much memory is ready, by turns.

    pause_s: before each, so long that a host takes back what a virtual machine has let go of: what
    comes back at once would make the one that follows quick.
    """
    opened, new = [], []
    for _ in range(3):
        time.sleep(pause_s)
        start = time.perf_counter()
        store = memstore.open(place / "store")
        store.memory("m").search(queries_QD[:1], K)
        opened.append(time.perf_counter() - start)
        store.close()
        del store
        time.sleep(pause_s)
        start = time.perf_counter()
        np.empty(_bytes(place), np.uint8)[:: mmap.PAGESIZE] = 1
        new.append(time.perf_counter() - start)
    return float(np.median(opened)), float(np.median(new))


def _done_again(place: Path, case: str, keys_ND: Array, writes: int) -> Figure:
    """Rows a second that opening applies out of a log that no checkpoint covers."""
    rng = np.random.default_rng(3)
    plain_s = _opening(place)
    store = memstore.open(place / "store", fsync="never")
    memory = store.memory("m")
    assert isinstance(memory, EmbeddedMemory)
    for _ in range(writes):
        slots_B = rng.choice(len(keys_ND), ROWS, replace=False)
        _admitted(memory, slots_B, keys_ND[slots_B])
    memory.settle()
    _die(store)
    seconds = _opening(place) - plain_s
    name = f"{case}; {writes:,} writes of {ROWS} rows, beyond opening without them"
    return at_least(500_000, Figure("replay_rate", name, writes * ROWS / seconds, "rows/s"))


def _die(store: memstore.Store) -> None:
    """Leaves the store as it would be if its process died now."""
    for name in store.list():
        memory: Any = store.memory(name)
        memory.retire(memstore.MemstoreError("left as it is"))
        memory.close_logs()
    store._lock.close()
    store._ended.set()


def _opening(place: Path) -> float:
    """Seconds to open the store for reading, which does its logs again and leaves them."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        store = memstore.open(place / "store", read_only=True)
        times.append(time.perf_counter() - begun)
        store.close()
    return float(np.median(times))


def _admitted(memory: EmbeddedMemory, slots_B: Array, keys_BD: Array) -> None:
    while True:
        try:
            memory.write(slots_B, keys_BD)
            return
        except Overloaded as error:
            time.sleep(error.retry_after_s)


@contextlib.contextmanager
def _beside(work: Callable[[], None], times: list[float]) -> Iterator[None]:
    """Does some work all along, every two milliseconds, and notes how long it took."""
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(0.002):
            times.append(_seconds(work))

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _bytes(place: Path) -> int:
    """Of all files that the manifest names."""
    manifest = files.read_json(place / "store" / "memstore.json")
    folders = [place / "store" / "memories" / name for name in manifest["memories"]]
    return sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())
