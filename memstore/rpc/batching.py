"""Coalescing: searches that wait for the engine at once are searched as one.

An engine answers a batch in far less time than its queries one by one. A search that finds it idle
is begun at once; those that come while searches like it are under way go together as soon as one of
these has ended. So nobody is held back for company, and the more come the larger batches get.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from memstore.memory import Array, Memory, SearchOptions, SearchResult
from memstore.rpc.codec import SEARCHED

MOST_QUERIES = 1_024
"""Searched as one, unless one call alone has more: beyond it a batch is no quicker a query."""

Search = Callable[[Array], SearchResult]
Found = SearchResult | Exception


@dataclass(frozen=True, eq=False)
class _Waiting:
    queries_QD: Array
    answer: asyncio.Future[SearchResult]


@dataclass
class _Alike:
    """Searches that one call of `search` can do. under_way: batches that the engine has now."""

    search: Search
    under_way: int = 0
    waiting: list[_Waiting] = field(default_factory=list)

    def batch(self) -> list[_Waiting]:
        """Takes those that go together next; nobody waits any more for one that was cancelled."""
        self.waiting = [one for one in self.waiting if not one.answer.done()]
        queries = np.cumsum([len(one.queries_QD) for one in self.waiting])
        count = max(1, int(np.searchsorted(queries, MOST_QUERIES, side="right")))
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken


class Coalescer:
    """Searches for many callers; used by one event loop."""

    def __init__(self, pool: Executor, lanes: int) -> None:
        """lanes: batches of searches alike that may be under way at once; 0 coalesces none."""
        self._pool, self._lanes = pool, lanes
        self._alike: dict[Hashable, _Alike] = {}

    async def search(
        self, memory: Memory, queries_QD: Array, k: int, options: SearchOptions
    ) -> SearchResult:
        """As `Memory.search`; one that is cancelled before it was begun is not begun."""
        loop = asyncio.get_running_loop()
        search = partial(memory.search, k=k, options=options)
        if options.widens or queries_QD.ndim != 2 or not self._lanes:
            # What training adds for a query depends on the others of its call.
            return await loop.run_in_executor(self._pool, search, queries_QD)
        key = (id(memory), k, options, queries_QD.dtype, queries_QD.shape[1])
        alike = self._alike.setdefault(key, _Alike(search))
        answer: asyncio.Future[SearchResult] = loop.create_future()
        alike.waiting.append(_Waiting(queries_QD, answer))
        self._begin(key, alike)
        try:
            return await answer
        except asyncio.CancelledError:
            alike.waiting = [one for one in alike.waiting if one.answer is not answer]
            raise

    def _begin(self, key: Hashable, alike: _Alike) -> None:
        """Has the engine begin as much as there are lanes for."""
        while alike.under_way < self._lanes and (batch := alike.batch()):
            alike.under_way += 1
            parts = [one.queries_QD for one in batch]
            loop = asyncio.get_running_loop()
            found = loop.run_in_executor(self._pool, searched, alike.search, parts)
            found.add_done_callback(partial(self._end, key, alike, batch))
        if not (alike.under_way or alike.waiting):
            self._alike.pop(key, None)

    def _end(
        self,
        key: Hashable,
        alike: _Alike,
        batch: list[_Waiting],
        done: asyncio.Future[list[Found]],
    ) -> None:
        """Tells each what was found for it."""
        alike.under_way -= 1
        failure = done.exception() if not done.cancelled() else asyncio.CancelledError()
        for i, one in enumerate(batch):
            found = failure or done.result()[i]
            if one.answer.done():
                continue
            if isinstance(found, BaseException):
                one.answer.set_exception(found)
            else:
                one.answer.set_result(found)
        self._begin(key, alike)


def searched(search: Search, parts: list[Array]) -> list[Found]:
    """What was found for each part, or why nothing was: one that fails does no harm to others."""
    found = _tried(search, parts[0] if len(parts) == 1 else np.concatenate(parts))
    if len(parts) == 1:
        return [found]
    if isinstance(found, Exception):
        return [_tried(search, part) for part in parts]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return [
        _rows(found, slice(end - len(part), end)) for part, end in zip(parts, ends, strict=True)
    ]


def _tried(search: Search, part: Array) -> Found:
    try:
        return search(part)
    except Exception as error:  # noqa: BLE001 - who asked is told
        return error


def _rows(found: SearchResult, rows: slice) -> SearchResult:
    return SearchResult(
        **{name: getattr(found, name)[rows] for name in SEARCHED},
        row_versions_S=found.row_versions_S,
        index_versions_S=found.index_versions_S,
    )
