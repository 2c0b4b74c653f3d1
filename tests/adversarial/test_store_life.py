"""A store that is closed, dropped from, opened twice, killed, or was never one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memstore
from memstore import MemoryConfig
from memstore.errors import NotAStore, StoreClosed, StoreLocked, UnknownMemory
from tests.adversarial.damage import contents
from tests.adversarial.stores import MANIFEST, fill, fingerprints, keys, python


def test_a_closed_store_refuses_every_call(tmp_path: Path) -> None:
    store = memstore.open(tmp_path)
    fill(store)
    store.close()
    store.close()
    calls: list[Callable[[], Any]] = [
        store.list,
        lambda: store.memory("m"),
        lambda: store.drop("m"),
        lambda: store.create("n", MemoryConfig(dim=3)),
    ]
    for call in calls:
        with pytest.raises(StoreClosed):
            call()


def test_a_closed_store_makes_no_checkpoint(tmp_path: Path) -> None:
    store = memstore.open(tmp_path)
    fill(store)
    before = fingerprints(store)
    store.close()
    with pytest.raises(StoreClosed):
        store.checkpoint()
    with memstore.open(tmp_path) as again:
        assert fingerprints(again) == before


def test_a_memory_of_a_closed_store_takes_no_mutation(tmp_path: Path) -> None:
    store = memstore.open(tmp_path)
    memory = store.create("m", MemoryConfig(dim=3))
    store.close()
    with pytest.raises(StoreClosed):
        memory.append(keys())


def test_a_dropped_memory_takes_no_mutation(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=3))
        store.drop("m")
        with pytest.raises(UnknownMemory):
            memory.append(keys())


def test_a_name_is_free_again_after_its_memory_was_dropped(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        store.create("m", MemoryConfig(dim=3)).append(keys(2))
        store.checkpoint()
        store.drop("m")
        assert store.list() == []
        store.create("m", MemoryConfig(dim=4)).append(keys(2, 4))
        before = fingerprints(store)
    with memstore.open(tmp_path) as store:
        assert fingerprints(store) == before


def test_dropping_in_order_leaves_nothing(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        fill(store)
        store.checkpoint()
        for name in ("facts", "entities", "relations", "m"):
            store.drop(name)
    with memstore.open(tmp_path) as store:
        assert store.list() == []
    assert list((tmp_path / "memories").rglob("*")) == []


def test_reopening_keeps_the_drift(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        fill(store)
        store.memory("relations").write([3], keys())  # no fact has it
        store.memory("facts").refresh()
        store.checkpoint()
        store.memory("relations").write([3], keys(fill=2))
        store.checkpoint()
        assert store.memory("facts").refresh().encoded == 0
        assert store.memory("facts").describe().drift == 0.0
    with memstore.open(tmp_path) as store:
        assert store.memory("facts").describe().drift == 0.0


def test_facts_of_an_erased_part_are_refreshed_around(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        fill(store)
        store.memory("relations").erase([1])  # every fact's relation
        store.memory("entities").write([0], keys(fill=5))  # every fact's subject
        store.memory("facts").refresh()


def test_a_second_open_is_refused(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        fill(store)
        before = fingerprints(store)
        with pytest.raises(StoreLocked, match=str(os.getpid())) as caught:
            memstore.open(tmp_path)
        assert caught.value.retryable
        assert python(OPEN, tmp_path) == "StoreLocked"
        assert fingerprints(store) == before
    assert python(OPEN, tmp_path) == "opened"


OPEN = """
try:
    memstore.open(path).close()
    print("opened")
except memstore.MemstoreError as error:
    print(type(error).__name__)
"""

DIE = """
import os, signal
memory = memstore.open(path).memory("m")
memory.erase([0])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_owner_leaves_what_it_had_done(tmp_path: Path) -> None:
    for name in ("killed", "closed"):
        with memstore.open(tmp_path / name) as store:
            fill(store)
    with memstore.open(tmp_path / "closed") as store:
        store.memory("m").erase([0])
    python(DIE, tmp_path / "killed", -signal.SIGKILL)
    with memstore.open(tmp_path / "killed") as killed, memstore.open(tmp_path / "closed") as closed:
        assert fingerprints(killed) == fingerprints(closed)


def foreign_folder(path: Path) -> Path:
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    return path


def foreign_file(path: Path) -> Path:
    path.write_text("mine")
    return path


def below_a_file(path: Path) -> Path:
    return foreign_file(path) / "store"


@pytest.mark.parametrize(
    "make",
    [
        foreign_folder,
        foreign_file,
        pytest.param(below_a_file),
    ],
)
def test_what_is_no_store_is_left_alone(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "x")
    before = contents(tmp_path)
    with pytest.raises(NotAStore):
        memstore.open(path)
    assert contents(tmp_path) == before


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "LOCK").touch()
    with memstore.open(tmp_path) as store:
        assert store.list() == []


def test_a_store_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "LOCK").touch()
    (tmp_path / f"{MANIFEST}.new").write_text('{"crc32": 1')
    with memstore.open(tmp_path) as store:
        assert store.list() == []
