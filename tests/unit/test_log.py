"""The redo log where nothing fails: what comes back, what it takes, who waits for whom."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest

from memstore.errors import CorruptFile, StoreClosed
from memstore.shard import log_format, segments
from memstore.shard.log import ROOM_BYTES, Log
from memstore.shard.log_format import Kind, Record
from tests.faults.disk import SimulatedDisk, SlowDisk
from tests.faults.lives import FOLDER, OWNER, Lives, same, together


def test_an_older_owner_that_goes_on_writing_is_not_read() -> None:
    lives, disk = Lives(0), SimulatedDisk()
    older = Log(FOLDER, OWNER, disk=disk)
    for _ in range(3):
        lives.append(older)
    before = {FOLDER / name: disk.read(FOLDER / name) for name in disk.names(FOLDER)}
    log = Log(FOLDER, OWNER, disk=disk)
    for _ in range(2):
        lives.append(log)
    for path, data in before.items():
        disk.put(path, data)
    lives.open(disk)
    assert log.last == 5


def test_parts_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers_63 = rng.normal(size=(6, 3))
    parts: dict[str, Any] = {
        name: numbers_63.astype(dtype) for name, dtype in log_format.DTYPES.items()
    }
    parts |= {
        "strided": numbers_63[:, 1],
        "no rows": np.empty((0, 4), np.float32),
        "nothing": b"",
        "a name of all 24 letters": b"\0",
        "records": pa.table({"a": ["x", "yz"], "b": [[1, 2], []]}),
        "no records": pa.table({"a": pa.array([], pa.string())}),
    }
    with_all = Record(Kind.STEP, parts)
    log = Log(tmp_path, OWNER)
    log.append(with_all)
    log.append(Record(Kind.TOUCH, {}))
    log.close()
    (_, read), (_, mark) = segments.replay(tmp_path, OWNER)
    assert same(read, with_all)
    assert read.parts["bfloat16"].dtype == ml_dtypes.bfloat16  # type: ignore[union-attr]
    assert mark == Record(Kind.TOUCH, {})


def test_a_checkpoint_bounds_what_the_log_takes(tmp_path: Path) -> None:
    log = Log(tmp_path, OWNER, fsync="never", segment_bytes=20_000)
    row = Record(Kind.PUT, {"keys": np.zeros((4, 128), np.float32)})
    for _ in range(20):
        for _ in range(50):
            log.append(row)
        log.truncate(log.last + 1)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
    log.close()
    assert Log(tmp_path, OWNER, after=1_000).last == 1_000
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(CorruptFile, match=r"lacks a segment .* got record 1001 .* record 999"):
        Log(tmp_path, OWNER, after=998)


def test_records_go_on_behind_a_checkpoint_that_the_log_did_not_reach(tmp_path: Path) -> None:
    log = Log(tmp_path, OWNER)
    log.append(Record(Kind.TOUCH, {}))
    log.close()
    log = Log(tmp_path, OWNER, after=7)
    assert log.append(Record(Kind.TOUCH, {})) == 8
    log.close()
    assert [sequence for sequence, _ in segments.replay(tmp_path, OWNER, after=7)] == [8]


def test_a_record_of_more_parts_than_the_system_takes_at_once(tmp_path: Path) -> None:
    many = Record(Kind.PUT, {f"part {i}": np.arange(i % 7) for i in range(3_000)})
    log = Log(tmp_path, OWNER)
    log.append(many)
    log.close()
    ((_, read),) = segments.replay(tmp_path, OWNER)
    assert same(read, many)


def test_one_sync_serves_all_that_wait(tmp_path: Path) -> None:
    disk = SlowDisk()
    log = Log(tmp_path, OWNER, disk=disk)
    threads, commits = 16, 40
    written: dict[int, tuple[int, int]] = {}

    def work(thread: int) -> None:
        for i in range(commits):
            part = np.array([thread, i])
            sequence = log.append(Record(Kind.PUT, {"rows": part}))
            written[sequence] = (thread, i)
            log.commit(sequence)
            assert log.durable >= sequence

    together([lambda t=t: work(t) for t in range(threads)])
    assert disk.syncs < threads * commits / 2
    log.close()
    found = {
        sequence: tuple(read.parts["rows"].tolist())  # type: ignore[union-attr]
        for sequence, read in segments.replay(tmp_path, OWNER)
    }
    assert found == written
    assert len(found) == threads * commits


def test_a_sync_serves_nobody_that_came_after_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path, OWNER)
    log.append(Record(Kind.TOUCH, {}))
    fdatasync = os.fdatasync

    def slow(handle: int) -> None:
        fdatasync(handle)
        log.append(Record(Kind.TOUCH, {}))

    monkeypatch.setattr(os, "fdatasync", slow)
    log.commit(1)
    monkeypatch.undo()
    assert (log.durable, log.last) == (1, 2)
    log.close()
    assert log.durable == 2


def test_a_log_that_is_closed_while_it_wakes_up_ends(tmp_path: Path) -> None:
    log = Log(tmp_path, OWNER, fsync="interval", interval_s=0.001)
    awake, clear = threading.Event(), log._dirty.clear

    def late() -> None:
        awake.set()
        log._ended.wait(10)
        time.sleep(0.05)  # so that the end was told before, and is forgotten
        clear()

    log._dirty.clear = late  # type: ignore[method-assign]
    log.append(Record(Kind.KILL, {"rows": np.arange(3)}))
    assert awake.wait(10)
    closing = threading.Thread(target=log.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()


def test_segments_end_while_many_write(tmp_path: Path) -> None:
    log = Log(tmp_path, OWNER, segment_bytes=1_000)

    def work() -> None:
        for _ in range(30):
            log.commit(log.append(Record(Kind.KILL, {"rows": np.arange(9)})))

    together([work] * 8)
    log.close()
    found = [sequence for sequence, _ in segments.replay(tmp_path, OWNER)]
    assert found == list(range(1, 241))
    assert len(list(tmp_path.iterdir())) > 20


@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_a_commit_does_not_wait_where_it_need_not(fsync: Any) -> None:
    disk = SimulatedDisk()
    log = Log(FOLDER, OWNER, fsync=fsync, interval_s=0.01, disk=disk)
    for _ in range(3):
        log.commit(log.append(Record(Kind.TOUCH, {})))
    deadline = time.monotonic() + 30
    while fsync == "interval" and log.durable < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log.durable == (3 if fsync == "interval" else 0)
    log.close()
    after = disk.power_loss(np.random.default_rng(0))
    assert Log(FOLDER, OWNER, disk=after).last == 3
    log.close()
    with pytest.raises(StoreClosed):
        log.append(Record(Kind.TOUCH, {}))


def test_zeros_are_laid_out_before_short_records_that_are_synced(tmp_path: Path) -> None:
    short, long = np.zeros(1_000), np.zeros(ROOM_BYTES // 8)
    log = Log(made(tmp_path, "always"), OWNER)
    sizes = []
    for _ in range(100):
        log.commit(log.append(Record(Kind.PUT, {"keys": short})))
        sizes.append(size_of(log))
    assert 2 <= len(set(sizes)) <= 10
    log.commit(log.append(Record(Kind.PUT, {"keys": long})))
    assert size_of(log) == log_format.SEGMENT.size + log.bytes
    log.close()
    again = Log(log.folder, OWNER)
    assert (again.last, again.torn) == (101, None)
    assert size_of(again) == log_format.SEGMENT.size + log.bytes
    never = Log(made(tmp_path, "never"), OWNER, fsync="never")
    never.append(Record(Kind.PUT, {"keys": short}))
    assert size_of(never) == log_format.SEGMENT.size + never.bytes


def made(around: Path, name: str) -> Path:
    (around / name).mkdir()
    return around / name


def size_of(log: Log) -> int:
    return sum(path.stat().st_size for path in log.folder.iterdir())
