"""The redo log beside a disk that fails: nothing that was committed is lost, nothing half is read.

Lives of a log end at any operation by a power loss, by a full or a bad disk, by `kill -9`; the next
one must find all that was committed, in order, and go on.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.errors import (
    CorruptFile,
    LogFailed,
    MemstoreError,
    StorageFull,
    StoreClosed,
)
from memstore.shard import segments
from memstore.shard.log import Log
from memstore.shard.log_format import Kind, Record
from tests.faults.disk import PowerLost, SimulatedDisk
from tests.faults.lives import FOLDER, OWNER, Lives, together

ROOT = Path(__file__).parents[2]
SITES = (
    "file < _advance < sync < commit",
    "file < _advance < sync < close",
    "file < _advance < sync",
    "file < _advance < _make_room < append",
    "file < _begin < _make_room < append",
    "file < _begin < _open < __init__",
    "folder < _begin < _make_room < append",
    "folder < _begin < _open < __init__",
)
"""Every sync of the log, by the way that it is called."""


def power_losses(seed: int, asleep: str = "") -> SimulatedDisk:
    """Four lives that end by losing power at any operation, and a fifth that goes on."""
    lives, disk = Lives(seed), SimulatedDisk(asleep)
    for _ in range(4):
        disk.stop_at = int(lives.rng.integers(1, 60))
        with pytest.raises(PowerLost):
            lives.live(disk, verbs=100)
        disk = disk.power_loss(lives.rng)
    log = lives.open(disk)
    for _ in range(3):
        lives.append(log)
    log.close()
    lives.safe = log.last
    lives.open(disk.power_loss(lives.rng)).close()
    return disk


@pytest.mark.parametrize("part", range(5))
def test_power_losses_take_nothing_that_was_committed(part: int) -> None:
    for seed in range(100 * part, 100 * part + 100):
        power_losses(seed)


def test_every_sync_is_named() -> None:
    found = set[str]()
    for seed in range(40):
        found |= set(power_losses(seed).sites)
    assert found == set(SITES)


@pytest.mark.parametrize("site", SITES)
def test_without_any_one_sync_something_is_lost(site: str) -> None:
    for seed in range(200):
        try:
            power_losses(seed, asleep=site)
        except (AssertionError, CorruptFile):
            return
    pytest.fail(f"nothing needs the sync {site}")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("then", ["reopened", "power lost"])
def test_a_disk_that_refuses_any_operation(number: int, then: str) -> None:
    told = set[type[MemstoreError]]()
    for at in range(1, 1_000):
        lives, disk = Lives(at), SimulatedDisk()
        disk.stop_at, disk.failure = at, number
        log = None
        try:
            log = lives.open(disk)
            for _ in range(12):
                try:
                    sequence = lives.append(log)
                except StorageFull:
                    sequence = lives.append(log)  # once there is room, all is as before
                log.commit(sequence)
                lives.safe = sequence
            lives.covered = lives.safe - 2
            log.truncate(lives.covered + 1)
            lives.append(log)
            log.close()
            lives.safe = log.last
        except (StorageFull, LogFailed, CorruptFile) as error:
            told.add(type(error))
            if log is not None and isinstance(error, LogFailed):
                with pytest.raises((LogFailed, StoreClosed), match="open it again"):
                    lives.append(log)
                with pytest.raises((LogFailed, StoreClosed), match="open it again"):
                    log.truncate(1)
                log.close()
        if disk.operations < at:
            break
        if then == "power lost":
            disk = disk.power_loss(lives.rng)
        log = lives.open(disk)
        log.commit(lives.append(log))
        lives.safe = log.last
        lives.open(disk.power_loss(lives.rng))
    else:
        pytest.fail("the log never ended")
    assert told == {LogFailed, CorruptFile} | ({StorageFull} if number == errno.ENOSPC else set())


def test_a_sync_that_fails_is_told_to_all_that_wait() -> None:
    disk = SimulatedDisk()
    log = Log(FOLDER, OWNER, disk=disk)
    first = log.append(Record(Kind.TOUCH, {}))
    log.commit(first)
    for _ in range(9):
        log.append(Record(Kind.TOUCH, {}))
    disk.stop_at, disk.failure = disk.operations + 1, errno.EIO

    def work() -> None:
        with pytest.raises(LogFailed, match=f"{os.strerror(errno.EIO)}.*open it again"):
            log.commit(log.last)

    together([work] * 5)
    log.commit(first)  # that one is safe
    assert log.durable == first


def test_a_failure_in_the_background_is_told_to_the_next_caller() -> None:
    disk = SimulatedDisk()
    log = Log(FOLDER, OWNER, fsync="interval", interval_s=0.01, disk=disk)
    disk.stop_at, disk.failure = disk.operations + 2, errno.EIO
    log.append(Record(Kind.TOUCH, {}))
    deadline = time.monotonic() + 120
    while disk.operations < disk.stop_at and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(LogFailed):
        log.commit(log.last)
    log.close()
    assert Log(FOLDER, OWNER, disk=disk).last <= 1


def test_an_interrupt_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path, OWNER)
    log.append(Record(Kind.TOUCH, {}))
    pwritev = os.pwritev

    def interrupted(handle: int, parts: Any, at: int) -> int:
        pwritev(handle, parts[:1], at)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwritev", interrupted)
    with pytest.raises(KeyboardInterrupt):
        log.append(Record(Kind.PUT, {"rows": np.arange(100)}))
    monkeypatch.undo()
    assert log.append(Record(Kind.KILL, {})) == 2
    log.close()
    kinds = [read.kind for _, read in segments.replay(tmp_path, OWNER)]
    assert kinds == [Kind.TOUCH, Kind.KILL]


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )


KILLED = r"""
import os, signal, sys, time
from pathlib import Path
import numpy as np
from memstore.shard import segments
from memstore.shard.log import Log
from memstore.shard.log_format import Kind, Record

