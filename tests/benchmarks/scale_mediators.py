"""Ingesting as many facts as FB5M has past mediators, beside ingesting the same lines as they are.

What these facts are, and how many of them are at mediators, `tests.benchmarks.mediated` says. Who
makes them counts and sums, fact by fact, what a plain join leaves; all that lies in the store of an
ingest past the mediators is read and summed likewise. Whoever makes or ingests is a process of its
own, and its peak all that was resident, libraries and mapped files included. Rows are of float16,
keys are not stored, and there is no index: it knows of no mediators.

    python -m tests.benchmarks.scale_mediators 1000000       # another number of facts
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import memstore
from memstore.memory import Memory
from tests.benchmarks.mediated import NAMED, SOURCES, ends, hashed, hashes, summed, write
from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.runner import Figure, at_least, at_most
from tests.benchmarks.synthetic import FULL, LIKE
from workers.ingest import Layout, Reading, ingest, joining

QUICK = 100_000

LEAST_RATE, MOST_BYTES = 100_000, 14 << 30

LAYOUT = Layout(dtype="float16", stored=False, index="none")

READ = 1 << 20
"""Rows of a store that are read at a time."""

STAGES = ("Listing", "Reading", "Joining", "Merging", "Numbering", "Grouping", "Loading")
"""What an ingest tells first of what it does."""

SIDES = ("joined", "alone", "crowded")
"""Of a report: the facts at one mediator."""

JUDGED = ("lines", "mediators", *joining.COUNTED, "between", "entities", "facts", "sum")
"""Of a report, or of the store, what must be as a plain join has it."""


def run(quick: bool) -> Iterator[Figure]:
    """Measures FB5M's number of facts, or about a two-hundredth."""
    yield from measure(QUICK if quick else FULL, targets=not quick)


def measure(facts: int, *, targets: bool) -> Iterator[Figure]:
    """Measures so many facts, of which files are made."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".mediators-") as folder:
        made, past, plain = (_alone(mode, facts, folder) for mode in ("make", "past", "plain"))
    wanted, found = made["told"], past["told"]
    facts = wanted["lines"]
    share = sum(wanted[name] for name in SIDES) / facts
    case = f"{facts:,} facts like {LIKE}, {share:.1%} at {wanted['mediators']:,} mediators"
    yield Figure("making_rate", f"{case}, made and written", facts / made["seconds"], "facts/s")
    yield Figure("making_peak", f"{case}, made and written", made["peak"], "bytes")
    for words, figures in (("past these", past), ("as they are", plain)):
        rate = Figure("ingest_rate", f"{case}, {words}", facts / figures["seconds"], "lines/s")
        peak = Figure("ingest_peak", f"{case}, {words}", figures["peak"], "bytes")
        yield at_least(LEAST_RATE, rate) if targets and figures is past else rate
        yield at_most(MOST_BYTES, peak) if targets else peak
    beside = f"{case}, past these; peer: as they are"
    yield Figure(
        "beside_plain", beside, facts / past["seconds"], "lines/s", facts / plain["seconds"]
    )
    # What other work on the machine changes least.
    micros, peer = (each["cpu_s"] / facts * 1e6 for each in (past, plain))
    yield Figure("ingest_cpu", f"{beside}, of all threads", micros, "µs/line", peer)
    for stage in STAGES:
        seconds, peer = past["stages"][stage], plain["stages"].get(stage)
        yield Figure("stage_s", f"{beside}, {stage.lower()}", seconds, "s", peer)
    beside = f"{case}, past these; peer: a plain join"
    for name in (*SIDES, "made", "between", "entities", "facts"):
        yield Figure(name, beside, found[name], "", wanted[name] or None)
    same = sum(found[name] == wanted[name] for name in JUDGED) / len(JUDGED)
    yield at_least(1, Figure("as_joined", f"{case}, {len(JUDGED)} counts and sums", same, "share"))


def _alone(mode: str, facts: int, folder: str) -> dict[str, Any]:
    module = "tests.benchmarks.scale_mediators"
    command = [sys.executable, "-m", module, "--mode", mode, "--folder", folder, str(facts)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def once(mode: str, facts: int, folder: Path) -> dict[str, Any]:
    """Makes the files, or ingests them past mediators or plain; returns its seconds and its peak,
    and what was counted."""
    start = time.perf_counter()
    if mode == "make":
        told = write(facts, folder)
        return {"told": told} | _spent(start)
    begun, stages = [("", start)], defaultdict[str, float](float)

    def tell(what: str, done: int, total: int) -> None:
        stage, since = begun.pop()
        begun.append((what.partition(" ")[0], time.perf_counter()))
        stages[stage] += begun[0][1] - since
        print(what, done, total, file=sys.stderr, flush=True)

    reading = Reading(mediators=str(folder / NAMED) if mode == "past" else "")
    sources = [folder / name for name in SOURCES]
    with tempfile.TemporaryDirectory(dir=folder) as into:
        store = Path(into) / "store"
        report = ingest(sources, store, reading=reading, layout=LAYOUT, progress=tell)
        tell("closed", 1, 1)
        found = _spent(start) | {"stages": stages}
        return found | {"told": asdict(report) | kept(store)}


def _spent(start: float) -> dict[str, float]:
    return {
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time(),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }


def kept(path: Path) -> dict[str, int]:
    """Of all facts in a store, an object each: how many there are, and the sum of their hashes."""
    count = total = 0
    with memstore.open(path, read_only=True) as store:
        named = (ends(names) for (names,) in _read(store.memory("entities"), "name"))
        entities = np.concatenate([np.empty(0, np.uint64), *named])
        named = (hashes(names.to_pylist()) for (names,) in _read(store.memory("relations"), "name"))
        relations = np.concatenate([np.empty(0, np.uint64), *named])
        columns = ("subject", "relation", "objects")
        for subject, relation, lists in _read(store.memory("facts"), *columns):
            row, objects = pc.list_parent_indices(lists).to_numpy(), lists.flatten().to_numpy()
            facts = hashed(
                entities[subject.to_numpy()[row]],
                relations[relation.to_numpy()[row]],
                entities[objects],
            )
            count, total = count + len(facts), total + summed(facts)
    return {"facts": count, "sum": total % 2**64}


def _read(memory: Memory, *columns: str) -> Iterator[list[pa.Array]]:
    rows = memory.describe().next_slot
    for first in range(0, rows, READ):
        slots = np.arange(first, min(first + READ, rows))
        records = memory.gather(slots, vectors=False, columns=columns).records
        assert records is not None
        yield [records[name].combine_chunks() for name in columns]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("facts", nargs="*", type=int, help="numbers of facts")
    parser.add_argument("--mode", choices=("make", "past", "plain"), help="one process of these")
    parser.add_argument("--folder", type=Path)
    told = parser.parse_args()
    for facts in told.facts:
        if told.mode is not None:
            print(json.dumps(once(told.mode, facts, told.folder)))
            continue
        for figure in measure(facts, targets=False):
            print(figure, flush=True)


if __name__ == "__main__":
    main()
