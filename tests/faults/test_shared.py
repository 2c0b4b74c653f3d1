"""Stores on storage that machines share: what the next owner finds, and what the last can still do.

The storage is a folder of this machine, and an S3 server of this process; a folder is the disk of
each owner.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import Memory, MemoryConfig, Store
from memstore.disk import Superseded
from memstore.errors import (
    CorruptFile,
    InvalidArgument,
    MemstoreError,
    ShardElsewhere,
    StoreLocked,
)
from memstore.memory import Array
from memstore.shared import disk as shared_disk
from memstore.shared import replica
from memstore.shared.disk import SharedDisk
from memstore.shared.replica import Change, Replica
from memstore.shared.shelf import Shelf, open_shelf
from memstore.shared.stream import Stream
from tests.s3 import CREDENTIALS, S3Server, s3_server

WIDTH = 3
CONFIG = MemoryConfig(dim=WIDTH, shards=2, index="exact", optimizer="sgd", updates="logged")


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


Place = Callable[[Path], str]
"""The address of storage that goes by a path, of its own for each."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "folder":
        return str
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    made: S3Server = request.getfixturevalue("server")
    return lambda path: made.uri("bucket", str(path).strip("/"))


@pytest.fixture
def shelf(place: Place, tmp_path: Path) -> Shelf:
    return open_shelf(place(tmp_path / "shelf"))


class Between:
    """A shelf that others are made of, which do something else at times."""

    def __init__(self, inner: Shelf) -> None:
        self.inner = inner

    def within(self, name: str) -> Shelf:
        raise NotImplementedError

    def keep_private(self) -> None:
        self.inner.keep_private()

    def put(self, name: str, data: bytes) -> bool:
        return self.inner.put(name, data)

    def get(self, name: str) -> bytes | None:
        return self.inner.get(name)

    def names(self, folder: str) -> list[str]:
        return self.inner.names(folder)

    def remove(self, names: Iterable[str]) -> None:
        self.inner.remove(names)


class Owners:
    """One owner of a store after another, each on a disk of its own; none ends in good order."""

    def __init__(self, tmp_path: Path, shelf: Shelf) -> None:
        self.path = tmp_path
        self.shelf = shelf
        self.term = 0
        self.stores: list[Store] = []

    def next(self, term: int | None = None) -> Store:
        self.term = self.term + 1 if term is None else term
        folder = self.path / f"disk-{len(self.stores)}"
        self.disk = SharedDisk.open(folder, self.shelf, self.term)
        self.stores.append(Store(folder, fsync="always", disk=self.disk))
        return self.stores[-1]

    def close(self) -> None:
        """Ends all, of which only the last can write."""
        for store in self.stores:
            for memory in store._contents.memories.values():
                memory.retire(InvalidArgument("over"))  # type: ignore[union-attr]
            store._ended.set()
            store._lock.close()


@pytest.fixture
def owners(tmp_path: Path, shelf: Shelf) -> Any:
    made = Owners(tmp_path, shelf)
    yield made
    made.close()


def same(a: Memory, b: Memory, count: int) -> None:
    np.testing.assert_array_equal(a.gather(range(count)).keys_BD, b.gather(range(count)).keys_BD)
    assert a.describe().next_slot == b.describe().next_slot == count


def test_the_next_owner_finds_all_that_was_acknowledged(owners: Owners, tmp_path: Path) -> None:
    with memstore.open(tmp_path / "twin") as twin_store:
        twin = twin_store.create("m", CONFIG)
        owners.next().create("m", CONFIG)
        for life in range(6):
            if life:
                owners.next()
            store, memory = owners.stores[-1], owners.stores[-1].memory("m")
            same(memory, twin, 9 * life)
            for each in (memory, twin):
                each.append(rows(9, life))
                each.update(range(4), rows(4, life), lr=0.1)
            if life % 2:
                store.checkpoint()
                for each in (memory, twin):
                    each.write([0], rows(1, life))


def test_a_base_stands_for_what_was_before_it(
    owners: Owners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_disk, "BASE_OBJECTS", 20)
    memory = owners.next().create("m", CONFIG)
    for number in range(50):
        memory.append(rows(2, number))
        owners.disk.settle()
    assert len(owners.shelf.names("ops")) <= 24
    bases = owners.shelf.names("base")
    assert [name for name in bases if name.endswith(".whole")] == bases[-1:]
    expected = memory.gather(range(100)).keys_BD
    found = owners.next().memory("m")
    np.testing.assert_array_equal(found.gather(range(100)).keys_BD, expected)
    owners.stores[-1].checkpoint()
    np.testing.assert_array_equal(owners.next().memory("m").gather(range(100)).keys_BD, expected)


