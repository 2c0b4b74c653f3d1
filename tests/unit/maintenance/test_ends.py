"""Jobs end with their memory, their store and their process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import memstore
from memstore import Store
from memstore.errors import StoreClosed
from memstore.index import clustered
from memstore.index.segment import Segment
from tests.congruence.oracle import settle
from tests.unit.maintenance.jobs import Gate, check, eventually, keys, make, state, threads


def test_closing_stops_a_job_at_the_next_rows_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memstore.open(tmp_path)
    memory = make(store, 300)
    monkeypatch.setattr(clustered, "BLOCK_ROWS", 1)
    read = 0
    real = Segment.add

    def slow(*arguments: Any) -> None:
        nonlocal read
        read += 1
        time.sleep(0.05)
        real(*arguments)

    monkeypatch.setattr(Segment, "add", slow)
    memory.append(keys(120, 1))
    eventually(lambda: read > 1)
    store.close()
    assert read < 100
    assert threads() == []
    with pytest.raises(StoreClosed):
        memory.append(keys(1))
    monkeypatch.undo()
    with memstore.open(tmp_path, read_only=True) as store:
        memory = store.memory("m")
        assert state(memory).fresh == 120
        check(memory)
    with memstore.open(tmp_path) as store:
        memory = store.memory("m")
        settle(memory)
        assert state(memory).fresh == 0


def test_dropping_a_memory_ends_its_threads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = make(store, 300)
    gate = Gate(monkeypatch, clustered, "seal")
    memory.append(keys(40, 1))
    gate.wait()
    threading.Timer(0.05, gate.open).start()
    store.drop("m")
    assert threads() == []


FORGOTTEN = """
import sys, numpy as np, memstore
from memstore import IndexConfig, MemoryConfig
store = memstore.open(sys.argv[1])
memory = store.create("m", MemoryConfig(dim=32, index=IndexConfig(fresh_limit=1_000)))
for _ in range(8):
    memory.append(np.random.default_rng(0).normal(size=(10_000, 32)).astype(np.float32))
print("done", flush=True)
"""


def test_a_store_that_is_not_closed_keeps_no_process_alive(tmp_path: Path) -> None:
    code = [sys.executable, "-c", textwrap.dedent(FORGOTTEN), str(tmp_path / "store")]
    done = subprocess.run(code, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
