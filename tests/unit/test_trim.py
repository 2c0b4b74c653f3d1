"""Trimming: a process gives back what it freed, though something stands behind it, and what
memories held that are gone."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, IndexConfig, MemoryConfig
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


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile, as in a server that left what it has out."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("ends", ["closed", "dropped"])
@pytest.mark.parametrize("kind", ["auto", "graph", "exact", "sums"])
def test_what_memories_held_is_let_go_of_with_them(tmp_path: Path, kind: str, ends: str) -> None:
    with memstore.open(tmp_path) as store:
        store.create("parts", MemoryConfig(dim=4, index="none")).append(np.ones((9, 4)))
        encoding = EncodingConfig(key={"part": "parts"}, stored=kind != "sums")
        kind_of_index: Any = "clustered" if kind == "sums" else kind
        index = IndexConfig(kind=kind_of_index, clusters=2)
        config = MemoryConfig(dim=4, records={"part": "int64"}, encoding=encoding, index=index)
        facts = store.create("facts", config)
        facts.append(records={"part": [*range(9)] * 100})
        facts.reindex()
        facts.search(np.ones((2, 4)), 3)
        memories = [base_of(store._contents.find(name)) for name in store.list()]
        shards = [memory.shards[0] for memory in memories]
        held = [weakref.ref(each) for s in shards for each in (s.rows, s.index, s.records)]
        del shards
        # What was compiled for the first time left errors behind, and these what they looked at.
        gc.collect()
        if ends == "dropped":
            store.drop("facts")
            assert [each() is None for each in held] == [True] * 3 + [False] * 3
    assert [each() for each in held] == [None] * 6
    for memory in (facts, *memories):
        with pytest.raises((StoreClosed, UnknownMemory)):
            memory.gather([0])
        with pytest.raises((StoreClosed, UnknownMemory)):
            memory.reindex()


@pytest.mark.usefixtures("uncollected")
def test_what_is_read_while_its_memory_goes_is_read_to_its_end(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=4))
        memory.append(np.ones((9, 4)))
        [shard] = base_of(store._contents.find("m")).shards
        store.drop("m")
        assert shard.rows.view.keys(np.arange(9)).sum() == 36
        with pytest.raises(StoreClosed):
            shard.reindex()
