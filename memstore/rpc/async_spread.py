"""AsyncSpreadMemory: the verbs of a memory on several servers, to be awaited.

Its parts are asked by the memory of the synchronous client, in threads that do nothing but wait:
what `spread` does with several servers is written once. The threads are bounded; who comes when all
are busy waits for one, no longer than the call's own deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import numpy as np

from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.memory import Memory

THREADS = 64
"""Calls under way at once; of each, further parts are asked by the threads of the `Fleet`."""

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Does, beside one event loop, what waits."""

    def __init__(self, deadline_s: float) -> None:
        """deadline_s: of what has none of its own."""
        self._deadline_s = deadline_s
        self._free = asyncio.Semaphore(THREADS)
        self._pool = ThreadPoolExecutor(THREADS, "memstore-await")

    async def run(self, work: Callable[[], T], deadline_s: float | None = None) -> T:
        """Returns what the work does, which goes on where nobody waits for it any more.

        deadline_s: how long it may wait for a thread; raises `DeadlineExceeded`.
        """
        deadline = Deadline(self._deadline_s if deadline_s is None else deadline_s)
        try:
            async with asyncio.timeout(deadline.left_s):
                await self._free.acquire()
        except TimeoutError:
            raise deadline.exceeded(f"one of {THREADS} threads") from None
        loop = asyncio.get_running_loop()

        def freed(_: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                loop.call_soon_threadsafe(self._free.release)

        try:
            begun = self._pool.submit(work)
        except RuntimeError:  # it was closed
            self._free.release()
            raise
        begun.add_done_callback(freed)
        return await asyncio.wrap_future(begun)

    def close(self) -> None:
        """Waits for what was begun."""
        self._pool.shutdown()


class Runs(Protocol):
    """Runs what waits, in threads."""

    async def run(self, work: Callable[[], T], deadline_s: float | None = None) -> T:
        """As `Threads.run`."""


def in_thread(
    verb: Callable[Concatenate[Memory, P], T],
) -> Callable[Concatenate[AsyncSpreadMemory, P], Coroutine[Any, Any, T]]:
    """The verb, to be awaited while a thread does it."""

    @functools.wraps(verb)
    async def call(memory: AsyncSpreadMemory, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return cast(T, await memory.do(verb.__name__, args, kwargs))

    return call


class AsyncSpreadMemory:
    """A memory on several servers; its verbs are those of `Memory`, each to be awaited.

    A call that is cancelled is no longer waited for, and goes on until it is done or its time is
    over. A mutation is done then or not, in each shard the whole of it: sent again under its
    `request_id` it is done once.
    """

    def __init__(self, memory: Memory, threads: Runs) -> None:
        self._memory, self._threads = memory, threads

    @property
    def name(self) -> str:
        return self._memory.name

    @property
    def config(self) -> MemoryConfig:
        return self._memory.config

    async def do(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Others go on before a thread reads them.
        args, kwargs = tuple(map(_apart, args)), _apart(kwargs)
        work = functools.partial(getattr(self._memory, verb), *args, **kwargs)
        return await self._threads.run(work, kwargs.get("deadline_s"))

    append = in_thread(Memory.append)
    write = in_thread(Memory.write)
    blend = in_thread(Memory.blend)
    update = in_thread(Memory.update)
    touch = in_thread(Memory.touch)
    allocate = in_thread(Memory.allocate)
    erase = in_thread(Memory.erase)
    search = in_thread(Memory.search)
    gather = in_thread(Memory.gather)
    lookup = in_thread(Memory.lookup)
    reindex = in_thread(Memory.reindex)
    refresh = in_thread(Memory.refresh)
    describe = in_thread(Memory.describe)


def _apart(value: Any) -> Any:
    """An argument that nobody else changes."""
    if isinstance(value, np.ndarray | list):
        return value.copy()
    if isinstance(value, dict):
        return {name: _apart(part) for name, part in value.items()}
    return value
