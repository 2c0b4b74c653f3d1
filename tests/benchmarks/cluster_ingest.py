"""Ingesting a table of facts, with and without an index, beside the least that must be done.

The peer reads the same file by Arrow, numbers its names by pandas.factorize, sorted, and groups
its facts by one sort in numpy, all in memory; it loads and keeps nothing. Beside it stands what
an ingest does until its facts are grouped, files on disk that outlive a kill among it. Each is a
process of its own; its peak is all that was resident, libraries and a mapped source included.

The full run has the published figures of Freebase FB5M: 22.4 million facts in 12.0 million rows
for a subject and relation, 4.9 million entities, 7,523 relations. The names are made up. Real
Freebase triples are beside it where they are: see `models.tasks.data`.
"""

from __future__ import annotations

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
from pyarrow import csv

from models.tasks.data import DataMissing, require
from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.runner import Figure, Measured, Missing, at_least, at_most
from workers.ingest import Layout, Reading, ingest

FACTS, ENTITIES, RELATIONS = 22_441_880, 4_904_397, 7_523
QUICK = 64
"""By how much the quick run is smaller."""

OBJECTS = 1.87
"""A row has on average."""

BLOCK = 1 << 20
LEAST_RATE, MOST_BYTES = 100_000, 14 << 30


def run(quick: bool) -> Iterator[Measured]:
    """Measures a made table, and a real one where it is."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".ingest-") as folder:
        made = Path(folder) / "made.tsv"
        by = QUICK if quick else 1
        given = write(made, FACTS // by, ENTITIES // by, max(RELATIONS // by, 100))
        words = f"{given:,} facts as of Freebase FB5M{f' / {by}' if quick else ''}"
        yield from _measured(made, Path(folder), words, targets=not quick)
        try:
            real = require("freebase/triples.tsv")
        except DataMissing as missing:
            yield Missing("freebase", str(missing))
            return
        yield from _measured(real, Path(folder), "real Freebase triples", targets=False)


def write(path: Path, facts: int, entities: int, relations: int) -> int:
    """Makes a table of about so many facts; returns how many lines it has."""
    rng = np.random.default_rng(0)
    names = pa.array([f"/m/0{number:06x}" for number in rng.permutation(entities).tolist()])
    used = pa.array([f"/domain_{n % 83}/type_{n % 997}/property_{n}" for n in range(relations)])
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    rows, lines = round(facts / OBJECTS), 0
    with path.open("wb") as file:
        for first in range(0, rows, BLOCK):
            count = min(BLOCK, rows - first)
            # Two fifths of the entities are subjects; a few relations own most of the rows.
            subject = rng.integers(0, max(entities * 2 // 5, 1), count)
            relation = (relations * rng.random(count) ** 6).astype(np.int64)
            row = np.repeat(np.arange(count), rng.geometric(1 / OBJECTS, count))
            objects = (entities * rng.random(len(row)) ** 2).astype(np.int64)
            columns = [subject[row], relation[row], objects]
            texts = [
                source.take(pa.array(column))
                for source, column in zip((names, used, names), columns, strict=True)
            ]
            csv.write_csv(pa.table(texts, names=["s", "r", "o"]), file, options)
            lines += len(row)
    return lines


def _measured(source: Path, folder: Path, words: str, *, targets: bool) -> Iterator[Measured]:
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


def _alone(mode: str, source: Path, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.cluster_ingest", mode, str(source)]
    with tempfile.TemporaryDirectory(dir=folder) as into:
        done = subprocess.run(
            [*command, into], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(mode: str, source: str, into: str) -> None:
    """Does one of them, and tells its seconds and its peak."""
    start = time.perf_counter()
    found = dict[str, float]()
    if mode == "peer":
        group(Path(source))
    else:

        def told(what: str, done: int, total: int) -> None:
            if what == "Loading entities":
                found.setdefault("grouped_s", time.perf_counter() - start)
            print(what, done, total, file=sys.stderr)

        report = ingest(
            [source],
            Path(into) / "store",
            reading=Reading(format="tsv"),
            layout=Layout(index=mode),
            progress=told,
        )
        found["facts"] = report.given
    found["seconds"] = time.perf_counter() - start
    found["cpu_s"] = time.process_time()
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps(found))


def group(source: Path) -> int:
    """Reads and groups facts in memory; returns how many rows they make."""
    import pandas as pd

    table = csv.read_csv(
        source,
        csv.ReadOptions(column_names=["s", "r", "o"]),
        csv.ParseOptions(delimiter="\t", quote_char=False),
        csv.ConvertOptions(column_types={name: pa.string() for name in "sro"}),
    )
    both = pa.chunked_array([*table["s"].chunks, *table["o"].chunks])
    names, entities = pd.factorize(pd.array(both, dtype="string[pyarrow]"), sort=True)
    used, relations = pd.factorize(pd.array(table["r"], dtype="string[pyarrow]"), sort=True)
    facts = (names[: len(table)] * len(relations) + used) * len(entities) + names[len(table) :]
    facts = np.unique(facts)
    return int(np.count_nonzero(np.diff(facts // len(entities), prepend=-1)))


if __name__ == "__main__":
    main(*sys.argv[1:])
