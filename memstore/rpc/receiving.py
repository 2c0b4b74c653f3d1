"""Places for messages that are coming in: so many at once, of which the slow keep no others away.

How long a message is shows only once it is here, and until it is read the network keeps all but
its beginning. So each that is read takes the place of a longest one, which bounds what comes in;
and callers that stop in the middle would keep all places. While others wait, those that have been
read for longest keep half of them, as long as a message may take, so that long messages get
through; the others have a moment each, shorter the more there are who wait.

Used by one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from memstore.errors import DeadlineExceeded, Overloaded

WAIT_S = 1.0
"""About how long is waited for a place beside callers who stop in the middle of messages."""

LEAST_S = 0.05
"""That a message has at least: what has come is read in less, also where the server is busy."""


@dataclass(eq=False)
class _Turn:
    """A message that is being read. lost: its place is for another."""

    begun: float
    limit: asyncio.Timeout
    lost: bool = False

    def lose(self) -> None:
        self.lost = True
        if not self.limit.expired():
            self.limit.reschedule(self.begun)


class Places:
    """So many messages at once."""

    def __init__(self, count: int) -> None:
        """count: ≥ 1."""
        self._kept = count // 2
        self._others = count - self._kept
        self._free = asyncio.Semaphore(count)
        self._waiting = self._leaving = 0
        self._turns: dict[_Turn, None] = {}
        """In the order in which they began; without those that lost their place."""
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self) -> None:
        """Waits for a place, and has it until `leave`."""
        self._waiting += 1
        try:
            if self._free.locked():
                self._look()
            await self._free.acquire()
        finally:
            self._waiting -= 1

    def leave(self) -> None:
        self._free.release()

    def begin(self, turn: _Turn) -> None:
        """Begins to read a message in the place that it has, which it may lose until `end`."""
        self._turns[turn] = None
        if self._waiting:
            self._look()

    def end(self, turn: _Turn) -> None:
        if turn in self._turns:
            del self._turns[turn]
        else:
            self._leaving -= 1

    def _look(self) -> None:
        """Takes the places of as many as are waited for, of those that had their time; comes again
        when the next has had it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = self._waiting - self._leaving
        if waiting <= 0 or not self._free.locked():
            return
        loop = asyncio.get_running_loop()
        patience_s = max(LEAST_S, WAIT_S * self._others / (self._others + waiting))
        slow = itertools.islice(self._turns, self._kept, self._kept + waiting)
        for turn in list(slow):
            due = turn.begun + patience_s
            if due > loop.time():
                self._timer = loop.call_at(due, self._look)
                return
            del self._turns[turn]
            self._leaving += 1
            turn.lose()


async def received(
    read: Callable[[], Awaitable[Any]], within_s: float, of_caller: Places, of_all: Places
) -> Any:
    """What is read, in a place of both; raises `DeadlineExceeded` where it does not come in time,
    and `Overloaded` where it is slow while others wait."""
    # Plain calls: of each message, context managers would take as long as reading it does.
    await of_caller.enter()
    try:
        await of_all.enter()
        try:
            turn = _Turn(asyncio.get_running_loop().time(), asyncio.timeout(within_s))
            async with turn.limit:
                of_caller.begin(turn)
                of_all.begin(turn)
                try:
                    return await read()
                finally:
                    of_caller.end(turn)
                    of_all.end(turn)
        except TimeoutError:
            if turn.lost:
                raise Overloaded(
                    "the message of the call came too slowly while others waited",
                    retry_after_s=WAIT_S,
                    got="a part of it",
                ) from None
            raise DeadlineExceeded(
                "the message of the call did not come", expected=f"within {within_s:g} s"
            ) from None
        finally:
            of_all.leave()
    finally:
        of_caller.leave()
