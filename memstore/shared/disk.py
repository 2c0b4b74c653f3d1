"""SharedDisk: a disk of this machine that no more is lost with than what nobody waited for.

    disk = SharedDisk.open(folder, shelf, term)
    with Store(folder, fsync="always", disk=disk) as store: …

The files lie in a folder of this machine, from which all is read; each change of them is noted,
and a sync, of whatever, ships what was noted until then as one object, in its order. So a commit
that several logs wait for is one object, and whoever opens the shelf under a newer term finds the
files as they were at one moment that is not older than any sync that returned.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from memstore import files
from memstore.disk import DISK, Bytes, File, Superseded
from memstore.shared import replica
from memstore.shared.replica import Change, Replica, Tree
from memstore.shared.shelf import Shelf
from memstore.shared.stream import Stream

SHIP_BYTES = 1 << 23
"""What is noted and not shipped is kept in memory: no more than this and what comes at once."""

BASE_BYTES, BASE_OBJECTS, OBJECT_BYTES = 1 << 26, 4_096, 1 << 16
"""Behind so many bytes, and no fewer than all files have, these are put anew as a base; and behind
so many objects, of which each counts like so many bytes, for it is read by itself."""

logger = logging.getLogger(__name__)


class SharedDisk:
    """A `Disk` for one folder and those in it. Any thread may call."""

    def __init__(self, folder: Path, stream: Stream, tree: Tree) -> None:
        self._root, self._stream, self._tree = folder, stream, tree
        self._noting, self._shipping = threading.RLock(), threading.Lock()
        self._pending: list[Change] = []
        self._pending_bytes = self._noted = self._shipped = 0
        self._failure: OSError | None = None
        self._bytes = self._objects = 0
        """Behind the last base."""
        self._rebasing: threading.Thread | None = None

    @classmethod
    def open(cls, folder: Path, shelf: Shelf, term: int) -> SharedDisk:
        """Makes the folder as it was shipped last; whoever had it before ships nothing more.

        folder: of this machine; what is in it is taken away. Raises as `Stream.open`.
        """
        made = Replica(folder)
        size = objects = 0

        def begin() -> Callable[[bytes, str], None]:
            nonlocal made, size, objects
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            made, size, objects = Replica(folder), 0, 0
            return take

        def take(data: bytes, name: str) -> None:
            nonlocal size, objects
            size, objects = size + len(data), objects + 1
            for change in replica.decode(data, name):
                made.take(change)

        with files.typed("a copy of the shared store"):
            stream = Stream.open(shelf, term, begin)
        disk = cls(folder, stream, made.tree)
        disk._bytes, disk._objects = size, objects
        return disk

    @property
    def is_new(self) -> bool:
        """Whether it has no file."""
        return not self._tree.files

    @property
    def sealed(self) -> bool:
        """Whether a newer term has begun: then what is served here may be old."""
        return isinstance(self._failure, Superseded) or self._stream.sealed

    @property
    def failure(self) -> OSError | None:
        """What ended its shipping, if that has ended."""
        return self._failure

    def make(self, folder: Path) -> None:
        with self._noting:
            DISK.make(folder)
            self._note("make", folder)

    def create(self, path: Path) -> File:
        with self._noting:
            file = DISK.create(path)
            number = self._tree.next
            self._note("create", path, number)
        return _SharedFile(self, number, file)

    def read(self, path: Path) -> bytes:
        return DISK.read(path)

    def map(self, path: Path) -> memoryview:
        return DISK.map(path)

    def size(self, path: Path) -> int:
        return DISK.size(path)

    def names(self, folder: Path) -> list[str]:
        return DISK.names(folder)

    def rename(self, old: Path, new: Path) -> None:
        with self._noting:
            DISK.rename(old, new)
            change = Change("rename", (self._name(old), self._name(new)))
            self.note(change)

    def remove(self, path: Path) -> None:
        with self._noting:
            DISK.remove(path)
            # What it was made of without this disk was never shipped.
            if self._name(path) in self._tree.files:
                self._note("remove", path)

    def remove_folder(self, folder: Path) -> None:
        with self._noting:
            DISK.remove_folder(folder)
            if self._name(folder) in self._tree.folders:
                self._note("unmake", folder)

    def sync_folder(self, folder: Path) -> None:
        self.ship()

    def note(self, change: Change) -> None:
        """Notes a change that was made here; ships if there is much."""
        with self._noting:
            self._tree.take(change)
            self._pending.append(change)
            self._noted += 1
            self._pending_bytes += len(change.data)
            much = self._pending_bytes >= SHIP_BYTES
        if much and change.kind == "write":
            self.ship()

    def ship(self) -> None:
        """Returns once all that was noted so far is on the shelf; raises `OSError`.

        After one that failed nothing is shipped any more: nobody knows what is there.
        """
        with self._noting:
            wanted = self._noted
        with self._shipping:
            if self._failure is not None:
                raise self._failed()
            if self._shipped < wanted:
                self._ship()
            if self._is_due():
                self._rebase()

    def _ship(self) -> None:
        with self._noting:
            changes, reached = self._pending, self._noted
            self._pending, self._pending_bytes = [], 0
        data = replica.encode(changes)
        try:
            self._stream.put(data)
        except OSError as error:
            self._failure = error
            raise self._failed() from error
        self._shipped = reached
        self._bytes, self._objects = self._bytes + len(data), self._objects + 1

    def _failed(self) -> OSError:
        if isinstance(self._failure, Superseded):
            return Superseded(*self._failure.args)
        # Never as of a disk that is full: there is no trying again.
        return OSError(errno.EIO, str(self._failure))

    def _is_due(self) -> bool:
        if self._bytes <= BASE_BYTES and self._objects <= BASE_OBJECTS:
            return False
        if self._rebasing is not None and self._rebasing.is_alive():
            return False
        size = self._tree.bytes
        return self._bytes > max(BASE_BYTES, size) or self._objects > max(
            BASE_OBJECTS, size // OBJECT_BYTES
        )

    def _rebase(self) -> None:
        """Takes all files as they are now, and has a thread put them on the shelf."""
        with self._noting:
            if self._pending:
                return  # Others came meanwhile: at the next time that something is shipped.
            tree, at = copy.deepcopy(self._tree), self._stream.position
            self._bytes = self._objects = 0
            opened: dict[str, int] = {}
            try:
                for path in tree.files:
                    opened[path] = os.open(self._root / path, os.O_RDONLY)
            except OSError as error:
                # What was shipped is there all the same: whoever waits for it is not to fail.
                logger.warning("the files of %s were not put anew: %s", self._root, error)
                _close(opened)
                return
        self._rebasing = threading.Thread(
            target=self._put_base, args=(tree, opened, at), name="memstore-base", daemon=True
        )
        self._rebasing.start()

    def _put_base(self, tree: Tree, opened: dict[str, int], at: tuple[int, int]) -> None:
        try:
            self._stream.rebase(at, map(replica.encode, replica.whole(tree, opened)))
        except OSError as error:
            # What is there says the same, at greater length.
            logger.warning("the files of %s were not put anew: %s", self._root, error)
        finally:
            _close(opened)

    def settle(self) -> None:
        """Waits for a base that is being put."""
        if self._rebasing is not None:
            self._rebasing.join()

    def _note(self, kind: replica.Kind, path: Path, *numbers: int) -> None:
        if path != self._root and path.is_relative_to(self._root):
            self.note(Change(kind, (*numbers, self._name(path))))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _close(opened: dict[str, int]) -> None:
    for handle in opened.values():
        with contextlib.suppress(OSError):
            os.close(handle)


class _SharedFile:
    """A file of this machine, what is written to which is noted."""

    def __init__(self, disk: SharedDisk, number: int, file: File) -> None:
        self._disk, self._number, self._file = disk, number, file
        self._end = 0

    def write(self, parts: Sequence[Bytes]) -> None:
        self._file.write(parts)
        data = b"".join(parts)
        at, self._end = self._end, self._end + len(data)
        self._disk.note(Change("write", (self._number, at), data))

    def lay(self, size: int) -> None:
        """Does nothing: nobody syncs the file here."""

    def sync(self) -> None:
        self._disk.ship()

    def cut(self, size: int) -> None:
        self._file.cut(size)
        self._end = size
        self._disk.note(Change("cut", (self._number, size)))

    def close(self) -> None:
        self._file.close()
