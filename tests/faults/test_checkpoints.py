"""Checkpoints: what they write, when they are made, and what is lost where they fail: nothing."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, MemoryConfig, files
from memstore import store as store_module
from memstore.durable.checkpoints import base_of
from memstore.durable.verify import verify
from memstore.embedded import EmbeddedMemory
from memstore.errors import LogFailed, StorageFull
from memstore.index import saving
from memstore.shard import blocks
from memstore.shard.log import Log
from tests.congruence.oracle import fingerprint
from tests.faults.changes import (
    Script,
    change,
    config,
    died,
    expected,
    told,
)


def test_a_checkpoint_empties_the_log(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", MemoryConfig(dim=64))
        memory.append(np.ones((1_000, 64)))
    with memstore.open(tmp_path / "store") as store:
        assert store.memory("m").describe().shards[0].rows == 1_000
        sizes = [path.stat().st_size for path in (tmp_path / "store" / "logs").rglob("*.seg")]
    assert len(sizes) == 1
    assert sizes[0] < 1_000


def test_a_checkpoint_writes_what_has_changed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    how = MemoryConfig(dim=32, records={"year": "int64"}, index=IndexConfig(maintenance="inline"))
    with memstore.open(tmp_path) as store:
        memory = store.create("m", how)
        memory.append(rng.normal(size=(30_000, 32)), records={"year": np.arange(30_000)})
        store.checkpoint()
        before = newest(tmp_path)
        memory.update([5, 6, 29_999], np.ones((3, 32)), lr=0.1)
        store.checkpoint()
        after = newest(tmp_path)
        # Two blocks of thirty, each of the rows and, for the first time, of the optimizer's state.
        assert after["blocks"][1] < before["blocks"][1] / 5
        assert after["rows"] != before["rows"]
        for kept in ("codebook", "segment", "records", "lines"):
            assert after[kept] == before[kept]
        memory.erase([7])
        memory.append(rng.normal(size=(1, 32)), records={"year": [7]})
        expected = fingerprint(memory)
    with memstore.open(tmp_path) as store:
        assert fingerprint(store.memory("m")) == expected
        store.memory("m").update(np.arange(8, 3_000), np.ones((2_992, 32)), lr=0.1)
        expected = fingerprint(store.memory("m"))
    with memstore.open(tmp_path) as store:
        assert fingerprint(store.memory("m")) == expected


def test_a_checkpoint_holds_nothing_that_the_index_lets_go_of(tmp_path: Path) -> None:
    how = MemoryConfig(dim=8, index=IndexConfig(maintenance="inline"))
    with memstore.open(tmp_path) as store:
        memory = store.create("m", how)
        memory.append(np.random.default_rng(0).normal(size=(5_000, 8)))
        memory.reindex()
        store.checkpoint()
        lists = weakref.ref(base_of(memory).shards[0].index.version.segments[0].lists)  # type: ignore[arg-type]
        memory.reindex()
        assert lists() is None


def newest(folder: Path) -> dict[str, tuple[str, int]]:
    """Name and bytes of the newest file of each kind."""
    files = sorted((folder / "memories").rglob("*-*.*"))
    return {path.name.split("-")[0]: (path.name, path.stat().st_size) for path in files}


def test_checkpoints_are_made_when_much_was_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "LOOK_S", 0.02)
    write = blocks.write
    failures = [OSError(28, "the disk is full"), OSError(5, "it is broken"), MemoryError()]

    def failing(*arguments: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return write(*arguments)

    with memstore.open(tmp_path / "store", log_bytes=50_000) as store:
        memory = store.create("m", config("float32", "logged", "adagrad", 2))
        monkeypatch.setattr(blocks, "write", failing)
        number, script = checkpoint_of(tmp_path), Script()
        while checkpoint_of(tmp_path) == number:
            change(memory, script)
            assert script.number < 10_000
        assert ["failed" in record.message for record in caplog.records] == [True] * 3
        quiet = checkpoint_of(tmp_path)
        time.sleep(0.2)
        assert checkpoint_of(tmp_path) <= quiet + 1  # what came meanwhile may be much again
        crashed = shutil.copytree(tmp_path / "store", tmp_path / "crashed")
    with memstore.open(crashed) as store:
        how = config("float32", "logged", "adagrad", 2)
        assert told(store.memory("m")) == expected(tmp_path, how, script.number)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc alone trims")
def test_a_checkpoint_in_the_background_gives_memory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOOK_S", 0.02)
    with memstore.open(tmp_path / "store", log_bytes=1) as store:
        memory = store.create("m", config("float32", "logged", "adagrad", 2))
        # What many calls at once leave behind: the last keeps those before it from going.
        left = [bytearray(b"x" * 50_000) for _ in range(2_000)]
        del left[:-1]
        before, number = _anonymous(), checkpoint_of(tmp_path)
        change(memory, Script())
        while checkpoint_of(tmp_path) == number or _anonymous() > before - 50_000_000:
            time.sleep(0.02)


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1_024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def checkpoint_of(folder: Path) -> int:
    number: int = files.read_json(folder / "store" / "memstore.json")["number"]
    return number


def test_rows_that_were_given_out_and_never_written_harm_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=4, shards=2))
        assert isinstance(memory, EmbeddedMemory)
        memory.append(np.ones((100, 4)))
        store.checkpoint()
        with monkeypatch.context() as patch:
            patch.setattr(memory.shards[1], "put", failing(StorageFull("no room", hint="none")))
            with pytest.raises(StorageFull):
                memory.append(np.ones((5_000, 4)))
        memory.append(np.ones((10, 4)))
        expected = fingerprint(memory)
    assert list(verify(tmp_path)) == []
    with memstore.open(tmp_path) as store:
        assert fingerprint(store.memory("m")) == expected


def failing(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("where", ["begin", "write", "truncate"])
def test_a_checkpoint_that_fails_anywhere_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with memstore.open(tmp_path) as store:
        memories = [store.create(name, MemoryConfig(dim=4, shards=2)) for name in ("a", "b")]
        for memory in memories:
            memory.append(np.ones((3_000, 4)))
        store.checkpoint()
        for memory in memories:
            memory.write([5, 2_000], np.full((2, 4), 9.0))
            memory.append(np.ones((10, 4)))
        with monkeypatch.context() as patch:
            if where == "begin":
                patch.setattr(saving, "still", failing(MemoryError()))
            elif where == "write":
                patch.setattr(saving, "save", failing(OSError(28, "the disk is full")))
            else:
                patch.setattr(Log, "truncate", failing(LogFailed("the disk refused it")))
            with contextlib.suppress(MemoryError, StorageFull):
                store.checkpoint()
        memories[0].write([7], np.full((1, 4), 8.0))
        expected = [fingerprint(memory) for memory in memories]
    assert list(verify(tmp_path)) == []
    with memstore.open(tmp_path) as store:
        assert [fingerprint(store.memory(name)) for name in ("a", "b")] == expected


def test_what_is_stepped_while_a_store_closes_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memstore.open(tmp_path)
    memory = store.create("m", MemoryConfig(dim=2, optimizer="sgd"))
    memory.append(np.ones((3, 2)))
    write = blocks.write

    def stepping(*arguments: Any) -> Any:
        monkeypatch.undo()
        stepper = threading.Thread(target=lambda: memory.update([1], np.ones((1, 2)), lr=0.5))
        stepper.start()
        stepper.join(60)
        assert not stepper.is_alive()
        return write(*arguments)

    monkeypatch.setattr(blocks, "write", stepping)
    store.close()
    with memstore.open(tmp_path) as store:
        keys_BD = store.memory("m").gather([0, 1]).keys_BD
        assert keys_BD is not None
        assert keys_BD.tolist() == [[1.0, 1.0], [0.5, 0.5]]


def test_a_log_that_was_done_again_counts_until_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memstore.open(tmp_path / "store")
    store.create("m", MemoryConfig(dim=64)).append(np.ones((1_000, 64)))
    died(store)
    monkeypatch.setattr(store_module, "LOOK_S", 0.02)
    number = checkpoint_of(tmp_path)
    with memstore.open(tmp_path / "store", log_bytes=100_000) as store:
        until = time.monotonic() + 60
        while checkpoint_of(tmp_path) == number:
            assert time.monotonic() < until
            time.sleep(0.01)
        with store._mutex:  # its manifest is there before it is done
            assert store._contents.logged == 0
