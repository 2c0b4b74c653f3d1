"""Coalescing: searches that wait for the engine at once are searched as one.

An engine answers a batch in far less time than its queries one by one. A search that finds it idle
is begun at once; those that come while searches like it are under way go together as soon as one of
these has ended. So nobody is held back for company, and the more come the larger batches get.

A short search of a caller who is alone is done in the event loop itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from memstore.memory import Array, Memory, SearchOptions, SearchResult
from memstore.rpc.alone import Alone
from memstore.rpc.codec import SEARCHED

MOST_QUERIES = 256
"""Searched as one, unless one call alone has more: a larger batch is hardly quicker a query, and
its callers, who are answered at once, then all ask again at once."""

SHORT_S = 0.004
"""What may be done in the event loop: about as long as Python lets a thread wait for its turn."""

MOST_KNOWN = 256
"""Kinds of searches of which it is known how long they take."""

Search = Callable[[Array], SearchResult]
Found = SearchResult | Exception


@dataclass(frozen=True, eq=False)
class _Waiting:
    queries_QD: Array
    answer: asyncio.Future[SearchResult]


@dataclass
class _Alike:
    """Searches that one call of `search` can do. under_way: threads that search for them now."""

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

    def __init__(self, pool: Executor, lanes: int, alone: Alone) -> None:
        """lanes: batches of searches alike that may be under way at once; 0 coalesces none."""
        self._pool, self._lanes, self._alone = pool, lanes, alone
        # The threads of the pool take what waits themselves: that the loop hands it to them would
        # let each stand still after each batch.
        self._lock = threading.Lock()
        self._alike: dict[Hashable, _Alike] = {}
        self._seconds: dict[Hashable, float] = {}
        """By kind of search, about how long it takes for a query."""

    async def search(
        self, memory: Memory, queries_QD: Array, k: int, options: SearchOptions
    ) -> SearchResult:
        """As `Memory.search`; one that is cancelled before it was begun is not begun."""
        search = partial(memory.search, k=k, options=options)
        if options.widens or queries_QD.ndim != 2 or not self._lanes:
            # What training adds for a query depends on the others of its call.
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, search, queries_QD)
        key = (id(memory), k, options, queries_QD.dtype, queries_QD.shape[1])
        with self._alone.reading():
            if self._is_short(key, memory, len(queries_QD)) and await self._alone.is_so():
                return self._here(key, search, queries_QD)
            return await self._shared(key, search, queries_QD)

    def _is_short(self, key: Hashable, memory: Memory, queries: int) -> bool:
        """Whether it takes so little that the event loop may stand still meanwhile."""
        if memory.config.storage == "mapped":
            return False  # it may wait for a disk
        return self._seconds.get(key, SHORT_S) * queries < SHORT_S

    def _here(self, key: Hashable, search: Search, queries_QD: Array) -> SearchResult:
        begun = time.perf_counter()
        found = search(queries_QD)
        self._took(key, time.perf_counter() - begun, len(queries_QD))
        return found

    def _took(self, key: Hashable, seconds: float, queries: int) -> None:
        """Takes note of how long so many queries took."""
        if key not in self._seconds and len(self._seconds) >= MOST_KNOWN:
            self._seconds.clear()
        each = seconds / max(queries, 1)
        self._seconds[key] = (self._seconds.get(key, each) + each) / 2

    async def _shared(self, key: Hashable, search: Search, queries_QD: Array) -> SearchResult:
        """Searches in the pool, together with those that are alike."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[SearchResult] = loop.create_future()
        one = _Waiting(queries_QD, answer)
        with self._lock:
            alike = self._alike.setdefault(key, _Alike(search))
            alike.waiting.append(one)
            begins = alike.under_way < self._lanes
            alike.under_way += begins
        if begins:
            self._pool.submit(self._work, key, alike, loop)
        try:
            return await answer
        except asyncio.CancelledError:
            with self._lock:
                alike.waiting = [other for other in alike.waiting if other is not one]
            raise

    def _work(self, key: Hashable, alike: _Alike, loop: asyncio.AbstractEventLoop) -> None:
        """Searches, in a thread of the pool, for as long as somebody waits for this kind.

        Where others search for other kinds it queues up again after each batch.
        """
        while batch := self._next(key, alike):
            begun = time.perf_counter()
            found = searched(alike.search, [one.queries_QD for one in batch])
            seconds = time.perf_counter() - begun
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
                loop.call_soon_threadsafe(self._tell, key, batch, found, seconds)
            if len(self._alike) > 1:
                self._pool.submit(self._work, key, alike, loop)
                return

    def _next(self, key: Hashable, alike: _Alike) -> list[_Waiting]:
        with self._lock:
            batch = alike.batch()
            if not batch:
                alike.under_way -= 1
                if not alike.under_way:
                    del self._alike[key]
            return batch

    def _tell(
        self, key: Hashable, batch: list[_Waiting], found: list[Found], seconds: float
    ) -> None:
        """Tells each what was found for it."""
        self._took(key, seconds, sum(len(one.queries_QD) for one in batch))
        for one, its in zip(batch, found, strict=True):
            if one.answer.done():
                continue
            if isinstance(its, Exception):
                one.answer.set_exception(its)
            else:
                one.answer.set_result(its)


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
        missing_shards=found.missing_shards,
    )
