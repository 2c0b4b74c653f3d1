"""Loading without the log: all of it is there when it ends, or nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, RequestId, SearchOptions, Store
from memstore.durable import manifest
from memstore.durable.verify import verify
from memstore.errors import DeadlineExceeded, DiskFailed, MemoryInUse, UnknownMemory, Unsupported
from tests.congruence.oracle import fingerprint
from tests.faults.changes import died
from tests.faults.lives import together

WIDTH = 8


def rows(seed: int, count: int = 500) -> Any:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


def made(folder: Path) -> tuple[Store, Any]:
    store = memstore.open(folder)
    memory = store.create("m", MemoryConfig(dim=WIDTH, shards=2))
    memory.append(rows(0))
    store.create("other", MemoryConfig(dim=WIDTH)).append(rows(1))
    return store, memory


def logged(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.seg"))


def test_what_was_loaded_is_there_for_good(tmp_path: Path) -> None:
    store, memory = made(tmp_path)
    before = logged(tmp_path)
    with store.loading("m"):
        together([lambda seed=seed: memory.append(rows(seed)) for seed in range(4)])
        assert memory.search(rows(2, 1), 1, SearchOptions(exact=True)).scores_QK.size
    assert logged(tmp_path) <= before
    memory.write([0], rows(9, 1))
    expected = fingerprint(memory)
    assert expected["rows"] == 2_500
    died(store)
    assert list(verify(tmp_path)) == []
    with memstore.open(tmp_path) as store:
        found = fingerprint(store.memory("m"))
        assert {name: found[name] for name in ("slots", "keys", "next_slot")} == {
            name: expected[name] for name in ("slots", "keys", "next_slot")
        }


def test_nothing_is_left_of_what_one_load_wrote_and_the_next_wrote_anew(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=WIDTH, shards=2, records={"name": "string"}))
        for seed in range(4):
            with store.loading("m"):
                memory.append(rows(seed), records={"name": [str(seed)] * 500})
            named = manifest.files_of(manifest.read(tmp_path / manifest.NAME))
            kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("records-*.arrow")}
            assert kept == {
                path for path in named if path.endswith(".arrow") and "records-" in path
            }


def test_it_waits_for_a_checkpoint_no_longer_than_it_may(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store, ThreadPoolExecutor(1) as pool:
        memory = store.create("m", MemoryConfig(dim=WIDTH))
        with store._mutex, pytest.raises(DeadlineExceeded, match="a checkpoint"):  # as one does
            pool.submit(store.loading("m", deadline_s=0.1).__enter__).result(timeout=30)
        with store.loading("m", deadline_s=30.0):
            memory.append(rows(0))


@pytest.mark.parametrize("ends", ["by an error", "by death", "by a disk"])
def test_what_was_not_loaded_whole_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    store, memory = made(tmp_path)
    before = fingerprint(memory)["keys"]
    loading = store.loading("m")
    loading.__enter__()
    request = RequestId("loader", 1)
    memory.append(rows(2), request_id=request)
    store.memory("other").append(rows(3))
    if ends == "by death":
        died(store)
    elif ends == "by an error":
        assert not loading.__exit__(ValueError, ValueError("bad rows"), None)
    else:
        monkeypatch.setattr(memstore.durable.manifest, "write", no_disk)
        with pytest.raises(DiskFailed):
            loading.__exit__(None, None, None)
        monkeypatch.undo()
    if ends != "by death":
        assert fingerprint(memory)["keys"] == before
        [slot] = memory.append(rows(4, 1)).tolist()
        assert slot == 1_000  # those that were given out are not given out again
        # What was taken back is not known as done.
        assert memory.append(rows(2), request_id=request)[0] == 1_001
        memory.erase(np.arange(1_001, 1_501))
        memory.erase([slot])
        died(store)
    with memstore.open(tmp_path) as store:
        assert fingerprint(store.memory("m"))["keys"] == before
        assert store.memory("other").describe().rows == 1_000
        store.memory("m").append(rows(5))
    assert list(verify(tmp_path)) == []


def no_disk(*_: Any) -> Any:
    raise OSError(5, "the disk is gone")


def test_nothing_else_comes_in_between(tmp_path: Path) -> None:
    store, memory = made(tmp_path / "store")
    store.mark("then")
    with store.loading("m"):
        for change in (
            lambda: memory.write([0], rows(0, 1)),
            lambda: memory.update([0], rows(0, 1)),
            lambda: memory.erase([0]),
            store.checkpoint,
            store.close,
            lambda: store.drop("other"),
            lambda: store.mark("now"),
            lambda: store.snapshot(tmp_path / "there"),
            lambda: store.create("third", MemoryConfig(dim=2)),
            lambda: store.loading("other").__enter__(),
        ):
            with pytest.raises(MemoryInUse, match="being loaded"):
                change()
        store.memory("other").update([0], rows(0, 1))
    memory.write([0], rows(0, 1))
    store.close()


def test_facts_wait_for_their_parts(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        words = store.create("words", MemoryConfig(dim=WIDTH, index="none"))
        encoding = EncodingConfig(key={"a": "words", "b": "words"})
        how = MemoryConfig(dim=WIDTH, records={"a": "int64", "b": "int64"}, encoding=encoding)
        facts = store.create("facts", how)
        with store.loading("words"):
            words.append(rows(0, 4))
            with pytest.raises(MemoryInUse):
                facts.append(records={"a": [0], "b": [1]})
        with store.loading("words", "facts"):
            words.append(rows(1, 4))
            facts.append(records={"a": [0, 7], "b": [1, 5]})
        expected = fingerprint(facts)
        died(store)
        store._lock = (again := memstore.open(tmp_path))._lock
        assert fingerprint(again.memory("facts"))["keys"] == expected["keys"]


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        store.create("full", MemoryConfig(dim=2, capacity=4))
        with pytest.raises(Unsupported, match="capacity"), store.loading("full"):
            pass
        with pytest.raises(UnknownMemory), store.loading("none"):
            pass
