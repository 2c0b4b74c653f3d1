"""Trimming: a process gives back what it freed, though something stands behind it, and what
memories held that are gone."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, trim
from memstore.durable.checkpoints import base_of
from memstore.errors import StoreClosed, UnknownMemory

GLIBC = hasattr(ctypes.CDLL(None), "mallopt")

LEAVES = """
import threading
from pathlib import Path

import numpy as np

from memstore.trim import keep_little

MIB = 1 << 20


def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def work(kept):
    for _ in range(4):
        passing = np.ones(8 * MIB, np.uint8)
        kept.append(np.ones(50_000, np.uint8))  # stands behind it from now on
        del passing


keep_little()
np.ones(20 * MIB, np.uint8)  # from here on glibc by itself maps nothing smaller apart
before, kept = anonymous(), []
for _ in range(4):
    thread = threading.Thread(target=work, args=(kept,))
    thread.start()
    thread.join()
print(anonymous() - before)
"""


def left_mib(**variables: str) -> float:
    ours = {name: text for name, text in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", LEAVES]
    done = subprocess.run(command, env=ours | variables, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="glibc alone is told")
def test_what_was_freed_is_given_back_though_something_stands_behind_it() -> None:
    assert left_mib() < 6


@pytest.mark.skipif(not GLIBC, reason="glibc alone is told")
def test_who_sets_the_allocator_has_it_that_way() -> None:
    assert left_mib(MALLOC_PERTURB_="0") > 8


@pytest.mark.parametrize("ends", ["closed", "dropped"])
@pytest.mark.parametrize("stored", [True, False])
def test_what_memories_held_is_let_go_of_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, *, stored: bool
) -> None:
    monkeypatch.setattr(trim, "WORTH_BYTES", 1)
    with memstore.open(tmp_path) as store:
        store.create("parts", MemoryConfig(dim=4, index="none")).append(np.ones((9, 4)))
        encoding = EncodingConfig(key={"part": "parts"}, stored=stored)
        config = MemoryConfig(dim=4, records={"part": "int64"}, encoding=encoding)
        store.create("facts", config).append(records={"part": [*range(9)]})
        memories = [base_of(store._contents.find(name)) for name in store.list()]
        held = [weakref.ref(memory.shards[0].rows) for memory in memories]
        if ends == "dropped":
            store.drop("facts")
            assert [rows() is None for rows in held] == [True, False]
    assert [rows() for rows in held] == [None, None]
    for memory in memories:
        with pytest.raises((StoreClosed, UnknownMemory)):
            memory.live_slots()
