"""What was acknowledged is there after the process died, and nothing is there by half."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, files
from memstore.embedded import EmbeddedMemory
from memstore.errors import LogFailed, StorageFull, UnsupportedVersion
from memstore.memory import Memory
from memstore.shard import segments
from memstore.shard.log import Log
from memstore.shard.rows import RowTable
from tests.congruence.oracle import fingerprint
from tests.faults.changes import (
    AT_A_TIME,
    WIDTH,
    Script,
    change,
    changed,
    config,
    died,
    expected,
    told,
)


@pytest.mark.parametrize("again", range(3))
def test_a_log_is_done_again_and_again(tmp_path: Path, again: int) -> None:
    how = config("float32", "logged", "adagrad", 2)
    store = memstore.open(tmp_path / "store")
    memory = store.create("m", how)
    script = Script()
    while script.number < 90:
        change(memory, script)
        if script.number == 30:
            store.checkpoint()
    died(store)
    for _ in range(again):
        died(memstore.open(tmp_path / "store"))
    with memstore.open(tmp_path / "store") as store:
        assert told(store.memory("m")) == expected(tmp_path, how, 90)


def test_steps_that_are_not_logged_are_as_at_the_checkpoint(tmp_path: Path) -> None:
    how = config("float32", "checkpointed", "adagrad", 1)
    store = memstore.open(tmp_path / "store")
    memory = store.create("m", how)
    changed(memory, 20)
    slots = memory.live_slots()  # type: ignore[attr-defined]
    store.checkpoint()
    before = memory.gather(slots).keys_BD
    memory.update(slots, np.ones((len(slots), WIDTH)), lr=0.1)
    memory.write(slots[:1], np.full((1, WIDTH), 7.0))
    died(store)
    with memstore.open(tmp_path / "store") as store:
        after = store.memory("m").gather(slots).keys_BD
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after[1:], before[1:])
    np.testing.assert_array_equal(after[0], 7.0)


def test_memories_come_and_go_for_good(tmp_path: Path) -> None:
    store = memstore.open(tmp_path / "store")
    for name in ("a", "b"):
        store.create(name, MemoryConfig(dim=2)).append(np.ones((3, 2)))
    store.drop("a")
    store.create("c", MemoryConfig(dim=2))
    died(store)
    with memstore.open(tmp_path / "store") as store:
        assert store.list() == ["b", "c"]
        assert store.memory("b").describe().shards[0].rows == 3
        logs = list((tmp_path / "store" / "logs").iterdir())
        assert len(logs) == 2


def test_facts_are_encoded_from_the_parts_that_survive(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = memstore.open(tmp_path / "store")
    store.create("parts", MemoryConfig(dim=4, index="none")).append(rng.normal(size=(6, 4)))
    encoding = EncodingConfig(key={"a": "parts", "b": "parts"})
    facts = store.create(
        "facts",
        MemoryConfig(dim=4, records={"a": "int64", "b": "int64"}, encoding=encoding, shards=2),
    )
    facts.append(records={"a": [0, 1, 2], "b": [3, 4, 5]})
    store.checkpoint()
    store.memory("parts").update(np.arange(6), np.ones((6, 4)), lr=1.0)
    facts.append(records={"a": [0, 5], "b": [1, 2]})
    facts.write([1], records={"a": [2], "b": [2]})
    died(store)
    with memstore.open(tmp_path / "store") as store:
        parts, facts = store.memory("parts").gather(np.arange(6)).keys_BD, store.memory("facts")
        keys_BD = facts.gather(np.arange(5)).keys_BD
        assert parts is not None
        named = np.array([[0, 3], [2, 2], [2, 5], [0, 1], [5, 2]])
        np.testing.assert_array_equal(keys_BD, parts[named[:, 0]] + parts[named[:, 1]])
        assert facts.describe().drift == 0.0


def test_the_format_before_is_refused(tmp_path: Path) -> None:
    memstore.open(tmp_path / "store").close()
    manifest = files.read_json(tmp_path / "store" / "memstore.json")
    files.replace_json(tmp_path / "store" / "memstore.json", manifest | {"format": 4})
    with pytest.raises(UnsupportedVersion):
        memstore.open(tmp_path / "store")


def test_rows_are_evicted_with_the_record_of_those_that_take_their_places(tmp_path: Path) -> None:
    how = MemoryConfig(dim=WIDTH, capacity=2 * AT_A_TIME, optimizer="sgd")
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", how)
        for number in range(6):
            memory.append(np.full((AT_A_TIME, WIDTH), number), step=number)
        crashed = shutil.copytree(tmp_path / "store", tmp_path / "crashed")
        expected = kept(memory)
    [path] = (crashed / "logs").rglob("*.seg")
    [segment] = segments.listed(path.parent)
    owner = path.read_bytes()[32:48]
    ends = [span.stop for span in segments.read_segment(segment, owner).spans]
    assert len(ends) == 6  # one record an append
    whole = path.read_bytes()
    for count, end in enumerate(ends, 1):
        for behind in (0, 5):
            path.write_bytes(whole[: end + behind])
            with memstore.open(crashed, read_only=True) as store:
                rows = store.memory("m").describe().rows
                assert rows == min(count, 2) * AT_A_TIME  # never the old gone and the new not there
    with memstore.open(crashed) as store:
        assert kept(store.memory("m")) == expected


def failing(error: Exception) -> Any:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


def kept(memory: Memory) -> dict[str, Any]:
    """The fingerprint, but for versions: records that are done again together count as one."""
    return {name: part for name, part in fingerprint(memory).items() if name != "row_versions"}


@pytest.mark.parametrize("change_it", ["update", "blend"])
def test_what_finds_no_room_for_state_is_not_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change_it: str
) -> None:
    how = MemoryConfig(dim=WIDTH, dtype="float16", updates="logged", optimizer="adagrad")
    store = memstore.open(tmp_path / "store")
    memory = store.create("m", how)
    assert isinstance(memory, EmbeddedMemory)
    memory.append(np.ones((4, WIDTH)))
    before, table, make = fingerprint(memory), memory.shards[0].rows, RowTable._make

    def full(self: RowTable, part: str, one: Any) -> None:
        if self is table:
            raise StorageFull("no room", hint="none")
        make(self, part, one)

    ones = np.ones((4, WIDTH), np.float32)
    calls = {
        "update": lambda: memory.update(np.arange(4), ones, lr=0.1),
        "blend": lambda: memory.blend(np.arange(4), np.ones(4), ones, ones),
    }
    with monkeypatch.context() as patch:
        patch.setattr(RowTable, "_make", full)
        with pytest.raises(StorageFull):
            calls[change_it]()
    assert fingerprint(memory) == before
    died(store)
    with memstore.open(tmp_path / "store") as store:
        assert fingerprint(store.memory("m")) == before


def test_a_store_whose_log_fails_at_the_end_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memstore.open(tmp_path)
    for name in ("a", "b"):
        store.create(name, MemoryConfig(dim=2)).append(np.ones((3, 2)))
    close, failures = Log.close, [LogFailed("the disk refused it")]

    def closing(self: Log) -> None:
        close(self)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(Log, "close", closing)
    with pytest.raises(LogFailed):
        store.close()
    with memstore.open(tmp_path) as store:
        assert [store.memory(name).describe().rows for name in store.list()] == [3, 3]


def test_a_memory_that_could_not_be_made_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memstore.open(tmp_path) as store:
        for place, name in ((files, "replace_json"), (Log, "_begin")):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, failing(OSError(28, "the disk is full")))
                with pytest.raises((OSError, StorageFull, LogFailed)):
                    store.create("m", MemoryConfig(dim=2))
        store.create("other", MemoryConfig(dim=2))
        assert store.list() == ["other"]
    with memstore.open(tmp_path) as store:
        assert store.list() == ["other"]
        store.create("m", MemoryConfig(dim=2))
