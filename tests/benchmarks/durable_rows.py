"""Acknowledged rows beside SQLite and LMDB as row stores: the same rows, the same durability.

A commit is 64 or 4,096 new rows of 128 float32 under their numbers, durable when it returns:
`append` with `fsync="always"` into a memory without an index; a transaction of SQLite (write-ahead
log, synchronous=FULL); one of LMDB. Writers are threads of one process, each of which waits for its
own commit. The stores take turns on one disk; making the rows is not counted.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import memstore
from memstore import MemoryConfig
from tests.benchmarks.peers.client import ROOT, environment_of
from tests.benchmarks.runner import Figure, Measured, Missing, Unavailable, at_least, paired_seconds

WIDTH = 128
CASES = ((64, 1), (64, 16), (4_096, 1))
"""Rows a commit, and writers."""

PEERS = ("sqlite", "lmdb")


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a folder of the working directory, which should be on the disk that counts."""
    total, rounds = (8_192, 3) if quick else (65_536, 7)
    try:
        python = environment_of("lmdb")
    except Unavailable as reason:
        yield Missing("acknowledged_rate", str(reason))
        return
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".durable_rows-") as folder:
        for rows, writers in CASES:
            commits = max(total // rows // writers, 2)
            for peer in PEERS:
                yield _beside(peer, python, Path(folder), rows, writers, commits, rounds)


def _beside(
    peer: str, python: str, folder: Path, rows: int, writers: int, commits: int, rounds: int
) -> Figure:
    def theirs() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            arguments = [peer, place, writers, commits, rows, WIDTH]
            command = [python, "-m", "tests.benchmarks.peers.rows", *map(str, arguments)]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
            return float(json.loads(done.stdout))

    timed = paired_seconds(lambda: _ours(folder, rows, writers, commits), theirs, rounds)
    written = rows * commits * writers
    case = (
        f"{rows:,} x {WIDTH} float32 a commit, {writers} writer{'s' * (writers > 1)}; peer: {peer}"
    )
    ours, other = written / timed.a_s, written / timed.b_s
    return at_least(
        2.0, Figure("acknowledged_rate", case, ours, "rows/s", other, ratio=1 / timed.ratio)
    )


def _ours(folder: Path, rows: int, writers: int, commits: int) -> float:
    keys = np.random.default_rng(0).standard_normal((commits, rows, WIDTH), np.float32)
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        memstore.open(Path(place) / "store", fsync="always") as store,
    ):
        memory = store.create("m", MemoryConfig(dim=WIDTH, index="none"))
        memory.append(keys[0])

        def work() -> None:
            for keys_BD in keys:
                memory.append(keys_BD)

        threads = [threading.Thread(target=work) for _ in range(writers)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun
