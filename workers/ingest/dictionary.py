"""Stage 2: one dictionary of all runs, range by range: number i is the i-th name, by its bytes.

names/KIND.npy                int64 [ranges + 1, runs]: where the ranges begin in the runs
names/KIND-RANGE.arrow        the names of a range, rising
names/KIND-RANGE.npy          int32: of each name that each run has there, which of those it is
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from workers.ingest import cutting, keeping
from workers.ingest.runs import ranked


def cut(work: Path, kind: str, runs: Sequence[str], most_bytes: int) -> int:
    """Cuts the names of the runs into ranges of about so many bytes; returns how many."""
    path = work / "names" / f"{kind}.npy"
    if not path.exists():
        bounds = cutting.bounds(
            len(runs),
            lambda number: _of_run(work, kind, runs[number]),
            most_bytes,
            lambda names, place: names[place].as_py(),
        )
        keeping.put_array(path, bounds)
    return len(keeping.array(path)) - 1


def merge(work: Path, kind: str, runs: Sequence[str], number: int) -> int:
    """Makes the dictionary of one range; returns how many names it has."""
    stem = work / "names" / f"{kind}-{number:06}"
    if not stem.with_suffix(".npy").exists():
        bounds = keeping.array(work / "names" / f"{kind}.npy")
        parts = [
            keeping.copied(_of_run(work, kind, run)[first:last])
            for run, first, last in zip(runs, bounds[number], bounds[number + 1], strict=True)
            if first < last
        ]
        names, ranks = ranked(pa.concat_arrays(parts) if parts else pa.array([], pa.string()))
        keeping.put_table(stem.with_suffix(".arrow"), pa.table({"name": names}))
        keeping.put_array(stem.with_suffix(".npy"), ranks)
        del parts, names, ranks
        keeping.give_back()
    return len(keeping.column(stem.with_suffix(".arrow")))


def numbers(work: Path, kind: str, run: int, firsts: np.ndarray) -> np.ndarray:
    """The number among all of each name of a run, int64.

    run: its place among the runs.  firsts: the number of the first name of each range.
    """
    bounds = keeping.array(work / "names" / f"{kind}.npy")
    parts = [np.empty(0, np.int64)]
    for number, first in enumerate(firsts.tolist()):
        lengths = bounds[number + 1] - bounds[number]
        start = int(lengths[:run].sum())
        ranks = keeping.array(work / "names" / f"{kind}-{number:06}.npy")
        parts.append(ranks[start : start + int(lengths[run])] + np.int64(first))
    return np.concatenate(parts)


def names_between(work: Path, kind: str, firsts: np.ndarray, first: int, last: int) -> pa.Array:
    """The names of a range of numbers.  firsts: as above, and behind the last the count of all."""
    parts = [pa.array([], pa.string())]
    for number, start in enumerate(firsts[:-1].tolist()):
        end = int(firsts[number + 1])
        if start < last and first < end:
            column = keeping.column(work / "names" / f"{kind}-{number:06}.arrow")
            parts.append(column[max(first - start, 0) : last - start])
    return pa.concat_arrays(parts)


def _of_run(work: Path, kind: str, run: str) -> pa.Array:
    return keeping.column((work / "runs" / run).with_suffix(f".{kind}.arrow"))
