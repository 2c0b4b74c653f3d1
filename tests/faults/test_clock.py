"""A clock that jumps: nothing that is durable goes by it, nor by the times of files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore.durable.verify import verify
from tests.faults.changes import Script, change, config, died, expected, told

CHANGES = 60
YEAR_S = 365 * 86_400


def test_a_clock_that_jumps_by_years(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(time, "time", lambda: float(rng.uniform(-80, 80) * YEAR_S))
    how, script, path = config("float32", "logged", "adam", 2), Script(), tmp_path / "store"
    store = memstore.open(path)
    memory = store.create("m", how)
    for number in range(CHANGES):
        change(memory, script)
        if number % 13 == 5:
            store.mark(f"at-{number}")
        if number % 20 == 19:
            died(store)
            for file in path.rglob("*"):
                os.utime(file, (0, float(rng.uniform(0, 80) * YEAR_S)))
            assert list(verify(path)) == []
            store = memstore.open(path)
            memory = store.memory("m")
    store.snapshot(tmp_path / "snapshots")
    store.close()
    memstore.restore(tmp_path / "snapshots", tmp_path / "restored")
    for again in (path, tmp_path / "restored"):
        with memstore.open(again) as store:
            assert told(store.memory("m")) == expected(
                tmp_path / f"beside-{again.name}", how, CHANGES
            )
