"""Gives memory that was freed back to the system, where the allocator would keep it."""

from __future__ import annotations

import contextlib
import ctypes
import os

KEPT_BYTES = 1 << 22
"""Freed at the end of a heap before it is given back."""

APART_BYTES = 1 << 20
"""What is as large is mapped by itself, and is the system's again once it is freed. Rows of a call
are smaller as a rule, and are not worth it: to map them anew takes longer than to copy them."""

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # of mallopt, in malloc.h of glibc


def give_back() -> None:
    """Asks glibc for the pages that nothing stands on; elsewhere it does nothing.

    An index that was replaced leaves its lists behind between those of the next, and many calls at
    once leave theirs in the heap of each thread. glibc gives back by itself only what lies at the
    very end of one, and up to 64 MiB not even then.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_little() -> None:
    """Has glibc keep little of what is freed, in this process and for good; elsewhere it does
    nothing. To be called before there are many threads; who set `MALLOC_*`, or tunables of
    `glibc.malloc`, has it that way.

    By itself glibc makes eight heaps a core, and once 32 MiB were freed that were mapped by
    themselves it takes as much out of a heap from then on. A server's threads then leave arrays
    of megabytes in each heap, one after another, and what lives long comes to stand between them.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(TRIM_THRESHOLD, KEPT_BYTES)
        set_option(MMAP_THRESHOLD, APART_BYTES)
        set_option(ARENA_MAX, max(2, os.cpu_count() or 1))
