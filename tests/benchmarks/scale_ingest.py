"""Ingesting as many facts as Freebase FB5M has, with and without an index, beside the least that
must be done.

The peer reads the same file by Arrow, numbers its names by pandas.factorize, sorted, and groups
its facts by one sort in numpy, all in memory; it loads and keeps nothing. Beside it stands what
an ingest does until its facts are grouped, files on disk that outlive a kill among it. Each is a
process of its own; its peak is all that was resident, libraries and a mapped source included.

One more ingest is killed in three of its stages, each time begun again, and told beside the one
that was left alone. Real Freebase triples stand beside the made ones where they are: see
`models.tasks.data`.

    python -m tests.benchmarks.scale_ingest 1000000       # another number of facts
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from models.tasks.data import DataMissing, require
from models.tasks.synthetic_files import write_facts
from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.runner import Figure, Measured, Missing, at_least, at_most
from tests.benchmarks.synthetic import FULL, LIKE, base_of
from workers.ingest import Layout, Reading, ingest

QUICK = 350_000

LEAST_RATE, MOST_BYTES, MOST_KILLED = 100_000, 14 << 30, 1.5

KILLED = ("Merging entities", "Grouping facts", "Loading facts")
"""Stages in which an ingest is killed, at what they tell second."""

BETWEEN = " "
"""Objects of one row."""


def run(quick: bool) -> Iterator[Measured]:
    """Measures FB5M's number of facts, or a 64th, and real ones where they are."""
    yield from made(QUICK if quick else FULL, targets=not quick)
    try:
        real = require("freebase/triples.tsv")
    except DataMissing as missing:
        yield Missing("freebase", str(missing))
        return
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".ingest-") as folder:
        yield from measure(real, Path(folder), "real Freebase triples", targets=False)


def made(facts: int, *, targets: bool) -> Iterator[Figure]:
    """Measures so many facts, of which a file is made."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".ingest-") as folder:
        source = Path(folder) / "facts.txt"
        write_facts(base_of(facts), source)
        yield from measure(source, Path(folder), f"{facts:,} facts like {LIKE}", targets=targets)


def measure(source: Path, folder: Path, words: str, *, targets: bool) -> Iterator[Figure]:
    """Measures the facts of a file.  words: what these are."""
    peer, plain, indexed = (_alone(mode, source, folder) for mode in ("peer", "none", "clustered"))
    facts, rate = plain["facts"], "facts/s"
    yield Figure(
        "prepare_rate",
        f"{words}, until grouped; peer: Arrow, pandas.factorize, one sort, in memory",
        facts / plain["grouped_s"],
        rate,
        facts / peer["seconds"],
    )
    for name, figures in (("no index", plain), ("a clustered index", indexed)):
        case = f"{words}, {name}"
        whole = Figure("ingest_rate", f"{case}, until closed", facts / figures["seconds"], rate)
        peak = Figure("ingest_peak", case, figures["peak"], "bytes")
        if targets:
            whole, peak = at_least(LEAST_RATE, whole), at_most(MOST_BYTES, peak)
        yield whole
        yield peak
        # What other work on the machine changes least.
        words_cpu = f"{case}, of all threads; peer: as above"
        micros, least = (each["cpu_s"] / facts * 1e6 for each in (figures, peer))
        yield Figure("ingest_cpu", words_cpu, micros, "µs/fact", least)
    yield Figure("peer_peak", words, peer["peak"], "bytes")
    case = f"{words}, a clustered index, killed in {len(KILLED)} stages; peer: left alone"
    killed = Figure("killed_s", case, _killed(source, folder), "s", indexed["whole_s"])
    yield at_most(MOST_KILLED, killed) if targets else killed


def _command(mode: str, source: Path, into: str | Path) -> list[str]:
    module = "tests.benchmarks.scale_ingest"
    return [sys.executable, "-m", module, "--mode", mode, str(source), str(into)]


def _alone(mode: str, source: Path, folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as into:
        done = subprocess.run(
            _command(mode, source, into), cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found | {"whole_s": time.perf_counter() - start}


def _killed(source: Path, folder: Path) -> float:
    """Kills an ingest in some stages; returns the seconds until it is whole."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as into:
        for stage in (*KILLED, None):
            with subprocess.Popen(
                _command("clustered", source, into),
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            ) as child:
                told, line = 0, ""
                for line in child.stderr or ():
                    told += stage is not None and line.startswith(stage)
                    if told == 2:
                        child.kill()
                        break
            if (child.returncode == 0) is not (stage is None):
                raise RuntimeError(
                    f"an ingest to be killed in {stage} ended with {child.returncode}: {line}"
                )
    return time.perf_counter() - start


def once(mode: str, source: Path, into: Path) -> dict[str, float]:
    """Does one of them; returns its seconds and its peak."""
    start = time.perf_counter()
    found = dict[str, float]()
    if mode == "peer":
        group(source)
    else:

        def told(what: str, done: int, total: int) -> None:
            if what == "Loading entities":
                found.setdefault("grouped_s", time.perf_counter() - start)
            print(what, done, total, file=sys.stderr, flush=True)

        reading = Reading(format="tsv", separator=BETWEEN)
        layout = Layout(index=mode)
        report = ingest([source], into / "store", reading=reading, layout=layout, progress=told)
        found["facts"] = report.given
    found["seconds"] = time.perf_counter() - start
    found["cpu_s"] = time.process_time()
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return found


def group(source: Path) -> int:
    """Reads and groups facts in memory; returns how many rows they make."""
    import pandas as pd

    table = csv.read_csv(
        source,
        csv.ReadOptions(column_names=["s", "r", "o"]),
        csv.ParseOptions(delimiter="\t", quote_char=False),
        csv.ConvertOptions(column_types={name: pa.string() for name in "sro"}),
    ).combine_chunks()
    listed = pc.split_pattern(table["o"].combine_chunks(), BETWEEN)
    row = pc.list_parent_indices(listed).to_numpy()
    both = pa.chunked_array([*table["s"].chunks, listed.flatten()])
    names, entities = pd.factorize(pd.array(both, dtype="string[pyarrow]"), sort=True)
    used, relations = pd.factorize(pd.array(table["r"], dtype="string[pyarrow]"), sort=True)
    of_rows = names[: len(table)] * len(relations) + used
    facts = np.unique(of_rows[row] * len(entities) + names[len(table) :])
    return int(np.count_nonzero(np.diff(facts // len(entities), prepend=-1)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("facts", nargs="*", help="numbers of facts; of a mode, SOURCE and INTO")
    parser.add_argument("--mode", choices=("peer", "none", "clustered"), help="one ingest, alone")
    told = parser.parse_args()
    if told.mode is not None:
        source, into = map(Path, told.facts)
        print(json.dumps(once(told.mode, source, into)))
        return
    for facts in map(int, told.facts):
        for figure in made(facts, targets=False):
            print(figure, flush=True)


if __name__ == "__main__":
    main()
