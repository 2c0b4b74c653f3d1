"""A mutation that is sent again is done once, whatever became of it the first time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, RequestId, SearchOptions
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LogFailed,
    RequestConflict,
    RequestTooOld,
    StorageFull,
    WrongType,
)
from memstore.memory import Array, Memory
from memstore.shard.log import Log
from memstore.shard.requests import WINDOW
from memstore.shard.shard import Shard
from tests.congruence.oracle import fingerprint
from tests.faults.changes import died

WIDTH, SHARDS, ROWS = 4, 3, 40

CONFIG = MemoryConfig(
    dim=WIDTH,
    value_dim=2,
    shards=SHARDS,
    records={"name": "string"},
    optimizer="adagrad",
    updates="logged",
)

SLOTS = np.array([3, 4, 5, 9, 13, 4])
ONCE = np.unique(SLOTS)


def rows(seed: int, count: int, width: int = WIDTH) -> Array:
    return np.random.default_rng(seed).standard_normal((count, width), np.float32)


def names(count: int, text: str = "new") -> dict[str, list[str]]:
    return {"name": [f"{text} {i}" for i in range(count)]}


Call = Callable[..., Any]

CALLS: dict[str, Call] = {
    "append": lambda m, **o: m.append(rows(1, 7), rows(2, 7, 2), names(7), step=5, **o),
    "write": lambda m, **o: m.write(ONCE, rows(3, 5), rows(4, 5, 2), names(5), **o),
    "write_records": lambda m, **o: m.write(ONCE, records=names(5), **o),
    "blend": lambda m, **o: m.blend(
        SLOTS, np.full(6, 0.5), np.full((6, WIDTH), 0.5), rows(5, 6), step=6, **o
    ),
    "blend_for_tenants": lambda m, **o: m.blend(
        SLOTS,
        np.full(6, 0.5),
        np.full((6, WIDTH), 0.5),
        rows(5, 6),
        generations=[0, 1, 0, 1, 0, 0],
        **o,
    ),
    "update": lambda m, **o: m.update(SLOTS, rows(6, 6), rows(7, 6, 2), 0.1, **o),
    "update_for_tenants": lambda m, **o: m.update(
        SLOTS, rows(6, 6), lr=0.1, generations=[0, 1, 0, 1, 0, 0], **o
    ),
    "touch": lambda m, **o: m.touch(SLOTS, 8, **o),
    "allocate": lambda m, **o: m.allocate(7, step=9, records=names(7, "tenant"), **o),
    "erase": lambda m, **o: m.erase(ONCE, **o),
}


def filled(store: memstore.Store) -> Memory:
    memory = store.create("m", CONFIG)
    memory.append(rows(0, ROWS), rows(9, ROWS, 2), names(ROWS, "old"), step=1)
    memory.touch(np.arange(0, ROWS, 2), 2)
    return memory


def told(memory: Memory) -> dict[str, Any]:
    """What can be seen of a memory, but for the counting of its changes."""
    found = fingerprint(memory)
    del found["row_versions"], found["index"]
    slots = np.array(found["slots"])
    found["generations"] = memory.gather(slots, vectors=False).generations_B.tolist()
    exact = memory.search(rows(10, 3), 5, SearchOptions(exact=True))
    return found | {"best": exact.slots_QK.tolist(), "scores": exact.scores_QK.tobytes()}


def after(memory: Memory) -> dict[str, Any]:
    """What comes of optimizer state and usage."""
    slots = np.array(fingerprint(memory)["slots"])
    memory.update(slots, np.ones((len(slots), WIDTH)), np.ones((len(slots), 2)), 0.1)
    allocated = memory.allocate(6, records=names(6)).tolist()
    return told(memory) | {"allocated": allocated}


def plain(reply: Any) -> Any:
    return reply.tolist() if isinstance(reply, np.ndarray) else reply


@pytest.mark.parametrize("verb", CALLS)
@pytest.mark.parametrize("ends", ["open", "closed", "died", "died behind a checkpoint"])
def test_what_was_done_is_not_done_again(tmp_path: Path, verb: str, ends: str) -> None:
    with memstore.open(tmp_path / "expected") as store:
        other = filled(store)
        reply = plain(CALLS[verb](other))
        expected = told(other), after(other)
    store = memstore.open(tmp_path / "store")
    memory = filled(store)
    assert plain(CALLS[verb](memory, request_id=RequestId("a", 1))) == reply
    if ends == "closed":
        store.close()
    elif ends.startswith("died"):
        if "checkpoint" in ends:
            store.checkpoint()
        died(store)
    if ends != "open":
        store = memstore.open(tmp_path / "store")
        memory = store.memory("m")
    for _ in range(2):
        assert plain(CALLS[verb](memory, request_id=RequestId("a", 1))) == reply
    with pytest.raises(RequestConflict):
        memory.touch([0], 77, request_id=RequestId("a", 1))
    assert (told(memory), after(memory)) == expected
    store.close()


@pytest.mark.parametrize("verb", CALLS)
@pytest.mark.parametrize("failing", range(1, SHARDS))
@pytest.mark.parametrize("ends", ["open", "died"])
def test_what_was_done_in_some_shards_becomes_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, failing: int, ends: str
) -> None:
    with memstore.open(tmp_path / "expected") as store:
        other = filled(store)
        reply = plain(CALLS[verb](other))
        if verb not in ("append", "allocate"):
            other.append(rows(20, 2), rows(21, 2, 2), names(2, "meanwhile"))
        expected = told(other), after(other)
    store = memstore.open(tmp_path / "store")
    memory = filled(store)
    with monkeypatch.context() as patch:
        fail_after(patch, failing)
        with pytest.raises(StorageFull):
            CALLS[verb](memory, request_id=RequestId("a", 1))
    if ends == "died":
        died(store)
        store = memstore.open(tmp_path / "store")
        memory = store.memory("m")
    meanwhile = np.empty(0, np.int64)
    if verb != "allocate":  # which would take these, since nobody used them
        meanwhile = memory.append(rows(20, 2), rows(21, 2, 2), names(2, "meanwhile"))
    again = plain(CALLS[verb](memory, request_id=RequestId("a", 1)))
    assert again == reply
    if verb == "append":
        # What is appended meanwhile gets slots of its own.
        assert not np.isin(meanwhile, reply).any()
        names_found = memory.gather(reply, columns=("name",)).records
        assert names_found is not None
        assert names_found["name"].to_pylist() == names(7)["name"]
    else:
        assert (told(memory), after(memory)) == expected
    assert plain(CALLS[verb](memory, request_id=RequestId("a", 1))) == reply
    store.close()


def test_numbers_that_nobody_knows_any_more_are_refused_by_all_shards(tmp_path: Path) -> None:
    with memstore.open(tmp_path, fsync="never") as store:
        memory = filled(store)
        memory.touch([0, 1, 2], 1, request_id=RequestId("a", 2))
        for number in range(3, WINDOW + 4):
            memory.touch([0], number, request_id=RequestId("a", number))
        before = told(memory)
        # Shard 1 would still know number 2, and number 1 is new to it.
        for number in (1, 2):
            with pytest.raises(RequestTooOld):
                memory.write([1], rows(0, 1), request_id=RequestId("a", number))
        assert told(memory) == before


@pytest.mark.parametrize(
    ("client", "number"),
    [
        *(("", 1), ("x" * 256, 1), ("a\0b", 1), (7, 1), ("\ud800", 1)),
        *(("a", 0), ("a", 2**63), ("a", True)),
    ],
)
def test_bad_request_ids(client: Any, number: Any) -> None:
    with pytest.raises(InvalidArgument):
        RequestId(client, number)


def test_steps_that_a_crash_takes_back_may_be_made_again(tmp_path: Path) -> None:
    store = memstore.open(tmp_path / "store")
    memory = store.create("m", MemoryConfig(dim=WIDTH, optimizer="sgd", updates="checkpointed"))
    memory.append(np.zeros((2, WIDTH)))
    store.checkpoint()
    stepped = RequestId("a", 1)
    memory.update([0], np.ones((1, WIDTH)), lr=1.0, request_id=stepped)
    died(store)
    with memstore.open(tmp_path / "store") as store:
        memory = store.memory("m")
        for _ in range(2):
            memory.update([0], np.ones((1, WIDTH)), lr=1.0, request_id=stepped)
        keys_BD = memory.gather([0]).keys_BD
        assert keys_BD is not None
        np.testing.assert_array_equal(keys_BD[0], -1.0)


def test_facts_are_sent_again_after_their_parts_are_gone(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        words = store.create("words", MemoryConfig(dim=WIDTH, index="none"))
        words.append(rows(0, 4))
        facts = store.create(
            "facts",
            MemoryConfig(
                dim=WIDTH,
                records={"a": "int64", "b": "int64"},
                encoding=EncodingConfig(key={"a": "words", "b": "words"}),
            ),
        )
        appended = facts.append(records={"a": [0, 1], "b": [2, 3]}, request_id=RequestId("a", 1))
        written = facts.write([0], records={"a": [3], "b": [1]}, request_id=RequestId("a", 2))
        words.update([1, 3], np.ones((2, WIDTH)), lr=0.1)
        words.erase([3])
        before = told(facts)
        for _ in range(2):
            again = facts.append(records={"a": [0, 1], "b": [2, 3]}, request_id=RequestId("a", 1))
            np.testing.assert_array_equal(again, appended)
            same = facts.write([0], records={"a": [3], "b": [1]}, request_id=RequestId("a", 2))
            assert same == written
        assert told(facts) == before


@pytest.mark.parametrize("verb", CALLS)
def test_a_call_gives_up_at_its_deadline(tmp_path: Path, verb: str) -> None:
    with memstore.open(tmp_path) as store:
        memory = filled(store)
        before = told(memory)
        held, let = threading.Event(), threading.Event()

        def hold() -> None:
            with memory.frozen():  # type: ignore[attr-defined]
                held.set()
                let.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        request = RequestId("a", 1)
        with pytest.raises(DeadlineExceeded, match=r"deadline_s=0\.01"):
            CALLS[verb](memory, deadline_s=0.01, request_id=request)
        let.set()
        holder.join()
        assert told(memory) == before
        for seconds in (0, -1.0, float("inf"), float("nan"), "1", True):
            with pytest.raises(InvalidArgument, match="deadline_s is out of range"):
                CALLS[verb](memory, deadline_s=seconds)
        CALLS[verb](memory, deadline_s=60, request_id=request)


def test_a_log_that_failed_says_so_to_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it is on the disk: neither does the reply say so."""
    store = memstore.open(tmp_path, fsync="always")
    memory = filled(store)

    def fails(self: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("memstore.disk.LocalFile.sync", fails)
    for _ in range(2):
        with pytest.raises(LogFailed):
            memory.touch([0, 1, 2], 5, request_id=RequestId("a", 1))
    monkeypatch.undo()
    died(store)
    with memstore.open(tmp_path) as store:
        applied = store.memory("m").touch([0, 1, 2], 5, request_id=RequestId("a", 1))
        assert applied.applied == 3


def test_a_retry_evicts_none_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = MemoryConfig(dim=WIDTH, shards=2, capacity=8)
    found = []
    for cut in (False, True):
        with memstore.open(tmp_path / f"{cut}") as store:
            memory = store.create("m", how)
            memory.append(rows(0, 8), step=5)
            if cut:
                with monkeypatch.context() as patch:
                    fail_after(patch, 1)
                    with pytest.raises(StorageFull):
                        memory.append(rows(1, 4), request_id=RequestId("a", 1))
            slots = memory.append(rows(1, 4), request_id=RequestId("a", 1))
            assert slots.tolist() == [8, 9, 10, 11]
            found.append(memory.live_slots().tolist())  # type: ignore[attr-defined]
    assert found == [list(range(4, 12))] * 2


def fail_after(patch: pytest.MonkeyPatch, records: int) -> None:
    """Lets so many records into the logs, and no more."""
    append, left = Log.append, records

    def full(self: Log, record: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise StorageFull("there is no room")
        return append(self, record)

    patch.setattr(Log, "append", full)


@pytest.mark.parametrize("verb", CALLS)
def test_what_was_half_done_before_the_shards_were_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    with memstore.open(tmp_path / "store") as store:
        memory = filled(store)
        CALLS["touch"](memory, request_id=RequestId("a", 1))
        with monkeypatch.context() as patch:
            fail_after(patch, 1)
            with pytest.raises(StorageFull):
                CALLS[verb](memory, request_id=RequestId("a", 2))
        store.snapshot(tmp_path / "there")
        before = told(memory)
    memstore.restore(tmp_path / "there", tmp_path / "same")
    memstore.restore(tmp_path / "there", tmp_path / "cut", shards=2)
    with memstore.open(tmp_path / "cut") as store:
        store.snapshot(tmp_path / "again")
    memstore.restore(tmp_path / "again", tmp_path / "cut-again", shards=5)
    for name in ("cut", "cut-again"):
        with memstore.open(tmp_path / name) as store:
            memory = store.memory("m")
            assert CALLS["touch"](memory, request_id=RequestId("a", 1)).applied == len(SLOTS)
            with pytest.raises(RequestTooOld, match="half done"):
                CALLS[verb](memory, request_id=RequestId("a", 2))
            assert told(memory)["keys"] == before["keys"]
    with memstore.open(tmp_path / "same") as store:
        CALLS[verb](store.memory("m"), request_id=RequestId("a", 2))


@pytest.mark.parametrize("verb", CALLS)
def test_what_was_logged_and_not_applied_is_done_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    with memstore.open(tmp_path / "expected") as store:
        other = filled(store)
        reply = plain(CALLS[verb](other))
        expected = told(other), after(other)
    store = memstore.open(tmp_path / "store")
    memory = filled(store)
    other = store.create("other", MemoryConfig(dim=WIDTH, optimizer="sgd"))
    other.append(np.zeros((1, WIDTH)))
    other.update([0], np.ones((1, WIDTH)), lr=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "_change", no_memory)
        with pytest.raises(LogFailed, match=r"shard 0 has logged.*MemoryError.*open it again"):
            CALLS[verb](memory, request_id=RequestId("a", 1))
    for again in (lambda: CALLS[verb](memory, request_id=RequestId("a", 1)), store.checkpoint):
        with pytest.raises(LogFailed, match="open it again"):
            again()
    store.close()
    with memstore.open(tmp_path / "store") as store:
        memory = store.memory("m")
        assert plain(CALLS[verb](memory, request_id=RequestId("a", 1))) == reply
        assert (told(memory), after(memory)) == expected
        keys_BD = store.memory("other").gather([0]).keys_BD
        assert keys_BD is not None
        np.testing.assert_array_equal(keys_BD, -1.0)


def no_memory(*_: Any) -> Any:
    raise MemoryError("full")


def test_what_changed_nothing_is_known_too(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = filled(store)
        first = RequestId("a", 1)
        done = memory.update([0, 1], rows(0, 2), lr=0.1, generations=[9, 0], request_id=first)
        assert (done.applied, done.skipped) == (1, 1)
        memory.erase([0])
        again = memory.update([0, 1], rows(0, 2), lr=0.1, generations=[9, 0], request_id=first)
        assert again == done
        memory.update([3], rows(0, 1), lr=0.1, generations=[9], request_id=RequestId("a", 2))
        with pytest.raises(RequestConflict):
            memory.touch([3], 1, request_id=RequestId("a", 2))


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = filled(store)
        for step in (np.int64(3), 3):
            memory.touch([0], step, request_id=RequestId("a", 1))  # type: ignore[arg-type]
        memory.touch([0], 4, deadline_s=np.float32(9))  # type: ignore[arg-type]
        with pytest.raises(WrongType, match="request_id"):
            memory.touch([0], 1, request_id=("a", 1))  # type: ignore[arg-type]
