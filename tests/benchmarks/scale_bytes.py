"""Bytes of a fact at rest and while it is searched, of as many as Freebase FB5M has.

The facts are ingested with keys of float16; counted are all files of the closed store, those of
entities, relations and words and their names among them, in parts; then what a process that opened
the store and searched holds resident, less what it held before. Twice: with keys that are stored,
and with none.

    python -m tests.benchmarks.scale_bytes 100000 1000000      # other numbers of facts
    python -m tests.benchmarks.scale_bytes 1000000 --no-keys   # with none alone
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import memstore
from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.runner import Figure, at_most
from tests.benchmarks.synthetic import FULL, case_of, stored
from tests.ingest.measured import resident
from workers.ingest import Layout

MOST_BYTES, MOST_WITHOUT = 450, 300
"""A row, and a fact where no keys are stored."""

SHOWN = 8
"""Parts, the largest."""

ENOUGH_ROWS = 3_000_000
DIM = 64


def run(quick: bool) -> Iterator[Figure]:
    """Measures FB5M's number of facts, or 100,000."""
    for stored_keys in (True, False):
        yield from measure(100_000 if quick else FULL, targets=not quick, keys=stored_keys)


def measure(facts: int, *, targets: bool, keys: bool = True) -> Iterator[Figure]:
    """Measures so many facts.  keys: whether these are stored."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bytes-") as folder:
        report = stored(facts, Path(folder), Layout(dim=DIM, dtype="float16", stored=keys))
        case = f"{case_of(report, DIM)} in float16{'' if keys else ', no keys stored'}"
        store = Path(folder) / "store"
        with memstore.open(store) as opened:
            opened.memory("facts").reindex()
        parts = Counter[str]()
        for path in store.rglob("*"):
            if path.is_file():
                parts[_part(path.relative_to(store))] += path.stat().st_size
        words, total = f"{case}, all files", parts.total()
        fact = Figure("at_rest", f"{words}, a fact", total / report.given, "bytes")
        yield at_most(MOST_WITHOUT, fact) if targets and not keys else fact
        at_rest = Figure("at_rest", f"{words}, a row", total / report.facts, "bytes")
        yield at_most(MOST_BYTES, at_rest) if targets and keys else at_rest
        largest = Counter(dict(parts.most_common(SHOWN)))
        largest["all else"] = parts.total() - largest.total()
        for part, size in largest.items():
            yield Figure("part", f"{case}, {part}, a row", size / report.facts, "bytes")
        # Some 300 MB are of the libraries, however many rows there are.
        if report.facts >= ENOUGH_ROWS:
            held = _served(store) / report.facts
            yield Figure("serving", f"{case}, resident, a row", held, "bytes")


def _part(path: Path) -> str:
    """What a file of a store is of: a memory and what of it, or the log."""
    if path.parts[0] != "memories":
        return path.parts[0]
    kind = path.name.partition("-")[0].partition(".")[0]
    return f"{path.parts[1]} {kind}"


def _served(store: Path) -> int:
    command = [sys.executable, "-m", "tests.benchmarks.scale_bytes", "serve", str(store)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    held: int = json.loads(done.stdout)
    return held


def serve(path: str) -> int:
    """Opens a store and searches; returns the bytes that are resident then and were not before."""
    before = resident("VmRSS")
    with memstore.open(path, read_only=True) as store:
        memory = store.memory("facts")
        rng = np.random.default_rng(0)
        slots = rng.integers(0, memory.describe().next_slot, 640)
        keys_QD = memory.gather(slots).keys_BD
        assert keys_QD is not None
        for batch_QD in np.array_split(np.asarray(keys_QD, np.float32), 10):
            memory.search(batch_QD, 32)
        return resident("VmRSS") - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("facts", nargs="+", type=int)
    parser.add_argument("--no-keys", dest="keys", action="store_false")
    told = parser.parse_args()
    for number in told.facts:
        for figure in measure(number, targets=False, keys=told.keys):
            print(figure, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        print(json.dumps(serve(sys.argv[2])))
    else:
        main()
