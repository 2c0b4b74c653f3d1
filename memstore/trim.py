"""Gives memory that was freed back to the system, where the allocator would keep it."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Asks glibc for the pages that nothing stands on; elsewhere it does nothing.

    An index that was replaced leaves its lists behind between those of the next, and many calls at
    once leave theirs in the heap of each thread. glibc gives back by itself only what lies at the
    very end of one, and up to 64 MiB not even then.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