def test_a_commit_does_not_fail_with_the_base_behind_it(
    owners: Owners, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a process may open no more files."""
    monkeypatch.setattr(shared_disk, "BASE_OBJECTS", 20)
    memory = owners.next().create("m", CONFIG)
    root, opened, tried = owners.disk._root, os.open, [0]

    def full(path: Any, flags: int, *rest: Any, **facts: Any) -> int:
        if flags == os.O_RDONLY and root in Path(path).parents and Path(path).is_file():
            tried[0] += 1
            if tried[0] % 3 == 0:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, flags, *rest, **facts)

    def handles() -> int:
        links = list[str]()
        for each in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # that of the listing itself
                links.append(str(each.readlink()))
        return sum(link.startswith(f"{root}/") for link in links)

    before = handles()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        for number in range(50):
            memory.append(rows(2, number))
    assert "were not put anew" in caplog.text
    assert not owners.shelf.names("base")
    assert handles() == before
    expected = memory.gather(range(100)).keys_BD
    np.testing.assert_array_equal(owners.next().memory("m").gather(range(100)).keys_BD, expected)


def test_the_owner_before_writes_nothing_more(owners: Owners) -> None:
    first = owners.next()
    memory, disk = first.create("m", CONFIG), owners.disk
    memory.append(rows(3))
    assert not disk.sealed
    second = owners.next()
    there = owners.shelf.names("ops")
    for refused in (
        lambda: memory.append(rows(1)),
        lambda: memory.erase([0]),
        first.checkpoint,
        lambda: first.create("other", CONFIG),
    ):
        with pytest.raises(MemstoreError, match="newer term"):
            refused()
    assert disk.sealed
    assert not owners.disk.sealed
    assert owners.shelf.names("ops") == there
    assert second.memory("m").append(rows(1)).tolist() == [3]
    assert second.list() == ["m"]


def test_a_term_that_is_not_newer_opens_nothing(owners: Owners) -> None:
    memory = owners.next(5).create("m", CONFIG)
    for term in (5, 4, 1):
        with pytest.raises(StoreLocked, match="a newer term"):
            owners.next(term)
    assert memory.append(rows(1)).tolist() == [0]


class Cut(Between):
    """A shelf that fails once, before a put or behind it."""

    def __init__(self, inner: Shelf, at: int, *, behind: bool) -> None:
        super().__init__(inner)
        self.at, self.behind = at, behind

    def put(self, name: str, data: bytes) -> bool:
        self.at -= 1
        if self.at == 0 and not self.behind:
            raise OSError("cut here")
        done = super().put(name, data)
        if self.at == 0:
            raise OSError("cut here")
        return done


@pytest.mark.parametrize("behind", [False, True])
def test_what_was_not_acknowledged_is_there_or_not_whole(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    """The storage fails at each put in turn."""
    monkeypatch.setattr(shared_disk, "BASE_OBJECTS", 6)
    for at in range(2, 40, 3):
        shelf = open_shelf(place(tmp_path / str(at) / "shelf"))
        owners = Owners(tmp_path / str(at), shelf)
        owners.next().create("m", CONFIG)
        owners.shelf = Cut(shelf, at, behind=behind)
        done, failed = 0, False
        try:
            memory = owners.next().memory("m")
            for number in range(20):
                memory.append(rows(1, number))
                done += 1
                owners.disk.settle()
                if number == 5:
                    owners.stores[-1].checkpoint()
        except (MemstoreError, OSError):
            failed = True
        owners.shelf, owners.term = shelf, owners.term + 1
        found = owners.next().memory("m")
        there = found.describe().next_slot
        assert done <= there <= done + failed
        expected = np.concatenate([rows(1, number) for number in range(there)] or [rows(0)])
        np.testing.assert_array_equal(found.gather(range(there)).keys_BD, expected)
        found.append(rows(1))
        owners.close()


def test_another_owner_may_come_at_each_put(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what an owner is about to put, and that it does."""
    monkeypatch.setattr(shared_disk, "BASE_OBJECTS", 6)
    came = 0
    for at in range(1, 40, 3):
        shelf = open_shelf(place(tmp_path / str(at) / "shelf"))
        owners, others = (Owners(tmp_path / str(at) / name, shelf) for name in ("a", "b"))
        owners.next().create("m", CONFIG)
        others.term = 8

        class Overtaken(Between):
            left = at
            by = others

            def put(self, name: str, data: bytes) -> bool:
                self.left -= 1
                if self.left == 0:
                    self.by.next().memory("m").append(rows(1, 77))
                return self.inner.put(name, data)

        owners.shelf = Overtaken(shelf)
        done, refused = 0, False
        try:
            memory = owners.next().memory("m")
            for number in range(20):
                memory.append(rows(1, number))
                done += 1
                owners.disk.settle()
        except (MemstoreError, OSError):
            refused = True
        owners.disk.settle()  # who comes while a base is put is in that thread
        if others.stores:
            came += 1
            assert refused
            for other in (others.stores[-1], others.next()):
                found = other.memory("m")
                expected = [*(rows(1, number) for number in range(done)), rows(1, 77)]
                np.testing.assert_array_equal(
                    found.gather(range(done + 1)).keys_BD, np.concatenate(expected)
                )
                assert found.describe().next_slot == done + 1
        owners.close()
        others.close()
    assert came > 5


def test_an_opening_begins_again_where_a_base_took_away_what_it_reads(shelf: Shelf) -> None:
    first = Stream.open(shelf, 1, lambda: lambda data, name: None)
    for number in range(6):
        first.put(f"{number}".encode())

    class Late(Between):
        """While it is read at one place, the owner takes it away there."""

        done = False

        def get(self, name: str) -> bytes | None:
            if name.endswith("-000000000003") and not self.done:
                self.done = True
                first.rebase(first.position, [b"all"])
                first.put(b"6")
            return super().get(name)

    taken: list[bytes] = []

    def begin() -> Any:
        taken.clear()
        return lambda data, name: taken.append(data)

    second = Stream.open(Late(shelf), 2, begin)
    assert taken == [b"all", b"6"]
    with pytest.raises(Superseded):
        first.put(b"7")
    second.put(b"8")
    Stream.open(shelf, 3, begin)
    assert taken == [b"all", b"6", b"8"]


def test_of_two_who_open_at_once_the_newer_has_the_store(shelf: Shelf) -> None:
    def nothing() -> Any:
        return lambda data, name: None

    Stream.open(shelf, 1, nothing).put(b"1")

    class Raced(Between):
        """Another opens the store between a look and a put."""

        done = False

        def put(self, name: str, data: bytes) -> bool:
            if not self.done:
                self.done = True
                Stream.open(shelf, self.other, nothing)
            return super().put(name, data)

        other = 0

    raced = Raced(shelf)
    raced.other = 3
    with pytest.raises(StoreLocked):
        Stream.open(raced, 2, nothing)
    raced = Raced(shelf)
    raced.other = 4
    last = Stream.open(raced, 5, nothing)
    last.put(b"5")


def test_objects_that_were_altered_are_refused(owners: Owners) -> None:
    owners.next().create("m", CONFIG)
    name = "ops/" + owners.shelf.names("ops")[2]
    data = bytearray(owners.shelf.get(name) or b"")
    data[-1] ^= 1
    owners.shelf.remove([name])
    assert owners.shelf.put(name, bytes(data))
    with pytest.raises(CorruptFile, match=name):
        owners.next()
    owners.shelf.remove([name])
    assert owners.shelf.put(name, b"")
    with pytest.raises(CorruptFile, match="torn"):
        owners.next(9)


def test_a_replica_is_what_it_was_made_of(tmp_path: Path) -> None:
    """Changes drawn at random, made on a shared disk, and from what that shipped."""
    rng = np.random.default_rng(7)
    shelf = open_shelf(tmp_path / "shelf")
    disk = SharedDisk.open(tmp_path / "a", shelf, 1)
    folders, opened = [tmp_path / "a"], dict[Path, Any]()
    for number in range(400):
        choice = rng.integers(7)
        if choice == 0:
            folders.append(folders[rng.integers(len(folders))] / f"f{number}")
            disk.make(folders[-1])
        elif choice == 1 or not opened:
            path = folders[rng.integers(len(folders))] / f"x{number}"
            opened[path] = disk.create(path)
        else:
            path = list(opened)[rng.integers(len(opened))]
            if choice in (2, 3, 4):
                opened[path].write([rng.bytes(int(rng.integers(50))), rng.bytes(3)])
            elif choice == 5:
                other = path.with_name(f"y{number}")
                disk.rename(path, other)
                opened[other] = opened.pop(path)
            elif rng.integers(2):
                opened[path].cut(min(path.stat().st_size, int(rng.integers(60))))
            else:
                disk.remove(path)
                opened.pop(path).close()
        if number % 50 == 49:
            disk.sync_folder(tmp_path)
            made = SharedDisk.open(tmp_path / "b", _copied(shelf, tmp_path / f"s{number}"), 2)
            assert _tree(tmp_path / "a") == _tree(tmp_path / "b")
            assert made._tree == disk._tree
    for file in opened.values():
        file.close()


def _copied(shelf: Shelf, to: Path) -> Shelf:
    copied = open_shelf(to)
    for name in shelf.names("ops"):
        copied.put(f"ops/{name}", shelf.get(f"ops/{name}") or b"")
    return copied


def _tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_batches_say_what_was_put_into_them() -> None:
    changes = [Change("make", ("a",)), Change("write", (1, 5), b"\0xyz"), Change("cut", (1, 2))]
    assert [*replica.decode(replica.encode(changes), "it")] == changes
    assert [*replica.decode(replica.encode([]), "it")] == []


def test_writing_to_a_file_without_a_name_is_no_change(tmp_path: Path) -> None:
    made = Replica(tmp_path)
    for change in (
        Change("create", (1, "a")),
        Change("remove", ("a",)),
        Change("write", (1, 0), b"x"),
        Change("cut", (1, 0)),
    ):
        made.take(change)
    assert not [*tmp_path.iterdir()]


OWNER = """
    import sys
    from pathlib import Path
    import numpy as np
    from memstore import Store
    from memstore.errors import MemstoreError
    from memstore.shared.disk import SharedDisk
    from memstore.shared.shelf import open_shelf

    folder = Path(sys.argv[1])
    store = Store(folder, fsync="always", disk=SharedDisk.open(folder, open_shelf(sys.argv[2]), 2))
    memory = store.memory("m")
    try:
        while True:
            slot = int(memory.append(np.full((1, 3), memory.describe().next_slot, np.float32))[0])
            print(slot, flush=True)
    except MemstoreError as error:
        print(f"refused: {error}", flush=True)
"""


def test_an_owner_that_was_stopped_and_wakes_up_writes_nothing(
    owners: Owners, tmp_path: Path, place: Place
) -> None:
    owners.next().create("m", CONFIG)
    places = [str(tmp_path / "other"), place(tmp_path / "shelf")]
    command = [sys.executable, "-c", textwrap.dedent(OWNER), *places]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            last = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGSTOP)
        memory = owners.next(3).memory("m")
        there = memory.describe().next_slot
        assert there > last
        names = owners.shelf.names("ops")
        os.kill(process.pid, signal.SIGCONT)
        # What it had told before it was stopped lies in the pipe.
        told = [process.stdout.readline()]
        while told[-1] and not told[-1].startswith("refused"):
            told.append(process.stdout.readline())
    assert "newer term" in told[-1]
    acknowledged = [int(line) for line in told[:-1]]
    assert max([last, *acknowledged]) < there
    assert owners.shelf.names("ops") == names
    slots = memory.append(rows(4))
    assert slots.tolist() == [*range(there, there + 4)]
    expected = np.repeat(np.arange(there, dtype=np.float32)[:, None], WIDTH, axis=1)
    np.testing.assert_array_equal(memory.gather(range(there)).keys_BD, expected)


