"""An ingest holds no more than it may of sources, names and facts that are far larger."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

import memstore

ROOT = Path(__file__).parents[2]
BUDGET = 32 << 20

SLACK = 8 << 20
"""What libraries keep that were not wholly warm."""


def write_large(path: Path, count: int, entities: int) -> pa.Array:
    """Writes a table of facts whose names have a hundred bytes; returns the names."""
    rng = np.random.default_rng(0)
    numbers = pa.array(np.arange(entities)).cast(pa.string())
    names = pc.binary_join_element_wise("n" * 100, pc.utf8_lpad(numbers, 9, "0"), "-")
    columns = [names.take(pa.array(rng.integers(0, entities, count))) for _ in range(2)]
    relations = pa.array(rng.integers(0, 50, count)).cast(pa.string())
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    table = pa.table([columns[0], relations, columns[1]], names=list("sro"))
    csv.write_csv(table, path, options)
    return names


def peak(*arguments: Path) -> int:
    """The bytes that an ingest held at most.  arguments: source, store, file of mediators."""
    source, into, *named = map(str, arguments)
    command = [sys.executable, "-m", "tests.ingest.measured", source, into, str(BUDGET), *named]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


def test_a_small_budget_is_kept_by_a_large_source(tmp_path: Path) -> None:
    source, into = tmp_path / "facts.tsv", tmp_path / "store"
    write_large(source, 500_000, 350_000)
    assert source.stat().st_size > 3 * BUDGET
    assert 0 < peak(source, into) <= BUDGET + SLACK
    with memstore.open(into) as store:
        # All names but those that chance left out, far more bytes than the budget.
        assert store.memory("entities").describe().rows > 300_000


def test_a_small_budget_is_kept_by_many_mediators(tmp_path: Path) -> None:
    source, into, named = (tmp_path / name for name in ("facts.tsv", "store", "named"))
    names = write_large(source, 500_000, 350_000).take(pa.array(np.arange(0, 350_000, 2)))
    named.write_text("\n".join(names.to_pylist()))
    assert 0 < peak(source, into, named) <= BUDGET + SLACK
