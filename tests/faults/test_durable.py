"""What was acknowledged is there after the process died, and nothing is there by half."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, IndexConfig, MemoryConfig, SearchOptions, files
from memstore import store as store_module
from memstore.checkpoints import base_of
from memstore.embedded import EmbeddedMemory
from memstore.errors import LogFailed, StorageFull, UnsupportedVersion
from memstore.index import saving
from memstore.memory import Array, Memory
from memstore.shard import blocks, segments
from memstore.shard.log import Log
from memstore.shard.rows import RowTable
from memstore.verify import verify
from tests.congruence.oracle import fingerprint

WIDTH, VALUES, AT_A_TIME = 8, 3, 16


def config(dtype: str, updates: str, optimizer: str, shards: int) -> MemoryConfig:
    return MemoryConfig(
        dim=WIDTH,
        value_dim=VALUES,
        dtype=dtype,  # type: ignore[arg-type]
        shards=shards,
        records={"name": "string", "year": "int64"},
        lookup=("year",),
        optimizer=optimizer,  # type: ignore[arg-type]
        updates=updates,  # type: ignore[arg-type]
        index=IndexConfig(fresh_limit=64, maintenance="inline"),
    )


def change(memory: Memory, number: int) -> None:
    """Makes the change of that number, the same one to the same memory."""
    rng = np.random.default_rng(number)

    def draw(width: int, rows: int = AT_A_TIME) -> Array:
        return rng.standard_normal((rows, width), np.float32)

    def records(rows: int) -> dict[str, Any]:
        years = rng.integers(0, 9, rows)
        return {"name": [f"{number}-{year}" for year in years], "year": years}

    live = memory_slots(memory)
    some = rng.choice(live, AT_A_TIME) if len(live) else live
    once = np.unique(some)
    kind = rng.integers(8) if len(live) > 4 * AT_A_TIME else 0
    if kind <= 1:
        memory.append(draw(WIDTH), draw(VALUES), records(AT_A_TIME), step=number)
    elif kind == 2:
        memory.write(once, draw(WIDTH, len(once)), draw(VALUES, len(once)), records(len(once)))
    elif kind == 3:
        weights = rng.random(len(some))
        memory.blend(some, weights, rng.random((len(some), WIDTH)), draw(WIDTH), step=number)
    elif kind == 4:
        memory.update(some, draw(WIDTH), draw(VALUES), 0.1)
    elif kind == 5:
        memory.touch(some, number)
    elif kind == 6:
        memory.allocate(5, records=records(5), step=number)
    else:
        memory.erase(once[:4])


def memory_slots(memory: Memory) -> Array:
    assert hasattr(memory, "live_slots")
    slots: Array = memory.live_slots()
    return slots


def told(memory: Memory) -> Iterator[Any]:
    """All that can be asked of a memory."""
    slots = memory_slots(memory)
    yield slots.tolist()
    rows = memory.gather(slots, columns=("name", "year"))
    yield rows.generations_B.tolist()
    assert rows.keys_BD is not None
    assert rows.values_BV is not None
    yield rows.keys_BD.tobytes()
    yield rows.values_BV.tobytes()
    assert rows.records is not None
    yield rows.records.to_pydict()
    yield [found.tolist() for found in (memory.lookup("year", range(9), 10**6).slots,)]
    queries = np.random.default_rng(0).standard_normal((4, WIDTH), np.float32)
    exact = memory.search(queries, 5, SearchOptions(exact=True))
    yield exact.slots_QK.tolist()
    yield exact.scores_QK.tobytes()
    # What optimizers and usage keep shows in what comes next.
    if len(slots):
        memory.update(slots, np.ones((len(slots), WIDTH)), np.ones((len(slots), VALUES)), 0.1)
        keys_BD = memory.gather(slots).keys_BD
        assert keys_BD is not None
        yield keys_BD.tobytes()
        count = min(9, len(slots))
        records = {"name": ["new"] * count, "year": [1] * count}
        yield memory.allocate(count, records=records).tolist()


def expected(folder: Path, how: MemoryConfig, changes: int) -> list[Any]:
    with memstore.open(folder / f"expected-{changes}") as store:
        memory = store.create("m", how)
        for number in range(changes):
            change(memory, number)
        return list(told(memory))


CHILD = """
import sys
import threading
from pathlib import Path
import memstore
from tests.faults.test_durable import change, config
folder, dtype, updates, optimizer, shards, checkpoints = sys.argv[1:]
store = memstore.open(folder, fsync="never")
memory = store.create("m", config(dtype, updates, optimizer, int(shards)))

