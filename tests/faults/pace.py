"""Pace: a clock that runs as fast as the core does, so that a load stays the same share of it.

On a machine shared with others a core is now faster, now slower, though nobody takes time of it:
what runs on the other half of it does, or its clock. A load of 80 % of what it could do at first
is then more than it can do, and whatever waits in line waits ever longer.
"""

from __future__ import annotations

import bisect
import statistics
import time

import numpy as np

ROWS, READ, WIDTH = 1 << 17, 4_096, 128
"""Rows that are there, 64 MB, and that are read and multiplied to see how fast the core is."""

SMOOTHED = 20
"""Looks that the speed is the mean of."""


class Pace:
    """Looks again and again how long the same work takes of a core's own time."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._rows_ND = rng.standard_normal((ROWS, WIDTH), np.float32)
        self._at_B = rng.integers(ROWS, size=READ)
        self._usual = 1.0
        self.looks: list[tuple[float, float]] = []
        """When, in seconds of `time.monotonic`, and pieces of work in a second of the core."""
        self._knots = [(time.monotonic(), 0.0)]
        """At each look: when that was, and what the clock showed."""

    def look(self) -> None:
        begun = time.thread_time()
        (self._rows_ND[self._at_B] @ self._rows_ND[0]).sum()
        took = time.thread_time() - begun
        now = time.monotonic()
        last, shown = self._knots[-1]
        self._knots.append((now, shown + (now - last) * self.speed))
        self.looks.append((now, 1 / took))

    @property
    def speed(self) -> float:
        """Of the core lately, beside the usual one."""
        lately = self.looks[-SMOOTHED:]
        return statistics.fmean(s for _, s in lately) / self._usual if lately else 1.0

    def usual(self, since: float) -> None:
        """Takes for usual how fast the core was since then, if it was looked at."""
        speeds = [speed for at, speed in self.looks if at >= since]
        self._usual = statistics.median(speeds) if speeds else self._usual

    def speeds(self, since: float) -> list[float]:
        """Of the core at each look since then, beside the usual one."""
        return [speed / self._usual for at, speed in self.looks if at >= since]

    def now(self) -> float:
        """What the clock shows."""
        last, shown = self._knots[-1]
        return shown + (time.monotonic() - last) * self.speed

    def when(self, shown: float) -> float:
        """When it showed that, or will if the core stays as fast: of `time.monotonic`."""
        knots = self._knots
        after = bisect.bisect_left(knots, shown, key=lambda knot: knot[1])
        first, begun = knots[max(after - 1, 0)]
        if after == len(knots):
            return first + (shown - begun) / self.speed
        last, ended = knots[after]
        return first + (shown - begun) * (last - first) / max(ended - begun, 1e-9)
