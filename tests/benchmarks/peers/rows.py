"""Row stores: commits of some rows each by several writers; says how many seconds they took.

python -m tests.benchmarks.peers.rows sqlite|lmdb FOLDER WRITERS COMMITS ROWS WIDTH
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Rows = list[bytes]
Commit = Callable[[int, Rows], None]

MAP_BYTES = 1 << 34


def sqlite(folder: Path) -> Callable[[], contextlib.AbstractContextManager[Commit]]:
    path = folder / "rows.sqlite"

    def connection() -> sqlite3.Connection:
        made = sqlite3.connect(path, timeout=600, isolation_level=None)
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("PRAGMA synchronous=FULL")
        return made

    with contextlib.closing(connection()) as first:
        first.execute("CREATE TABLE rows (slot INTEGER PRIMARY KEY, key BLOB NOT NULL)")

    @contextlib.contextmanager
    def writer() -> Iterator[Commit]:
        with contextlib.closing(connection()) as own:

            def commit(start: int, rows: Rows) -> None:
                own.execute("BEGIN IMMEDIATE")
                own.executemany("INSERT INTO rows VALUES (?, ?)", enumerate(rows, start))
                own.execute("COMMIT")

            yield commit

    return writer


def lmdb(folder: Path) -> Callable[[], contextlib.AbstractContextManager[Commit]]:
    engine = importlib.import_module("lmdb")

    environment = engine.open(str(folder / "lmdb"), map_size=MAP_BYTES, writemap=False)

    @contextlib.contextmanager
    def writer() -> Iterator[Commit]:
        def commit(start: int, rows: Rows) -> None:
            with environment.begin(write=True) as transaction:
                for slot, row in enumerate(rows, start):
                    transaction.put(slot.to_bytes(8, "big"), row, append=False)

        yield commit

    return writer


def main(engine: str, folder: str, *numbers: str) -> None:
    writers, commits, count, width = map(int, numbers)
    writer = {"sqlite": sqlite, "lmdb": lmdb}[engine](Path(folder))
    keys = np.random.default_rng(0).standard_normal((commits, count, width), np.float32)
    rows = [[key.tobytes() for key in batch] for batch in keys]
    ready = threading.Barrier(writers + 1)

    def work(number: int) -> None:
        with writer() as commit:
            ready.wait()
            for i, batch in enumerate(rows):
                commit((number * commits + i) * count, batch)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    ready.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    print(json.dumps(time.perf_counter() - begun))


if __name__ == "__main__":
    main(*sys.argv[1:])
