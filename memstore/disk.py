"""Disk: the few file operations that durability rests on, so that tests can give a worse one.

What is written is there for every process at once; it survives a power loss only after `sync`, and
a name that was created, renamed or removed only after `sync_folder` of its folder. Errors are
`OSError`, and after one of `sync` nobody knows what is on the disk: the same file is not to be
believed again.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

Bytes = bytes | bytearray | memoryview

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""What a disk says that has no room."""

MOST_PARTS = 1_024
"""Buffers that Linux takes in one call (IOV_MAX)."""


class Superseded(OSError):
    """The files have another owner now: nothing that was written here since counts."""


class File(Protocol):
    """A file that is written from its front to its end."""

    def write(self, parts: Sequence[Bytes]) -> None:
        """Puts all the bytes behind what was written; where it raises, some may be there."""

    def lay(self, size: int) -> None:
        """Makes the file so long with zeros, over which it is written; raises as `write`."""

    def sync(self) -> None:
        """Returns once all that was written is durable."""

    def cut(self, size: int) -> None:
        """Drops what lies behind the first `size` bytes, and goes on there."""

    def close(self) -> None:
        """Lets go of the file; makes nothing durable."""


class Disk(Protocol):
    """The names in folders that exist, and the files behind them."""

    def make(self, folder: Path) -> None:
        """Makes a folder that is not there yet; the one around it is."""

    def create(self, path: Path) -> File:
        """Makes a new file; a name that is there raises."""

    def read(self, path: Path) -> bytes:
        """All bytes of a file."""

    def map(self, path: Path) -> memoryview:
        """The bytes of a file, read as they are looked at."""

    def size(self, path: Path) -> int:
        """How many bytes a file has."""

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, in no order."""

    def rename(self, old: Path, new: Path) -> None:
        """Gives a file another name of the same folder."""

    def remove(self, path: Path) -> None:
        """Takes the name of a file away."""

    def remove_folder(self, folder: Path) -> None:
        """Takes a folder away that is empty."""

    def sync_folder(self, folder: Path) -> None:
        """Returns once the names in a folder are durable."""


class LocalDisk:
    """The disk of this machine."""

    def make(self, folder: Path) -> None:
        folder.mkdir()

    def create(self, path: Path) -> LocalFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        return LocalFile(os.open(path, flags, 0o666))

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def map(self, path: Path) -> memoryview:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def names(self, folder: Path) -> list[str]:
        return [path.name for path in folder.iterdir()]

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        path.unlink()

    def remove_folder(self, folder: Path) -> None:
        folder.rmdir()

    def sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class LocalFile:
    """A file of this machine, without a buffer of its own."""

    def __init__(self, handle: int) -> None:
        self._handle, self._end = handle, 0

    def write(self, parts: Sequence[Bytes]) -> None:
        self._end = self._put(parts, self._end)

    def lay(self, size: int) -> None:
        self._put([bytes(size - self._end)], self._end)

    def sync(self) -> None:
        # How long the file is becomes durable as well; when it was written to does not.
        os.fdatasync(self._handle)

    def cut(self, size: int) -> None:
        os.ftruncate(self._handle, size)
        self._end = size

    def close(self) -> None:
        os.close(self._handle)

    def _put(self, parts: Sequence[Bytes], at: int) -> int:
        """Writes at byte `at`; returns where that ends."""
        left = [memoryview(part) for part in parts if len(part)]
        while left:
            written = os.pwritev(self._handle, left[:MOST_PARTS], at)
            at += written
            # The system takes 2 GiB at most, and less where the disk is nearly full.
            while left and written >= left[0].nbytes:
                written -= left.pop(0).nbytes
            if written:
                left[0] = left[0][written:]
        return at


DISK: Disk = LocalDisk()
