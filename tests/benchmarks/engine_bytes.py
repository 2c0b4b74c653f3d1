"""Bytes a row of float16 with its sq8 index, while serving and at the peak of a reindex.

A process of its own fills a memory of 128-wide keys block by block, builds its index, answers
searches, and builds the index anew. Counted is what the system says it holds resident, less what
it held while the memory was empty; the peer is the bytes of the arrays alone: 256 of the row, 128
of its codes and 8 of its number in a list. The rows before, the old index and the new one stand
side by side at the peak, since searches go on meanwhile.

What is in work, and what libraries keep of it, takes some 60 MB however many rows there are: 6
bytes a row of 10 million, but 200 of 300,000, so that the quick run has no target.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import memstore
from memstore import IndexConfig, Memory, MemoryConfig
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.runner import Figure, at_most

ROW_BYTES = 2 * WIDTH + WIDTH + 8
MOST_SERVING, MOST_PEAK = 1.25, 1.6
BLOCK = 65_536
WARM_ROWS = 20_000

PATIENCE_S = 600.0
"""How long the filling waits for rows to be sealed: the machine may have other work."""


def run(quick: bool) -> Iterator[Figure]:
    """Measures one process of 10 million rows, or of 300,000."""
    rows = 300_000 if quick else 10_000_000
    size = f"{rows // 1_000}k" if quick else "10M"
    # Tuning tries up to 4,096 clusters on a sample that is most of so few rows.
    clusters = ["1024"] if quick else []
    command = [sys.executable, "-m", "tests.benchmarks.engine_bytes", str(rows), *clusters]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    held = json.loads(done.stdout)
    case = f"{size} x {WIDTH}, float16 rows, sq8 index"
    for name, most, when in (
        ("bytes_per_row", MOST_SERVING, "serving"),
        ("peak_bytes_per_row", MOST_PEAK, "at the peak of a reindex"),
    ):
        figure = Figure(name, f"{case}, {when}", held[name], "bytes", ROW_BYTES)
        yield figure if quick else at_most(most, figure)


def measure(rows: int, clusters: int | None = None) -> dict[str, float]:
    """Bytes a row that this process holds for a memory of so many rows, and held at most."""
    index = IndexConfig(clusters=clusters, patience_s=PATIENCE_S)
    config = MemoryConfig(dim=WIDTH, dtype="float16", index=index)
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        # What libraries keep for themselves once they were used is not of the rows.
        warm = store.create("warm", config)
        _fill(warm, WARM_ROWS)
        warm.reindex()
        _ask(warm)
        store.drop("warm")
        del warm
        memory = store.create("rows", config)
        empty = _status("VmRSS")
        _fill(memory, rows)
        memory.reindex()
        _ask(memory)
        serving = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        memory.reindex()
        peak = _status("VmHWM")
        # What closing would write is of no use to anybody.
        store.drop("rows")
    return {
        "bytes_per_row": (serving - empty) / rows,
        "peak_bytes_per_row": (peak - empty) / rows,
    }


def _fill(memory: Memory, rows: int) -> None:
    for number, start in enumerate(range(0, rows, BLOCK)):
        keys_BD, _ = mixture(min(BLOCK, rows - start), 0, seed=number)
        memory.append(keys_BD.astype(np.float16))


def _ask(memory: Memory) -> None:
    queries_QD = mixture(0, 640, seed=0)[1]
    for batch_QD in np.array_split(queries_QD, 10):
        memory.search(batch_QD, 10)


def _status(name: str) -> int:
    """A size that the system keeps of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:]))))
