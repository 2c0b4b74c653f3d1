"""BLAS on one thread, for as long as anybody has threads of its own that multiply."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController

_MUTEX = threading.Lock()
_inside = 0
_limit: Any = None


@contextlib.contextmanager
def blas_alone() -> Iterator[None]:
    """Has each product take one thread, in the whole process; any number of callers may overlap.

    BLAS has one number of threads for all who call it: the first caller in takes it down, the last
    one out puts it back.
    """
    global _inside, _limit
    with _MUTEX:
        if not _inside:
            _limit = _blas().limit(limits=1)
        _inside += 1
    try:
        yield
    finally:
        with _MUTEX:
            _inside -= 1
            if not _inside:
                _limit.restore_original_limits()


@functools.cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")
