"""Files that are whole or not there: checksums, atomic replacement, one owner."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import math
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy
from zlib_ng.zlib_ng import crc32, crc32_combine

from memstore.disk import DISK, FULL, Bytes, Disk
from memstore.errors import CorruptFile, DiskFailed, StorageFull, StoreLocked

CHUNK_BYTES = 1 << 22


Fingerprint = dict[str, int]
"""Size and CRC of a file: `bytes` and `crc32`."""

Files = dict[str, Fingerprint]
"""Files of one folder by name."""


NewFile = BinaryIO
"""A file that is being made, written from its front to its end."""

BUFFER_BYTES = 1 << 20

_READING = threading.Lock()
"""numpy reads the head of a file with `ast`, which counts its depth in one place for all threads:
of two that are at it either may fail (seen with Python 3.11; python/cpython#106905)."""


class Counted(io.RawIOBase):
    """What is behind a new file: it counts the bytes on their way to the disk, and sums them."""

    def __init__(self, path: Path, disk: Disk) -> None:
        super().__init__()
        self._file, self._crc, self._bytes = disk.create(path), 0, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._file.write([view])
        self._crc, self._bytes = crc32(view, self._crc), self._bytes + len(view)
        return len(view)

    def put(self, parts: Sequence[Bytes], crcs: Iterable[int]) -> None:
        """Writes parts at once whose CRCs are known."""
        self._file.write(parts)
        for part, crc in zip(parts, crcs, strict=True):
            self._crc = crc32_combine(self._crc, crc, len(part))
            self._bytes += len(part)

    def sync(self) -> Fingerprint:
        """Makes what was written durable; returns its fingerprint."""
        self._file.sync()
        return {"bytes": self._bytes, "crc32": self._crc}

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextlib.contextmanager
def typed(what: str) -> Iterator[None]:
    """Lets what a disk refuses come out as `StorageFull` where it is full, else as `DiskFailed`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(
                f"the disk has no room for {what}; nothing is lost",
                got=str(error),
                hint="make room and try again",
            ) from error
        raise DiskFailed(
            f"the disk refused {what}; nothing is lost", got=str(error), hint="try again"
        ) from error


@contextlib.contextmanager
def making(path: Path, disk: Disk = DISK) -> Iterator[Counted]:
    """Makes a file; where it fails none is left. What is in it is durable after its `sync`."""
    counted = Counted(path, disk)
    try:
        with counted:
            yield counted
    except BaseException:
        disk.remove(path)
        raise


def make(path: Path, write: Callable[[NewFile], object], disk: Disk = DISK) -> Fingerprint:
    """Makes a file of what `write` writes into it; returns its fingerprint.

    What is in it is durable then, its name after a sync of the folder. Where it fails no file is
    left.
    """
    with making(path, disk) as counted:
        file = io.BufferedWriter(counted, BUFFER_BYTES)
        write(file)
        file.flush()
        return counted.sync()


def arrays_to(file: NewFile, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes arrays as numpy's `.npz`."""
    np.savez(file, allow_pickle=False, **arrays)


def arrays_of(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Reads what `arrays_to` wrote; any number of threads may."""
    with zipfile.ZipFile(path) as members:
        arrays = {}
        for name in members.namelist():
            with members.open(name) as member:
                arrays[name.removesuffix(".npy")] = _array_in(member)
        return arrays


def array_of(path: Path) -> npt.NDArray[Any]:
    """Reads an array in numpy's `.npy`; any number of threads may."""
    with path.open("rb") as file:
        return _array_in(file)


def array_at(path: Path) -> npt.NDArray[Any]:
    """An array in numpy's `.npy` that is read as far as it is looked at; any number of threads may
    ask for one. None can be mapped of which there is nothing: that is read."""
    with _READING:
        array: npt.NDArray[Any] = np.load(path, "r" if path.stat().st_size > 128 else None)
    return array


def _array_in(file: IO[bytes]) -> npt.NDArray[Any]:
    """Reads an array as `np.save` writes one, as version 1 of its format."""
    with _READING:
        if (version := npy.read_magic(file)) != (1, 0):
            raise ValueError(f"an array in version {version} of its format, not (1, 0)")
        shape, by_columns, dtype = npy.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    array = np.empty(math.prod(shape), dtype)
    data = memoryview(cast(Any, array.view(np.uint8)) if array.nbytes else b"")
    done = 0
    while done < len(data):
        read = file.readinto(data[done:])  # type: ignore[attr-defined]
        if not read:
            raise ValueError(f"an array of {len(data)} bytes ends after {done}")
        done += read
    return array.reshape(shape, order="F" if by_columns else "C")


def make_folder(folder: Path, disk: Disk = DISK) -> None:
    """Makes a folder, and those around it that are not there; their names are durable then."""
    if not folder.is_dir():
        make_folder(folder.parent, disk)
        try:
            disk.make(folder)
        except FileExistsError:
            # Another thread was faster; what is there may be a file all the same.
            if not folder.is_dir():
                raise
        disk.sync_folder(folder.parent)


def check_size(path: Path, size: int) -> None:
    """Raises `CorruptFile` unless the file is there and has so many bytes."""
    if not path.is_file():
        raise CorruptFile(f"{path} is missing", hint="restore it from a copy of the store")
    if path.stat().st_size != size:
        raise CorruptFile(
            f"{path} is torn or foreign",
            got=f"{path.stat().st_size} bytes",
            expected=f"{size} bytes",
        )


def check(path: Path, expected: Fingerprint) -> None:
    """Raises `CorruptFile` unless the file is there and has that fingerprint."""
    check_size(path, expected["bytes"])
    found = fingerprint(path)
    if found != expected:
        raise CorruptFile(
            f"{path} was altered",
            got=f"checksum {found['crc32']:08x}",
            expected=f"{expected['crc32']:08x}",
        )


def check_all(folder: Path, expected: Mapping[str, Fingerprint]) -> None:
    """Raises `CorruptFile` unless all files of these names have these fingerprints."""
    for name, fingerprint in expected.items():
        check(folder / name, fingerprint)


def replace_json(path: Path, value: dict[str, Any], disk: Disk = DISK) -> None:
    """Writes JSON so that a reader finds the old file or the new one, never a part."""
    data = to_json(value)
    draft = path.with_name(path.name + ".new")
    if draft.exists():
        disk.remove(draft)
    make(draft, lambda file: file.write(data), disk)
    disk.rename(draft, path)
    disk.sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Reads what `replace_json` wrote; raises `CorruptFile` on anything else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read", got=str(error)) from error
    return parse_json(data, str(path))


def to_json(value: dict[str, Any]) -> bytes:
    """JSON with its checksum."""
    body = json.dumps(value, indent=1)
    return json.dumps({"crc32": crc32(body.encode()), "body": body}).encode()


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """What `to_json` gave; raises `CorruptFile` on anything else."""
    try:
        outer = json.loads(data)
        body, expected = outer["body"], outer["crc32"]
        if crc32(body.encode()) != expected:
            raise CorruptFile(f"{name} was altered", got="another checksum than it names")
        value: dict[str, Any] = json.loads(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{name} is not a manifest", got=str(error)) from error
    return value


def lock(path: Path, *, shared: bool = False) -> IO[str]:
    """Takes the lock of the one owner, or of any number of readers beside none.

    It is held until the returned file is closed.
    """
    if shared and not path.exists():
        # A copy of a store: whoever has it open otherwise made the file first.
        return Path(os.devnull).open()
    file = path.open("r" if shared else "a+")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise StoreLocked(
            f"{path.parent} is open elsewhere",
            got=f"a lock held by process {owner or 'unknown'}, or by readers",
            hint="close the store there first",
        ) from error
    if not shared:
        # Whose it is, for others to read; on a full disk it is held all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
    return file


def fingerprint_of(data: bytes) -> Fingerprint:
    return {"bytes": len(data), "crc32": crc32(data)}


def fingerprint(path: Path) -> Fingerprint:
    crc, size = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            crc, size = crc32(chunk, crc), size + len(chunk)
    return {"bytes": size, "crc32": crc}
