"""Ahead: objects of a shelf that are wanted one after another, some asked for before their turn.

Storage that is a round trip away gives many in the time of one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from memstore.shared.shelf import Shelf

AHEAD = 8
"""Objects at a time: each has some 8 MiB at most, and is kept until its turn."""


class Ahead:
    """A context, for one thread. Objects are put once: what was there ahead is what is there."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf, self._count = shelf, 1
        self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="memstore-read")
        self._asked: dict[str, Future[bytes | None]] = {}

    def get(self, name: str, following: Callable[[int], str]) -> bytes | None:
        """An object; None where there is none. following: the name of what comes so many behind it.
        As long as all are there, more is asked for at a time."""
        wanted = [name, *map(following, range(1, self._count))]
        self._asked = {each: self._asked.get(each) or self._ask(each) for each in wanted}
        data = self._asked[name].result()
        if data is None:
            # It may have been put since: nothing but what was there is known ahead.
            data, self._count = self._shelf.get(name), 1
        else:
            self._count = min(2 * self._count, AHEAD)
        return data

    def _ask(self, name: str) -> Future[bytes | None]:
        return self._pool.submit(self._shelf.get, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
