"""Disks to fail on: one in memory loses power, refuses an operation or sleeps through a sync.

`SimulatedDisk` keeps what was synced apart from what was only written. `power_loss` gives the disk
as the next process finds it: of each file what was synced, and of the rest anything: nothing, all,
a prefix, or any of its blocks of 512 bytes, those cut off before included, with zeros between; of
the changes of names in a folder since it was synced any, in their order.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

import memstore.disk
from memstore.disk import Bytes, File, LocalDisk, LocalFile

BLOCK = 512
PACKAGE = os.fspath(Path(memstore.disk.__file__).parent)


class PowerLost(BaseException):
    """The machine is off: no code goes on, whatever it catches."""


@dataclass
class Inode:
    """A file without its names.

    end: so far it was written, over zeros that reach beyond.  safe: so far when it was synced.
    lost: a sync failed, and later ones do not write what it left.
    """

    cached: bytes = b""
    durable: bytes = b""
    gone: list[bytes] = field(default_factory=list)
    end: int = 0
    safe: int = 0
    lost: bool = False
    folder: bool = False

    def after_power_loss(self, rng: np.random.Generator) -> Inode:
        if self.folder:
            return self
        versions = [self.cached, *self.gone]
        kept, first = bytearray(self.durable), self.safe
        choice = rng.integers(4)
        if choice == 1 and not self.lost:
            kept = bytearray(self.cached)
        elif choice == 2 and not self.lost:
            version = versions[rng.integers(len(versions))]
            stop = rng.integers(first, max(first, len(version)) + 1)
            kept[first:stop] = version[first:stop]
        elif choice == 3:
            longest = max(map(len, versions))
            size = int(rng.integers(len(kept), max(len(kept), longest) + 1))
            kept += bytes(size - len(kept))
            for start in range(first - first % BLOCK, size, BLOCK):
                version = versions[rng.integers(len(versions))]
                block = version[max(start, first) : min(start + BLOCK, size)]
                if rng.integers(2):
                    kept[max(start, first) : max(start, first) + len(block)] = block
        return Inode(bytes(kept), bytes(kept), end=len(kept), safe=len(kept))


class SimulatedDisk:
    """Folders in memory. All of them are there from the start, and empty, for who asks no more than
    a log does; `make` gives a folder a name in the one around it.

    stop_at: the operation, counted from 1, at which `failure` happens: an errno, once, or power
    lost, for good; a write does a part of its work first.  asleep: the site of syncs that are
    skipped: the functions of memstore by which one was called, the innermost first, or some of
    the first of them.
    """

    def __init__(self, asleep: str = "") -> None:
        self.asleep = asleep
        self.stop_at = 0
        self.failure: int | type[PowerLost] = PowerLost
        self.operations = 0
        self.sites = Counter[str]()
        self.off = False
        self._names: dict[Path, dict[str, Inode]] = {}
        self._durable: dict[Path, dict[str, Inode]] = {}
        self._changes: dict[Path, list[dict[str, Inode | None]]] = {}

    def make(self, folder: Path) -> None:
        self.operate()
        self._names[folder], self._durable[folder], self._changes[folder] = {}, {}, []
        self._change(folder.parent, {folder.name: Inode(folder=True)})

    def create(self, path: Path) -> File:
        self.operate()
        if path.name in self._folder(path.parent):
            raise FileExistsError(errno.EEXIST, "there already", str(path))
        inode = Inode()
        self._change(path.parent, {path.name: inode})
        return SimulatedFile(self, inode)

    def read(self, path: Path) -> bytes:
        self.operate()
        return self._inode(path).cached

    def map(self, path: Path) -> memoryview:
        return memoryview(self.read(path))

    def size(self, path: Path) -> int:
        return len(self.read(path))

    def names(self, folder: Path) -> list[str]:
        self.operate()
        return list(self._folder(folder))

    def rename(self, old: Path, new: Path) -> None:
        self.operate()
        self._change(new.parent, {old.name: None, new.name: self._inode(old)})

    def remove(self, path: Path) -> None:
        self.operate()
        self._inode(path)
        self._change(path.parent, {path.name: None})

    def remove_folder(self, folder: Path) -> None:
        self.operate()
        self._change(folder.parent, {folder.name: None})

    def sync_folder(self, folder: Path) -> None:
        self.operate()
        if self.sleeps("folder"):
            return
        self._durable[folder] = dict(self._folder(folder))
        self._changes[folder] = []

    def power_loss(self, rng: np.random.Generator) -> SimulatedDisk:
        """The disk after the power was lost now, and came back."""
        after = type(self)(self.asleep)
        after.sites = self.sites
        for folder in self._names:
            names = dict(self._durable.get(folder, {}))
            changes = self._changes[folder]
            if rng.integers(2):  # as a file system with a journal has it: the first of them
                kept = changes[: rng.integers(len(changes) + 1)]
            else:
                kept = [change for change in changes if rng.integers(2)]
            for change in kept:
                for name, inode in change.items():
                    if inode is None:
                        names.pop(name, None)
                    else:
                        names[name] = inode
            left = {name: inode.after_power_loss(rng) for name, inode in names.items()}
            after._names[folder], after._durable[folder] = left, dict(left)
            after._changes[folder] = []
        return after

    def put(self, path: Path, data: bytes) -> None:
        """Lays a durable file down, as an accident would."""
        for names in (self._folder(path.parent), self._durable.setdefault(path.parent, {})):
            names[path.name] = Inode(data, data)

    def operate(self) -> bool:
        """Counts an operation; whether it is to fail with an errno, raised unless a write asks."""
        if self.off:
            raise PowerLost
        self.operations += 1
        if self.operations != self.stop_at:
            return False
        if isinstance(self.failure, int):
            raise OSError(self.failure, os.strerror(self.failure))
        self.off = True
        raise self.failure

    def sleeps(self, what: str) -> bool:
        """Notes where a sync was called; whether it is to be skipped."""
        callers = [what]
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
            if not frame.f_code.co_name.startswith("<"):  # a comprehension
                callers.append(frame.f_code.co_name)
            frame = frame.f_back
        site = " < ".join(callers)
        self.sites[site] += 1
        return bool(self.asleep) and f"{site} <".startswith(f"{self.asleep} <")

    def _folder(self, folder: Path) -> dict[str, Inode]:
        self._changes.setdefault(folder, [])
        return self._names.setdefault(folder, {})

    def _inode(self, path: Path) -> Inode:
        if path.name not in self._folder(path.parent):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self._folder(path.parent)[path.name]

    def _change(self, folder: Path, change: dict[str, Inode | None]) -> None:
        names = self._folder(folder)
        for name, inode in change.items():
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        self._changes[folder].append(change)


class SimulatedFile:
    def __init__(self, disk: SimulatedDisk, inode: Inode) -> None:
        self._disk, self._inode = disk, inode

    @property
    def inode(self) -> Inode:
        return self._inode

    def write(self, parts: Sequence[Bytes]) -> None:
        data = b"".join(bytes(part) for part in parts)
        try:
            self._disk.operate()
        except (OSError, PowerLost):
            if not self._disk.off or self._disk.operations == self._disk.stop_at:
                self._put(data[: len(data) * 2 // 3])
            raise
        self._put(data)

    def lay(self, size: int) -> None:
        end = self._inode.end
        try:
            self.write([bytes(size - end)])
        finally:
            self._inode.end = end

    def sync(self) -> None:
        try:
            self._disk.operate()
        except OSError:
            self._inode.lost = True
            raise
        if not self._disk.sleeps("file") and not self._inode.lost:
            self._inode.durable, self._inode.safe = self._inode.cached, self._inode.end
            self._inode.gone = []

    def cut(self, size: int) -> None:
        self._disk.operate()
        self._inode.gone.append(self._inode.cached)
        self._inode.cached, self._inode.end = self._inode.cached[:size], size

    def close(self) -> None:
        pass

    def _put(self, data: bytes) -> None:
        inode = self._inode
        behind = inode.end + len(data)
        inode.cached = inode.cached[: inode.end] + data + inode.cached[behind:]
        inode.end = behind


class MirroredDisk(SimulatedDisk):
    """What is written lies in real folders too, for those who read it there."""

    def __init__(self, asleep: str = "") -> None:
        super().__init__(asleep)
        self._open: list[LocalFile] = []

    def make(self, folder: Path) -> None:
        super().make(folder)
        folder.mkdir()

    def create(self, path: Path) -> File:
        file = super().create(path)
        assert isinstance(file, SimulatedFile)
        real = LocalDisk().create(path)
        self._open.append(real)
        return MirroredFile(file, real)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        old.rename(new)

    def remove(self, path: Path) -> None:
        super().remove(path)
        path.unlink()

    def remove_folder(self, folder: Path) -> None:
        super().remove_folder(folder)
        folder.rmdir()

    def back(self, root: Path, rng: np.random.Generator) -> MirroredDisk:
        """The disk after the power was lost now, and came back, laid out in the same folder."""
        for file in self._open:
            file.close()
        shutil.rmtree(root)
        root.mkdir()
        after = self.power_loss(rng)
        assert isinstance(after, MirroredDisk)
        after._lay(root)
        return after

    def _lay(self, folder: Path) -> None:
        for name, inode in self._folder(folder).items():
            if inode.folder:
                (folder / name).mkdir()
                self._lay(folder / name)
            else:
                (folder / name).write_bytes(inode.cached)


class MirroredFile:
    def __init__(self, file: SimulatedFile, real: LocalFile) -> None:
        self._file, self._real = file, real

    def write(self, parts: Sequence[Bytes]) -> None:
        inode = self._file.inode
        before = inode.end
        try:
            self._file.write(parts)
        finally:
            # Of a write that fails a part may be there.
            self._real.write([inode.cached[before : inode.end]])

    def lay(self, size: int) -> None:
        try:
            self._file.lay(size)
        finally:
            self._real.lay(len(self._file.inode.cached))

    def sync(self) -> None:
        self._file.sync()

    def cut(self, size: int) -> None:
        self._file.cut(size)
        self._real.cut(size)

    def close(self) -> None:
        pass


class SlowDisk(LocalDisk):
    """The disk of this machine, never faster than a slow one; `syncs` counts those of files."""

    def __init__(self) -> None:
        self.syncs = 0

    def create(self, path: Path) -> LocalFile:
        disk, file = self, LocalDisk.create(self, path)

        class Slow(LocalFile):
            def sync(self) -> None:
                disk.syncs += 1
                time.sleep(0.005)
                super().sync()

        return Slow(file._handle)
