"""Pages of a file that rows lie in: asked for ahead of their use, and given back after it.

The calls are those of Linux, made from here because a call each from Python takes longer than to
read a page.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from memstore.kernels.compiling import compiled
from memstore.memory import Slots

PAGE = mmap.PAGESIZE
WILL_NEED, DONT_NEED = 3, 4  # MADV_WILLNEED and MADV_DONTNEED
WRITE, WRITE_AND_WAIT = 2, 7  # SYNC_FILE_RANGE_WRITE, and with both WAITs
FORGET = getattr(os, "POSIX_FADV_DONTNEED", 4)

AWAY, UNSEEN, SEEN = 0, 1, 2
"""Of a page: it is in the file alone; it is in main memory; and somebody looked at it there."""

States = npt.NDArray[np.uint8]

madvise: Any = types.ExternalFunction("madvise", types.intc(types.uintp, types.uintp, types.intc))
sync_file_range: Any = types.ExternalFunction(
    "sync_file_range", types.intc(types.intc, types.int64, types.int64, types.uintc)
)
posix_fadvise: Any = types.ExternalFunction(
    "posix_fadvise", types.intc(types.intc, types.int64, types.int64, types.intc)
)


@compiled()
def want(rows_B: Slots, row_bytes: int, state_P: States, start: int) -> int:
    """Notes that pages of rows are looked at; asks for those that are away, and counts them.

    start: the address of the first page. Rows out of range, `NO_SLOT` among them, have none.
    Neighbours that are asked for one after the other are one call.
    """
    new, begin, end = 0, 0, 0
    for row in rows_B:
        first, last = row * row_bytes // PAGE, ((row + 1) * row_bytes - 1) // PAGE
        if row < 0 or last >= len(state_P):
            continue
        for page in range(first, last + 1):
            if state_P[page] == AWAY:
                if page != end:
                    _ask(start, begin, end)
                    begin = page
                end = page + 1
                new += 1
            state_P[page] = SEEN
    _ask(start, begin, end)
    return new


@compiled()
def _ask(start: int, begin: int, end: int) -> None:
    if end > begin:
        size = types.uintp((end - begin) * PAGE)
        madvise(types.uintp(start + begin * PAGE), size, WILL_NEED)


@compiled()
def give_back(pages_G: Slots, start: int, handle: int, waits: bool) -> int:
    """Has the system forget pages of a file; returns how many it failed to write, which stay.

    pages_G: rising.  start: the address that the file is mapped at.  waits: for the disk, where a
    page was changed; else its writing is begun, and it is there until somebody gives it back again.
    A page that somebody looks at meanwhile stays too.
    """
    failed = 0
    for ending in (False, True):
        at = 0
        while at < len(pages_G):
            last = at + 1
            while last < len(pages_G) and pages_G[last] == pages_G[last - 1] + 1:
                last += 1
            begin, size = pages_G[at] * PAGE, (last - at) * PAGE
            if not ending:
                madvise(types.uintp(start + begin), types.uintp(size), DONT_NEED)
                sync_file_range(handle, begin, size, WRITE)
            elif waits and sync_file_range(handle, begin, size, WRITE_AND_WAIT):
                failed += last - at
            else:
                posix_fadvise(handle, begin, size, FORGET)
            at = last
    return failed
