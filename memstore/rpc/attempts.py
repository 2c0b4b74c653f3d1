"""Attempts: whether a request that failed is sent again, and after how long."""

from __future__ import annotations

import random
import time
from typing import Any

from memstore.deadline import Deadline
from memstore.errors import DeadlineExceeded, ForeignPart, Held, MemstoreError
from memstore.rpc.calls import Request
from memstore.rpc.target import LONGEST_S

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 2.0

OVER_S = 0.02
"""By which the clocks of gRPC may differ."""

FOREIGN_S = 2.0
"""For a server that moved to be told of, where one of another cluster has its address by now."""


class Attempts:
    """The attempts at one request, from its first on.

    The pause before the next is what the server told, and besides it a share drawn at random of
    min(0.02 · 2^failed, 2) seconds, so that many clients do not come again at once.
    """

    def __init__(self, request: Request[Any], deadline_s: float) -> None:
        """deadline_s: of a request that has none of its own."""
        own_s = request.deadline_s
        self._deadline = Deadline(deadline_s if own_s is None else own_s)
        self._again = request.again
        self._longest_s = FIRST_PAUSE_S
        self._failure: MemstoreError | None = None
        self._begun = time.monotonic()

    @property
    def rest_s(self) -> float:
        """Seconds that are left, of which there may be none."""
        return self._deadline.left_s

    @property
    def is_over(self) -> bool:
        """Whether there is no time left, or next to none."""
        return self.rest_s <= OVER_S

    def left_s(self) -> float:
        """Seconds for the next attempt; where there are none raises what the last failed with, or
        `DeadlineExceeded`."""
        left_s = self._deadline.left_s
        if left_s <= 0:
            raise self._failure or DeadlineExceeded("the call's time was over before it was sent")
        return min(left_s, LONGEST_S)

    def pause_s(self, error: MemstoreError) -> float:
        """Seconds until it is to be sent again; raises the error where that cannot help, or where
        who spreads the call over several servers is to do so."""
        if isinstance(error, DeadlineExceeded) and self._failure is not None:
            # What kept it so long tells more than that it took so long.
            raise self._failure from error
        if isinstance(error, ForeignPart) and time.monotonic() - self._begun > FOREIGN_S:
            raise error
        told_s: float = getattr(error, "retry_after_s", 0.0)
        pause_s = told_s + random.uniform(0, self._longest_s)
        again = self._again and error.retryable and not isinstance(error, Held)
        if not again or pause_s >= self._deadline.left_s:
            raise error
        self._failure = error
        self._longest_s = min(2 * self._longest_s, LONGEST_PAUSE_S)
        return pause_s
