"""From nothing to the first answer of a served memory of as many facts as Freebase FB5M has.

The facts are ingested and the store is closed. A server is started on it, which searches for the
key of a fact and says what this fact is: the time from the start of the process to that answer,
once the system has forgotten the files, and once it has them in memory, by turns. What the server
read from the disk tells that it had forgotten them; seconds of the processor are its own.

    python -m tests.benchmarks.scale_start 100000 1000000      # other numbers of facts
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import memstore
from memstore.memory import Array
from tests.benchmarks.runner import Figure, at_most
from tests.benchmarks.served import begun
from tests.benchmarks.synthetic import FULL, case_of, stored
from workers.ingest import Layout

DIM, K, ROUNDS = 64, 32, 3

MOST_S = 10.0

LONG_S = 600.0
"""For the server to listen, and for its answer."""


@dataclass(frozen=True)
class Start:
    """Seconds to the first answer, those of the processor, and bytes read from the disk."""

    seconds: float
    used_s: float
    read: int


def run(quick: bool) -> Iterator[Figure]:
    """Measures FB5M's number of facts, or 20,000."""
    yield from measure(20_000 if quick else FULL, targets=not quick)


def measure(facts: int, *, targets: bool) -> Iterator[Figure]:
    """Measures so many facts."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".start-") as folder:
        report = stored(facts, Path(folder), Layout(dim=DIM))
        store = Path(folder) / "store"
        with memstore.open(store) as opened:
            slot = opened.memory("facts").describe().next_slot // 2
            key_BD = opened.memory("facts").gather(np.array([slot])).keys_BD
        assert key_BD is not None
        cold, warm = list[Start](), list[Start]()
        for _ in range(ROUNDS):
            forget(store)
            cold.append(first_answer(store, key_BD, slot))
            warm.append(first_answer(store, key_BD, slot))
        size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    case = f"{case_of(report, DIM)}, {size / 1e6:,.0f} MB"
    seconds, peer = (statistics.median(start.seconds for start in each) for each in (cold, warm))
    # The target is of the time itself, and not of what it is beside a warm start.
    figure = Figure("first_answer", f"{case}, files forgotten", seconds, "s")
    yield at_most(MOST_S, figure) if targets else figure
    yield Figure("beside_warm", f"{case}; peer: files in memory", seconds, "s", peer)
    used, peer = (statistics.median(start.used_s for start in each) for each in (cold, warm))
    words = f"{case}, of the processor; peer: files in memory"
    yield Figure("used", words, used, "s", peer)
    for kind, starts in (("files forgotten", cold), ("files in memory", warm)):
        read = statistics.median(start.read for start in starts) / 1e6
        yield Figure("read", f"{case}, from the disk, {kind}", read, "MB")


def forget(folder: Path) -> None:
    """Has the system forget the files of a folder."""
    os.sync()  # What is not yet on the disk stays.
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def first_answer(store: Path, key_BD: Array, slot: int) -> Start:
    """Starts a server, and asks it."""
    start = time.perf_counter()
    with begun(store) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with memstore.connect(address, deadline_s=LONG_S) as client:
            memory = client.memory("facts")
            found = memory.search(key_BD, K).slots_QK[0]
            records = memory.gather(
                found[:1], vectors=False, columns=["subject", "relation", "objects"]
            ).records
            assert records is not None
            name = client.memory("entities").gather(
                records["subject"].to_numpy(), vectors=False, columns=["name"]
            )
        seconds = time.perf_counter() - start
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        lines = Path(f"/proc/{process.pid}/io").read_text().splitlines()
        (read,) = (line for line in lines if line.startswith("read_bytes"))
    if slot not in found or name.records is None:
        raise RuntimeError(f"the fact in slot {slot} was not among those found: {found}")
    used_s = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return Start(seconds, used_s, int(read.split()[1]))


if __name__ == "__main__":
    for number in sys.argv[1:]:
        for figure in measure(int(number), targets=False):
            print(figure, flush=True)
