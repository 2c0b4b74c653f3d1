"""Rows where there is no room: a full disk, no addresses, and a process killed with its files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig
from tests.congruence.oracle import fingerprint, live_slots

ROOT = Path(__file__).parents[2]

PREAMBLE = """
import os, resource, signal, sys
import numpy as np
import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions
from memstore.errors import StorageFull
from tests.congruence.oracle import fingerprint

path, storage = sys.argv[1:]
D, V = 64, 8

def keys(rows, seed):
    return np.random.default_rng(seed).normal(size=(rows, D)).astype(np.float32)

def limit(kind, size):
    resource.setrlimit(kind, (size, resource.getrlimit(kind)[1]))

config = MemoryConfig(dim=D, value_dim=V, index="exact", storage=storage)
"""


def run(path: Path, storage: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + code, str(path), storage],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.parametrize("state", ["sgd", "adam"])
def test_mapped_rows_come_back(tmp_path: Path, state: Any) -> None:
    rng = np.random.default_rng(0)
    config = MemoryConfig(dim=5, value_dim=3, shards=2, optimizer=state, storage="mapped")
    with memstore.open(tmp_path) as store:
        memory = store.create("m", config)
        for rows in (3, 2_000):
            memory.append(rng.normal(size=(rows, 5)), rng.normal(size=(rows, 3)))
        some = rng.integers(10, 2_003, 500)
        memory.update(some, rng.normal(size=(500, 5)), rng.normal(size=(500, 3)))
        memory.erase([1, 7])
        before = fingerprint(memory)
        names = {path.name for path in tmp_path.iterdir()}
        assert names <= {"LOCK", "memstore.json", "memories", "logs"}
    with memstore.open(tmp_path) as store:
        memory = store.memory("m")
        assert memory.config.storage == "mapped"
        assert fingerprint(memory) == before
        memory.update(some, rng.normal(size=(500, 5)))
        memory.append(rng.normal(size=(4_000, 5)), rng.normal(size=(4_000, 3)))
        assert memory.describe().rows == 6_001


def test_nothing_is_left_of_the_files_of_a_killed_process(tmp_path: Path) -> None:
    code = """
store = memstore.open(path)
memory = store.create("m", config)
memory.append(keys(5_000, 0), keys(5_000, 1)[:, :V])
store.checkpoint()
memory.append(keys(50_000, 2), keys(50_000, 3)[:, :V])
memory.update(np.arange(9), keys(9, 4))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run(tmp_path, "mapped", code)
    assert done.returncode == -signal.SIGKILL, done.stderr
    files = [path for path in (tmp_path / "memories").rglob("*") if path.is_file()]
    assert {path.name.split("-")[0] for path in files} == {"blocks", "rows"}
    assert sum(path.stat().st_size for path in files) < 5_000 * 4 * 100
    with memstore.open(tmp_path) as store:
        assert live_slots(store.memory("m")).tolist() == list(range(55_000))


def test_a_full_disk_refuses_rows_and_leaves_the_others(tmp_path: Path) -> None:
    code = """
with memstore.open(path) as store:
    memory = store.create("m", config)
    memory.append(keys(1_000, 0), keys(1_000, 1)[:, :V])
    memory.update(np.arange(500), keys(500, 2))
    limit(resource.RLIMIT_FSIZE, 4 << 20)
    before = fingerprint(memory)
    for _ in range(2):
        try:
            memory.append(keys(100_000, 3), keys(100_000, 4)[:, :V])
        except StorageFull as error:
            assert error.retryable and "nothing was changed" in str(error), error
        else:
            raise AssertionError
    assert fingerprint(memory) == before
    # What still fits is taken, and all of it once there is room.
    rows = 9_000
    slots = memory.append(keys(rows, 5), keys(rows, 6)[:, :V])
    assert np.array_equal(memory.gather(slots).keys_BD, keys(rows, 5))
    limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    slots = memory.append(keys(100_000, 3), keys(100_000, 4)[:, :V])
    assert np.array_equal(memory.gather(slots).keys_BD, keys(100_000, 3))
    memory.update(slots, keys(100_000, 7))
print("done")
"""
    done = run(tmp_path, "mapped", code)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


def test_an_update_without_room_for_its_state_changes_nothing(tmp_path: Path) -> None:
    code = """
config = MemoryConfig(dim=4, value_dim=D, index="exact", storage=storage, optimizer="adagrad")
with memstore.open(path) as store:
    memory = store.create("m", config)
    memory.append(keys(20_000, 0)[:, :4], keys(20_000, 1))
    before = fingerprint(memory)
    limit(resource.RLIMIT_FSIZE, 2 << 20)  # enough for the state of keys, not of values
    for _ in range(2):
        try:
            memory.update(np.arange(9), keys(9, 2)[:, :4], keys(9, 3))
        except StorageFull:
            pass
        else:
            raise AssertionError
        after = fingerprint(memory)
        before.pop("row_versions", None), after.pop("row_versions")
        assert after == before
    limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    assert memory.update(np.arange(9), keys(9, 2)[:, :4], keys(9, 3)).applied == 9
print("done")
"""
    done = run(tmp_path, "mapped", code)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


@pytest.mark.parametrize("storage", ["memory", "mapped"])
def test_without_addresses_to_spare_rows_move_and_then_are_refused(
    tmp_path: Path, storage: str
) -> None:
    code = """
with memstore.open(path) as store:
    memory = store.create("m", config)
    memory.append(keys(10, 0), keys(10, 1)[:, :V])
    memory.search(keys(2, 0), 3)
    memory.gather([1])
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    memory = store.create("n", config)
    limit(resource.RLIMIT_AS, used + (400 << 20))
    slots = memory.append(keys(10, 0), keys(10, 1)[:, :V])
    view = memory.shards[0].rows.view
    for i in range(10):
        slots = memory.append(keys(2_000, i), keys(2_000, i)[:, :V])
        assert np.array_equal(memory.gather(slots).keys_BD, keys(2_000, i))
    table = memory.shards[0].rows
    assert table._regions["keys"].capacity < 100_000
    assert not np.shares_memory(view.keys_ND, table.keys_ND)
    assert np.array_equal(view.keys_ND, keys(10, 0))
    many, held = np.zeros((200_000, D), np.float32), memory.describe().rows
    values = np.zeros((200_000, V), np.float32)
    try:
        for _ in range(20):
            memory.append(many, values)
            held += len(many)
    except StorageFull as error:
        assert "nothing was changed" in str(error), error
    else:
        raise AssertionError
    assert memory.describe().rows == held > 20_010
    assert np.array_equal(memory.gather(slots).keys_BD, keys(2_000, 9))
    limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
    memory.append(many, values)
    store.drop("n")
print("done")
"""
    done = run(tmp_path, storage, code)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
