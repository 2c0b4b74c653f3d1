"""The redo log: appending, group commit and replay, beside plain writes of the same bytes.

A record is 64 rows of 128 float32, with their numbers: 33,280 bytes and its heads. The peer writes
as many bytes to a file on the same disk, with as many syncs; the two are timed by turns. Nothing
is applied to a memory here: `replay_rate` reads the log and copies the rows into an array.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from memstore.memory import Array, Slots
from memstore.shard import log_format, requests, segments
from memstore.shard.log import Fsync, Log
from memstore.shard.log_format import Kind, Record
from tests.benchmarks.runner import (
    Figure,
    Measured,
    at_least,
    paired_medians,
    paired_seconds,
)

ROWS, WIDTH, WRITERS = 64, 128, 16
INTERVAL_S = 0.1
OWNER = b"durable_log\0\0\0\0\0"
WORDS = f"{ROWS} x {WIDTH} float32 a record"
Rows = tuple[Slots, Array]


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a folder of the working directory, which should be on the disk that counts."""
    unsynced, synced, rounds, replayed = (50, 10, 5, 500) if quick else (400, 50, 15, 8_000)
    rng = np.random.default_rng(0)
    supply = [
        (rng.integers(0, 1 << 20, ROWS), rng.normal(size=(ROWS, WIDTH)).astype(np.float32))
        for _ in range(64)
    ]
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".durable_log-") as folder:
        place = Path(folder)
        yield from _rates(place, "never", unsynced, rounds, supply)
        yield from _rates(place, "interval", unsynced, rounds, supply)
        yield from _rates(place, "always", synced, rounds, supply)
        yield _group_commit(place, synced, rounds, supply)
        yield _replay(place, replayed, supply)
    yield _digest(supply, rounds)


def _rates(
    place: Path, fsync: Fsync, records: int, rounds: int, supply: list[Rows]
) -> Iterator[Figure]:
    """Appends by one thread, and the peer's writes."""
    log, path = _log(place, fsync), place / f"peer-{fsync}"
    draws = itertools.cycle(supply)
    size = _bytes(supply[0])
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def appends() -> None:
        for rows_B, keys_BD in itertools.islice(draws, records):
            log.commit(log.append(_record(rows_B, keys_BD)))
        log.truncate(log.last + 1)

    def writes() -> None:
        for rows_B, keys_BD in itertools.islice(draws, records):
            heads = bytes(size - rows_B.nbytes - keys_BD.nbytes)
            os.writev(handle, [heads, rows_B.data, keys_BD.data])
            if fsync == "always":
                os.fsync(handle)
        os.ftruncate(handle, 0)

    def written() -> None:
        if fsync != "interval":
            writes()
            return
        with _every(INTERVAL_S, lambda: os.fsync(handle)):
            writes()

    timed = paired_medians(appends, written, rounds)
    log.close()
    os.close(handle)
    syncs = {"never": "no sync", "interval": "as many syncs", "always": "a sync each"}[fsync]
    case = f"fsync={fsync}, {WORDS}, 1 writer; peer: writes of the same bytes, {syncs}"
    for name, unit, each in (
        ("append_rate", "records/s", 1.0),
        ("append_bytes", "MB/s", size / 1e6),
    ):
        amount = records * each
        yield Figure(
            name, case, amount / timed.a_s, unit, amount / timed.b_s, ratio=1 / timed.ratio
        )


def _group_commit(place: Path, records: int, rounds: int, supply: list[Rows]) -> Figure:
    """As many records by 16 threads, each of which waits for its own, and by one."""
    log = _log(place, "always")

    def work(count: int) -> None:
        for rows_B, keys_BD in itertools.islice(itertools.cycle(supply), count):
            log.commit(log.append(_record(rows_B, keys_BD)))

    def together() -> float:
        threads = [threading.Thread(target=work, args=(records,)) for _ in range(WRITERS)]
        return _seconds(lambda: _all(threads)) / WRITERS

    timed = paired_seconds(together, lambda: _seconds(lambda: work(records)), rounds)
    log.close()
    case = f"fsync=always, {WORDS}, {WRITERS} writers; peer: 1 writer"
    figure = Figure(
        "commit_rate",
        case,
        records / timed.a_s,
        "records/s",
        records / timed.b_s,
        ratio=1 / timed.ratio,
    )
    return at_least(5.0, figure)


def _replay(place: Path, records: int, supply: list[Rows]) -> Figure:
    log = _log(place, "never")
    for rows_B, keys_BD in itertools.islice(itertools.cycle(supply), records):
        log.append(_record(rows_B, keys_BD))
    folder = log.folder
    log.close()
    table_ND = np.zeros((1 << 20, WIDTH), np.float32)
    table_ND += 1  # Its pages are there before the clock starts.

    def replay() -> None:
        for _, record in segments.replay(folder, OWNER):
            parts: Any = record.parts
            table_ND[parts["rows"]] = parts["keys"]

    replay()
    seconds = float(np.median([_seconds(replay) for _ in range(5)]))
    case = f"{records:,} records, {WORDS}, copied into an array of 1,048,576 rows"
    return at_least(500_000, Figure("replay_rate", case, records * ROWS / seconds, "rows/s"))


def _digest(supply: list[Rows], rounds: int) -> Figure:
    def digests() -> None:
        for rows_B, keys_BD in supply:
            requests.digest("write", rows_B, keys_BD)

    seconds = min(_seconds(digests) for _ in range(4 * rounds)) / len(supply)
    return Figure("digest_time", f"of a request of {ROWS} x {WIDTH} float32", 1e6 * seconds, "µs")


def _record(rows_B: Slots, keys_BD: Array) -> Record:
    return Record(Kind.PUT, {"rows": rows_B, "keys": keys_BD})


def _bytes(rows: Rows) -> int:
    return log_format.RECORD.size + log_format.encode(_record(*rows)).bytes


def _log(place: Path, fsync: Fsync) -> Log:
    folder = Path(tempfile.mkdtemp(dir=place))
    return Log(folder, OWNER, fsync=fsync, interval_s=INTERVAL_S)


def _all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def _every(interval_s: float, call: Callable[[], object]) -> Iterator[None]:
    """Calls in a thread of its own again and again, until it is left."""
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(interval_s):
            call()

    thread = threading.Thread(target=again)
    thread.start()
    yield
    ended.set()
    thread.join()


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
