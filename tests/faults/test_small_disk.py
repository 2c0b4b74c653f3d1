"""A disk that is full for good: a small tmpfs under the store, and under its snapshots.

`tests/faults/disk.py` refuses any single operation; here the system itself does, in the middle of
whatever does not fit, and goes on doing so until room is made.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, Store
from memstore.durable.verify import verify
from memstore.errors import SnapshotFailed, StorageFull
from memstore.memory import Memory

WIDTH, ROWS = 64, 4_096
SMALL_MB = 6


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_MB}m", "memstore-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"no disk of our own can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def filled(folder: Path) -> Store:
    """A store with a megabyte of rows."""
    store = memstore.open(folder, fsync="always")
    memory = store.create("m", MemoryConfig(dim=WIDTH, index="none"))
    memory.append(np.random.default_rng(0).normal(size=(ROWS, WIDTH)))
    return store


def state(memory: Memory) -> tuple[list[int], bytes]:
    """The slots that are there, and their keys."""
    slots = memory.live_slots()  # type: ignore[attr-defined]
    keys_BD = memory.gather(slots).keys_BD
    assert keys_BD is not None
    return slots.tolist(), keys_BD.tobytes()


def stuff(folder: Path) -> Path:
    """Takes all the room that is left; returns the file that has it."""
    path = folder / "stuffing"
    with pytest.raises(OSError, match="No space left"):
        zeros_to(path)
    return path


def zeros_to(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(bytes(4_096)):
            pass


def test_a_full_disk_refuses_changes_and_checkpoints_until_there_is_room(small: Path) -> None:
    with filled(small / "store") as store:
        memory = store.memory("m")
        before = state(memory)
        stuffing = stuff(small)
        many = np.ones((ROWS, WIDTH))
        with pytest.raises(StorageFull, match="nothing was changed"):
            memory.append(many)
        assert state(memory) == before
        with pytest.raises(StorageFull, match="nothing is lost"):
            store.checkpoint()
        with pytest.raises(StorageFull):
            store.mark("here")
        assert (state(memory), store.marks()) == (before, [])
        memory.search(many[:1], 3, memstore.SearchOptions(exact=True))
        stuffing.unlink()
        memory.append(many[:100])
        store.mark("here")
        after = state(memory)
    assert list(verify(small / "store")) == []
    stuffing = stuff(small)
    with memstore.open(small / "store", read_only=True) as store:
        assert state(store.memory("m")) == after
    with pytest.raises(StorageFull):
        memstore.open(small / "store")
    stuffing.unlink()
    with memstore.open(small / "store") as store:
        assert state(store.memory("m")) == after


def test_a_full_place_takes_the_rest_of_a_snapshot_once_there_is_room(
    small: Path, tmp_path: Path
) -> None:
    with filled(tmp_path / "store") as store:
        stuffing = stuff(small)
        with pytest.raises(SnapshotFailed, match="No space left"):
            store.snapshot(small / "snapshots")
        with pytest.raises(memstore.MemstoreError):
            memstore.restore(small / "snapshots", tmp_path / "none")
        assert not (tmp_path / "none").exists()
        stuffing.unlink()
        store.snapshot(small / "snapshots")
        stuffing = stuff(small)
        with pytest.raises(StorageFull):
            memstore.restore(small / "snapshots", small / "restored")
        assert not (small / "restored").exists()
        stuffing.unlink()
        memstore.restore(small / "snapshots", small / "restored")
        before = state(store.memory("m"))
    with memstore.open(small / "restored", read_only=True) as again:
        assert state(again.memory("m")) == before
