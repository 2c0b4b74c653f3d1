"""Region: an array whose length grows in place, so that whoever holds a view of it may go on.

A large range of addresses is reserved at once, and the system backs a page of it with memory when
it is first touched: what is not used costs nothing, and growing moves no row. Only where the
system refuses so large a range, or the array outgrows it, are rows copied into another one; then
views keep the old one alive.

The same over a file, for tables larger than memory: the system writes pages out and reads them
back. The file has no name, so nothing is left of it when its process dies.

Rows that nobody will read again are given back (`release`).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from memstore.disk import FULL
from memstore.errors import StorageFull
from memstore.kernels.pages import give_back
from memstore.memory import Array

RESERVED_ROWS = 1 << 26
"""Rows that there are addresses for at first: 32 GiB for rows of 512 bytes, of 128 TiB at all."""

FIRST_ROWS = 1_024
"""Where addresses are short, the fewest rows that a range is made for."""

HUGE_BYTES = 1 << 21
"""A huge page. Beyond the first, a region asks for them: an update of rows of 512 bytes at random
in a million is two to three times as fast, for it finds their addresses sooner."""

TOUCHED_BYTES = 1 << 18
"""From so many on, new rows have their memory made ready before they are written: 3.0 million
rows of 512 bytes a second are loaded so, 0.8 where each page is waited for."""

STEP_BYTES = 1 << 20
"""A file is made longer by at least so much, and by an eighth of what it has."""

POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14
PROT = mmap.PROT_READ | mmap.PROT_WRITE
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE of Linux

Pages = npt.NDArray[np.int64]
NONE = np.empty(0, np.int64)

FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class Region:
    """Rows of one shape and dtype, zero when they are new.

    folder: where the file is to lie; None keeps the rows in memory.
    singly: pages come in one by one, and not with those around them.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        folder: Path | None = None,
        *,
        singly: bool = False,
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.row_bytes = self.dtype.itemsize * int(np.prod(shape))
        self.capacity = 0
        """Rows that fit without moving."""
        self._folder, self._singly = folder, singly
        self._used = 0
        self._whole = np.empty((0, *shape), self.dtype)
        self._range: _Range | None = None

    def view(self, rows: int) -> Array:
        """The first `rows` rows: the array itself, for as long as somebody holds it."""
        return self._whole[:rows]

    def grow(self, rows: int, *, filled: bool = False) -> bool:
        """Makes room for so many rows; returns whether they moved, and views are of the old.

        filled: all the new rows are about to be written. Raises `StorageFull`, with all as it
        was, where there is no room.
        """
        moved = rows > self.capacity
        if moved:
            self._move(rows)
        if self._range is not None:
            self._range.back(rows * self.row_bytes)
            if filled:
                self._range.touch(self._used * self.row_bytes, rows * self.row_bytes)
        self._used = max(self._used, rows)
        return moved

    def fill(self, rows: Array) -> None:
        """Takes over rows from the first on; pages of zeros stay without memory."""
        step = max(1, HUGE_BYTES // max(1, self.row_bytes))
        for start in range(0, len(rows), step):
            block = np.ascontiguousarray(rows[start : start + step])
            if block.view(np.uint8).any():
                self._whole[start : start + len(block)] = block

    def release(self, first: int, end: int) -> None:
        """Makes these rows zero again and gives their pages back; in a file they stay as they are:
        the system writes them out, and a hole in it would kill who writes there on a full disk.
        """
        if self._range is None or self._folder is not None:
            return
        start, stop = first * self.row_bytes, end * self.row_bytes
        inner, outer = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop - stop % mmap.PAGESIZE
        if inner >= outer or not self._range.give_back(inner, outer):
            inner = outer = stop
        flat = np.asarray(self._range)
        flat[start:inner] = 0
        flat[outer:stop] = 0

    @property
    def resident_bytes(self) -> int:
        """Bytes of it in main memory now; pages of zeros that were only read are counted too."""
        range_ = self._range
        if range_ is None:
            return 0
        return mmap.PAGESIZE * len(range_.pages_here(self._used * self.row_bytes))

    @property
    def in_file(self) -> bool:
        return self._folder is not None

    @property
    def address(self) -> int:
        """Where its first row is."""
        return 0 if self._range is None else self._range.start

    def pages_here(self) -> Pages:
        """The pages of it that are in main memory now, rising."""
        range_ = self._range
        return NONE if range_ is None else range_.pages_here(self._used * self.row_bytes)

    def give_back(self, pages_G: Pages, *, waits: bool) -> int:
        """Lets pages of a file lie in it alone, rising; they are as they were.

        waits: for the disk, where they were changed; else their writing is begun, and they stay.
        Returns how many the disk does not take: they stay too.
        """
        return 0 if self._range is None else self._range.leave(pages_G, waits)

    def _move(self, rows: int) -> None:
        new, capacity = self._reserve(rows)
        new.back(rows * self.row_bytes)
        whole = np.asarray(new)[: capacity * self.row_bytes].view(self.dtype)
        whole = whole.reshape(capacity, *self.shape)
        old = self._whole[: self._used]
        self._range, self._whole, self.capacity = new, whole, capacity
        self.fill(old)

    def _reserve(self, rows: int) -> tuple[_Range, int]:
        """A range for at least so many rows: a large one, or else what classic doubling takes."""
        double = max(FIRST_ROWS, rows, 2 * self.capacity)
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        sizes = [max(RESERVED_ROWS, 4 * rows)] if limit == resource.RLIM_INFINITY else []
        for capacity in (*sizes, double, rows):
            try:
                range_ = _Range(capacity * self.row_bytes, self._folder)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
            else:
                if self._singly:
                    range_.come_singly()
                return range_, capacity
        raise StorageFull(
            "there is no room for more rows",
            got=f"{rows:,} rows of {self.row_bytes} bytes",
            hint="memory or addresses (ulimit -v) are used up; nothing was changed",
        )


class _Range:
    """A range of addresses, given back when the last array over it is gone."""

    def __init__(self, size: int, folder: Path | None) -> None:
        self.size = max(size, 1)
        self._backed = 0
        self._start: int | None = None
        self._file: IO[bytes] | None = None
        kind, handle = ANONYMOUS, -1
        if folder is not None:
            self._file = _nameless(folder)
            kind, handle = mmap.MAP_SHARED, self._file.fileno()
        start = _libc.mmap(None, self.size, PROT, kind, handle, 0)
        if start == FAILED:
            raise OSError(ctypes.get_errno(), "mmap")
        self._start = start

    def __del__(self) -> None:
        if self._start is not None:
            _libc.munmap(self._start, self.size)
        if self._file is not None:
            self._file.close()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"shape": (self.size,), "typestr": "|u1", "data": (self._start, False), "version": 3}

    def back(self, size: int) -> None:
        """Lets the first `size` bytes be used."""
        if size <= self._backed:
            return
        if self._file is None:
            if size > HUGE_BYTES > self._backed:
                self._advise()
            self._backed = size
            return
        # A hole in a file kills whoever writes to it once the disk is full: there is none here.
        ample = min(max(size, self._backed + max(STEP_BYTES, self._backed // 8)), self.size)
        for end in (ample, size):
            try:
                os.posix_fallocate(self._file.fileno(), self._backed, end - self._backed)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if end == size:
                    raise _full(error) from error
            else:
                self._backed = end
                return

    def touch(self, start: int, end: int) -> None:
        """Has the memory of these bytes made ready in one go."""
        assert self._start is not None
        if self._file is None and end - start >= TOUCHED_BYTES:
            start -= start % mmap.PAGESIZE
            # A system that cannot makes it ready page by page, as it is written.
            _libc.madvise(self._start + start, end - start, POPULATE_WRITE)

    def give_back(self, start: int, end: int) -> bool:
        """Lets the system have these pages, which are zero from then on; whether it took them."""
        assert self._start is not None
        refused = _libc.madvise(self._start + start, end - start, mmap.MADV_DONTNEED)
        return not refused

    @property
    def start(self) -> int:
        assert self._start is not None
        return self._start

    def come_singly(self) -> None:
        """Has the system read no page because one beside it is looked at."""
        _libc.madvise(self.start, self.size, mmap.MADV_RANDOM)

    def leave(self, pages_G: Pages, waits: bool) -> int:
        """Has pages of the file leave main memory; returns how many the disk does not take."""
        assert self._file is not None
        return int(give_back(pages_G, self.start, self._file.fileno(), waits))

    def pages_here(self, size: int) -> Pages:
        """Which of the pages of the first `size` bytes are in main memory, rising."""
        here_P = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        length = len(here_P) * mmap.PAGESIZE
        if not length or _libc.mincore(self._start, length, here_P.ctypes.data):
            return NONE
        return np.flatnonzero(here_P & 1)

    def _advise(self) -> None:
        assert self._start is not None
        first = -(-(self._start + HUGE_BYTES) // HUGE_BYTES) * HUGE_BYTES
        # Where there are no huge pages, small ones do.
        _libc.madvise(first, self._start + self.size - first, mmap.MADV_HUGEPAGE)


def _nameless(folder: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise _full(error) from error


def _full(error: OSError) -> StorageFull:
    return StorageFull(
        "there is no room on the disk for more rows",
        got=error.strerror,
        hint="make room where the store lies; nothing was changed",
    )
