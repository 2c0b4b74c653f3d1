"""Who is alone: a caller whose read the event loop may do itself, for nobody would have to wait.

The way into a thread and back takes as long as a short read does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

ALONE_S = 0.05
"""So long nobody else must have read for a caller to be alone: of callers who read one after the
other, each would be found alone."""


class Alone:
    """Counts who reads; used by one event loop."""

    def __init__(self) -> None:
        self._readers, self._shared_at = 0, 0.0

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Counts one more meanwhile."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    async def is_so(self) -> bool:
        """Whether nobody beside the one who reads does so now, or did a moment ago."""
        await asyncio.sleep(0)  # those that came together with this one are counted then
        now = time.monotonic()
        if self._readers > 1:
            self._shared_at = now
        return now - self._shared_at > ALONE_S
