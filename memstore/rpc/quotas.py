"""Quotas: what a token's bearer may ask for a second.

    bucket = Bucket(rate, now)
    bucket.wait_s(now)      seconds until something may be drawn
    bucket.draw(amount)     also what is not there: it is paid back by waiting

A call may begin as long as something of the second is left, and is charged in full, so that one
call may be larger than a second's worth and the rate holds all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from memstore.errors import InvalidArgument

BURST_S = 1.0
"""Seconds' worth that a caller who was silent may ask for at once."""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What a caller may ask for a second; None is any amount.

    requests_per_s: calls.  bytes_per_s: of messages in both directions.  rows_per_s: written,
    read, and found.
    """

    requests_per_s: float | None = None
    bytes_per_s: float | None = None
    rows_per_s: float | None = None

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            rate: object = getattr(self, name)
            number = isinstance(rate, int | float) and not isinstance(rate, bool)
            if rate is not None and not (number and 0 < float(rate) < math.inf):  # type: ignore[arg-type]
                raise InvalidArgument(f"{name} is out of range", got=repr(rate), expected="above 0")


NO_QUOTA = Quota()


class Bucket:
    """Fills at a rate up to a burst; may be drawn below nothing, and is closed below 1."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate, self._most = rate, max(rate * BURST_S, 1.0)
        self._level, self._at = self._most, now

    def wait_s(self, now: float) -> float:
        """Seconds until something may be drawn; 0 is now."""
        self._level = min(self._most, self._level + self._rate * max(0.0, now - self._at))
        self._at = max(now, self._at)
        # Not for what sums lose by rounding.
        return 0.0 if self._level >= 1 - 1e-6 else (1 - self._level) / self._rate

    def draw(self, amount: float) -> None:
        self._level -= amount
