"""Deadlines: how long a call may wait before it changes anything."""

from __future__ import annotations

import math
import numbers
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from memstore.errors import DeadlineExceeded, InvalidArgument


class Deadline:
    """A moment after which a call that still waits gives up; without seconds there is none."""

    def __init__(self, seconds: float | None = None) -> None:
        """seconds: > 0, from now on; raises `InvalidArgument`."""
        self._seconds = seconds
        self._until = math.inf
        if seconds is not None:
            given: object = seconds
            number = isinstance(given, numbers.Real) and not isinstance(given, bool)
            if not (number and 0 < float(seconds) < math.inf):
                raise InvalidArgument(
                    "deadline_s is out of range", got=repr(seconds), expected="seconds, > 0"
                )
            self._until = time.monotonic() + float(seconds)

    @property
    def left_s(self) -> float:
        """Seconds until then, at least 0; infinite where there is none."""
        return max(0.0, self._until - time.monotonic())

    def exceeded(self, waited_for: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the time was over while the call waited for {waited_for}; nothing was changed",
            got=f"deadline_s={self._seconds}",
            hint="try again, or allow it more time",
        )

    @contextmanager
    def held(self, lock: threading.RLock, holder: str) -> Iterator[None]:
        """Holds a lock; raises `DeadlineExceeded` where others hold it for too long."""
        wait_s = min(self.left_s, threading.TIMEOUT_MAX)
        if not lock.acquire(timeout=wait_s):
            raise self.exceeded(holder)
        try:
            yield
        finally:
            lock.release()


NO_DEADLINE = Deadline()