def test_who_asks_the_owner_before_is_told_to_ask_another(owners: Owners) -> None:
    memory = owners.next().create("m", CONFIG)
    owners.next()
    with pytest.raises(ShardElsewhere, match="a newer term than 1 has begun"):
        memory.append(rows(1))


def test_the_owner_before_writes_nothing_more_though_a_base_took_its_objects_away(
    owners: Owners, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = owners.next().create("m", CONFIG)
    memory.append(rows(3))
    disk = owners.disk
    monkeypatch.setattr(shared_disk, "BASE_OBJECTS", 2)
    second = owners.next().memory("m")
    for number in range(8):
        second.append(rows(1, number))
        owners.disk.settle()
    assert owners.shelf.names("base")
    (seal,) = [name for name in owners.shelf.names("ops") if name.startswith("0000000001")]
    assert (owners.shelf.get(f"ops/{seal}") or b"").startswith(b"seal ")
    assert disk.sealed
    with pytest.raises(ShardElsewhere, match="a newer term than 1 has begun"):
        memory.append(rows(1))
    third = owners.next().memory("m")
    assert third.describe().next_slot == 11


def test_commits_that_wait_for_slow_storage_go_there_together(
    tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many writers as wait, about two objects in the time of one round trip of each."""
    writers, each = 16, 4
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    owners = Owners(tmp_path, open_shelf(server.uri("bucket", str(tmp_path).strip("/"))))
    memory = owners.next().create("m", CONFIG)
    before = owners.disk._stream.sequence
    server.delay_s = 0.1

    def append(seed: int) -> None:
        for _ in range(each):
            memory.append(rows(1, seed))

    try:
        threads = [threading.Thread(target=append, args=(seed,)) for seed in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        server.delay_s = 0.0
    assert owners.disk._stream.sequence - before < writers * each / 2
    found = np.asarray(owners.next().memory("m").gather(range(writers * each)).keys_BD)
    expected = np.repeat(np.concatenate([rows(1, seed) for seed in range(writers)]), each, axis=0)
    assert {*map(bytes, found)} == {*map(bytes, expected)}
    owners.close()