def always():
    while True:
        store.checkpoint()

if checkpoints == "beside":
    threading.Thread(target=always, daemon=True).start()
for number in range(10**9):
    change(memory, number)
    print(number + 1, flush=True)
    if shards != "1":
        sys.stdin.readline()
    if checkpoints == "between" and number % 50 == 49:
        store.checkpoint()
"""

WAYS = [
    ("float32", "logged", "adagrad", 1),
    ("float32", "logged", "adam", 3),
    ("bfloat16", "logged", "rowwise_adagrad", 1),
    ("float16", "logged", "adam", 2),
]


@pytest.mark.parametrize(("dtype", "updates", "optimizer", "shards"), WAYS)
@pytest.mark.parametrize("checkpoints", ["between", "beside"])
def test_a_killed_process_loses_nothing(
    tmp_path: Path, dtype: str, updates: str, optimizer: str, shards: int, checkpoints: str
) -> None:
    rng = np.random.default_rng([shards, len(checkpoints)])
    arguments = [str(tmp_path / "store"), dtype, updates, optimizer, str(shards), checkpoints]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        wanted = int(rng.integers(20, 140))
        for line in child.stdout:
            if int(line) >= wanted:
                break
            if shards > 1:
                print(file=child.stdin, flush=True)
        time.sleep(rng.random() * 0.01)
        child.send_signal(signal.SIGKILL)
        acknowledged = [int(line), *map(int, child.stdout.read().split())][-1]
    how = config(dtype, updates, optimizer, shards)
    with memstore.open(tmp_path / "store") as store:
        found = list(told(store.memory("m")))
    # The change in flight may be there or not. With several shards none is in flight, for it could
    # be there in some of them.
    more = (0, 1) if shards == 1 else (0,)
    assert found in [expected(tmp_path, how, acknowledged + changes) for changes in more]


@pytest.mark.parametrize("again", range(3))
def test_a_log_is_done_again_and_again(tmp_path: Path, again: int) -> None:
    how = config("float32", "logged", "adagrad", 2)
    store = memstore.open(tmp_path / "store")
    memory = store.create("m", how)
    for number in range(90):
        change(memory, number)
        if number == 30:
            store.checkpoint()
    died(store)
    for _ in range(again):
        died(memstore.open(tmp_path / "store"))
    with memstore.open(tmp_path / "store") as store:
        assert list(told(store.memory("m"))) == expected(tmp_path, how, 90)


def test_steps_that_are_not_logged_are_as_at_the_checkpoint(tmp_path: Path) -> None:
    how = config("float32", "checkpointed", "adagrad", 1)
    store = memstore.open(tmp_path / "store")
    memory = store.create("m", how)
    for number in range(20):
        change(memory, number)
    slots = memory_slots(memory)
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
        number, changes = checkpoint_of(tmp_path), 0
        while checkpoint_of(tmp_path) == number:
            change(memory, changes)
            changes += 1
            assert changes < 10_000
        assert ["failed" in record.message for record in caplog.records] == [True] * 3
        quiet = checkpoint_of(tmp_path)
        time.sleep(0.2)
        assert checkpoint_of(tmp_path) <= quiet + 1  # what came meanwhile may be much again
        crashed = shutil.copytree(tmp_path / "store", tmp_path / "crashed")
    with memstore.open(crashed) as store:
        how = config("float32", "logged", "adagrad", 2)
        assert list(told(store.memory("m"))) == expected(tmp_path, how, changes)


def checkpoint_of(folder: Path) -> int:
    number: int = files.read_json(folder / "store" / "memstore.json")["number"]
    return number


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


def died(store: memstore.Store) -> None:
    """Lets go of a store as the death of its process would."""
    for memory in store._memories.values():
        base_of(memory).settle()
    store._lock.close()


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
            with contextlib.suppress(MemoryError, OSError):
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
        assert store._logged() == 0