folder, owner, rng = Path(sys.argv[1]), b"0123456789abcdef", np.random.default_rng(0)
told = 0
for life in range(20):
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        log = Log(folder, owner, segment_bytes=200_000)
        while True:
            rows = np.full((64, 128), log.last + 1, np.float32)
            sequence = log.append(Record(Kind.PUT, {"keys": rows}))
            log.commit(sequence)
            os.write(writes, f"{sequence}\n".encode())
    os.close(writes)
    with os.fdopen(reads) as lines:
        for _ in range(rng.integers(1, 12)):
            told = int(lines.readline())
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for line in lines:
            if line.endswith("\n"):
                told = int(line)
    found = [(s, r.parts["keys"]) for s, r in segments.replay(folder, owner)]
    assert [s for s, _ in found] == list(range(1, len(found) + 1))
    assert len(found) >= told, (life, len(found), told)
    assert all((keys == s).all() and keys.shape == (64, 128) for s, keys in found)
print(told)
"""


def test_a_killed_process_loses_nothing_that_it_committed(tmp_path: Path) -> None:
    done = run(KILLED, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20


FILLED = """
import resource, sys
from pathlib import Path
import numpy as np
from memstore.errors import StorageFull
from memstore.shard import segments
from memstore.shard.log import Log
from memstore.shard.log_format import Kind, Record

folder, owner = Path(sys.argv[1]), b"0123456789abcdef"
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
log = Log(folder, owner)

def append():
    return log.append(Record(Kind.PUT, {"keys": np.full((64, 128), log.last + 1, np.float32)}))

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most))
try:
    while True:
        log.commit(append())
except StorageFull as error:
    assert error.retryable and "nothing was changed" in str(error)
full = log.last
log.append(Record(Kind.TOUCH, {}))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
log.commit(append())
log.close()
kinds = [record.kind for _, record in segments.replay(folder, owner)]
assert kinds == [Kind.PUT] * full + [Kind.TOUCH, Kind.PUT], (full, len(kinds))
print(full)
"""


def test_a_full_disk_refuses_a_record_and_takes_what_still_fits(tmp_path: Path) -> None:
    done = run(FILLED, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 31
