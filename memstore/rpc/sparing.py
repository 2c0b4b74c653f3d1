"""Sparing: how long the answers of some servers are waited for, once others have answered.

A server that is gone refuses, and is known by it. One that hangs says nothing, and costs a call all
the time that it has; so where an answer can be done without, it is waited for as long as those of
the others tell.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from memstore.errors import MemstoreError

PATIENCE, LEAST_S = 8.0, 2.0
"""How long is waited in all: so many times as long as the slowest that has answered took, and no
less than that. Servers that do the same work differ by less; a search takes milliseconds."""

PATIENCE_AGAIN, LEAST_AGAIN_S = 2.0, 0.1
"""The same for a server that has not answered since it was left out before."""

AGAIN_S = 20.0
"""For so long; then it is waited for as at first, once: one that is merely slow is not to be left
out for good."""


class Spare:
    """One of several calls that may be left out: what it waits for ends then."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.number: int | None = None
        """Of the part that it asks; None as long as it asks none."""
        self._lock = threading.Lock()
        self._call: Any = None

    def waits_for(self, call: Any) -> None:
        """Notes a call of gRPC that is under way."""
        with self._lock:
            self._call = call
            over = self.over.is_set()
        if over:
            call.cancel()

    def end(self) -> None:
        """Leaves it out."""
        with self._lock:
            self.over.set()
            call = self._call
        if call is not None:
            call.cancel()


def spared(
    begun: Sequence[Future[Any]], spares: Sequence[Spare], late: AbstractSet[int]
) -> list[int]:
    """Waits until all calls, which were begun just now, are done, or the time that others took says
    that those left are too slow: these are ended.

    late: parts that were left out just before.  Returns the others that are now.
    """
    began = time.monotonic()
    waiting = dict(zip(begun, spares, strict=True))
    answered_s: float | None = None
    ended: list[int] = []
    while True:
        for future in [future for future in waiting if future.done()]:
            del waiting[future]
            if not future.cancelled() and not isinstance(future.result(), MemstoreError):
                answered_s = time.monotonic() - began
        if not waiting:
            return ended
        left_s: float | None = None
        if answered_s is not None:
            left_s = min(_most_s(answered_s, each, late) for each in waiting.values())
            left_s -= time.monotonic() - began
        if left_s is None or left_s > 0:
            wait(waiting, left_s, FIRST_COMPLETED)
            continue
        for future, spare in [*waiting.items()]:
            if began + _most_s(answered_s or 0.0, spare, late) <= time.monotonic():
                del waiting[future]
                spare.end()
                future.cancel()
                if spare.number is not None and spare.number not in late:
                    ended.append(spare.number)


def _most_s(answered_s: float, spare: Spare, late: AbstractSet[int]) -> float:
    """Seconds from the beginning on, once others took that many."""
    if spare.number in late:
        return max(PATIENCE_AGAIN * answered_s, LEAST_AGAIN_S)
    return max(PATIENCE * answered_s, LEAST_S)
