"""Commits to storage that nodes share, in a folder and in an object store, beside bare puts.

A commit is an append of 64 rows of 128 float32, which waits for an object on the shelf; commits
that wait together go as one. The peer puts as many bytes as a commit has, one object after another.
The folder is on the disk of the working directory. The object store is moto in a process of its
own, on this machine: what is far away costs a round trip more for each object, as `delay` shows.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from memstore import Memory, MemoryConfig, Store
from memstore.memory import Array
from memstore.shared.disk import SharedDisk
from memstore.shared.shelf import Shelf, open_shelf
from tests.benchmarks.runner import Figure, Measured, paired_seconds
from tests.s3 import CREDENTIALS

ROWS, WIDTH = 64, 128
WRITERS = (1, 16)
OPENED = 150
DELAY_S = 0.02
"""Of a request to an object store of the same region, about."""


def run(quick: bool) -> Iterator[Measured]:
    commits, rounds = (20, 3) if quick else (60, 5)
    os.environ.update(CREDENTIALS)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".durable_shared-") as folder:
        place = Path(folder)
        yield from _rates(place, "a folder", open_shelf(place / "shelf"), commits, rounds)
        for name, delay_s in (("moto", 0.0), (f"moto, delay {1e3 * DELAY_S:g} ms", DELAY_S)):
            with _server(delay_s) as uri:
                shelf = open_shelf(uri)
                yield from _rates(place, name, shelf, commits, rounds)
                yield _opening(place, name, shelf.within("opened"))


def _rates(place: Path, name: str, shelf: Shelf, commits: int, rounds: int) -> Iterator[Figure]:
    """So many commits by each of some writers at once, and by one, by turns with puts."""
    folder = Path(tempfile.mkdtemp(dir=place))
    disk = SharedDisk.open(folder, shelf.within("store"), 1)
    keys_BD = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    numbers = itertools.count()
    with Store(folder, fsync="always", disk=disk) as store:
        memory = store.create("m", MemoryConfig(dim=WIDTH, index="exact", optimizer="sgd"))
        memory.append(keys_BD)
        ops = shelf.within("store/ops")
        data = ops.get(ops.names("")[-1]) or b""

        def put() -> float:
            start = time.perf_counter()
            for _ in range(commits):
                assert shelf.put(f"bare/{next(numbers):08d}", data)
            return time.perf_counter() - start

        for writers in WRITERS:
            objects = _objects(disk)
            done = 0

            def append(writers: int = writers) -> float:
                nonlocal done
                done += writers * commits
                return _appended(memory, keys_BD, writers, commits) / writers

            timed = paired_seconds(append, put, rounds)
            a_object = done / (_objects(disk) - objects)
            case = f"{name}, {ROWS} x {WIDTH} float32, {writers} writer{'s' * (writers > 1)}"
            words = f"{case}, {a_object:.1f} commits an object; peer: bare puts of {len(data):,} B"
            for what, each, unit in (("commit_rate", 1, "commits/s"), ("row_rate", ROWS, "rows/s")):
                yield Figure(
                    what,
                    words,
                    commits * each / timed.a_s,
                    unit,
                    commits * each / timed.b_s,
                    ratio=1 / timed.ratio,
                )


def _objects(disk: SharedDisk) -> int:
    return disk._stream.sequence


def _opening(place: Path, name: str, shelf: Shelf) -> Figure:
    """What a part does that starts on another node, beside gets of the same objects."""
    folder = Path(tempfile.mkdtemp(dir=place))
    disk = SharedDisk.open(folder, shelf, 1)
    for number in range(OPENED):
        file = disk.create(folder / str(number))
        file.write([bytes(ROWS * WIDTH * 4)])
        file.sync()
        file.close()
    start = time.perf_counter()
    for each in shelf.names("ops"):
        assert shelf.get(f"ops/{each}")
    middle = time.perf_counter()
    SharedDisk.open(Path(tempfile.mkdtemp(dir=place)), shelf, 2)
    end = time.perf_counter()
    case = f"{name}, behind {OPENED} objects of {ROWS} rows; peer: gets, one after another"
    rate, peer = OPENED / (end - middle), OPENED / (middle - start)
    return Figure("open_rate", case, rate, "objects/s", peer)


def _appended(memory: Memory, keys_BD: Array, writers: int, commits: int) -> float:
    def append() -> None:
        for _ in range(commits):
            memory.append(keys_BD)

    threads = [threading.Thread(target=append) for _ in range(writers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


SERVER = """
import sys
from tests.s3 import s3_server
with s3_server() as server:
    print(server.uri("bucket", "bench"), flush=True)
    server.delay_s = float(sys.argv[1])
    sys.stdin.read()
"""


@contextmanager
def _server(delay_s: float) -> Iterator[str]:
    """The address of a bucket of an object store in a process of its own."""
    command = [sys.executable, "-c", SERVER, str(delay_s)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
