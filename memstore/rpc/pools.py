"""Threads for the engine's work, which end within a time, or say what they are still at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any, ParamSpec, TypeVar

from memstore.errors import StoreClosed
from memstore.rpc.limits import CORES

SMALL_BYTES = 1 << 22
"""Beyond it, messages are parsed, and put together, in a pool and not in the event loop: to copy so
much takes about as long as the way into a thread and back."""

FORWARDS = 64
"""Threads for calls that ask other servers, and wait for them."""

CUTTERS = 8
"""Threads for steps of cuts: those of one, and snapshots that are being copied."""

P = ParamSpec("P")
T = TypeVar("T")


class Pool(futures.ThreadPoolExecutor):
    """A pool that knows what it was given and has not done."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)
        self._given = set[futures.Future[Any]]()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        future = super().submit(fn, *args, **kwargs)
        self._given.add(future)
        future.add_done_callback(self._given.discard)
        return future

    def end(self, within_s: float) -> int:
        """Begins nothing more and waits so long; returns how much is still being done."""
        self.shutdown(wait=False, cancel_futures=True)
        return len(futures.wait(self._given.copy(), within_s).not_done)


class Pools:
    """The pools of one server, apart by what their work may wait for."""

    def __init__(self, writers: int) -> None:
        """writers: threads that change memories."""
        self.readers = Pool(2 * CORES + 2, "memstore-read")
        self.writers = Pool(writers, "memstore-write")
        # What a message of many parts takes keeps no read waiting.
        self.parsers = Pool(CORES, "memstore-parse")
        # Calls that ask other servers wait in threads of their own: what other servers ask of this
        # one never waits for them.
        self.forwards = Pool(FORWARDS, "memstore-forward")
        # Reads do not wait while mutations are held off, nor does what makes them go on.
        self.forwarded_reads = Pool(FORWARDS, "memstore-forward-read")
        self.cutters = Pool(CUTTERS, "memstore-cut")
        self.closed = False
        """Whether the server takes no more calls."""

    async def run(self, pool: Pool, work: Callable[..., Any], *args: Any) -> Any:
        """Does work in a pool; what is cancelled before a thread begins it is not begun."""
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work, *args)
        except RuntimeError as error:
            if self.closed:
                raise StoreClosed("the server is being shut down", hint="ask another") from error
            raise

    async def aside(self, size: int, work: Callable[..., Any], *args: Any) -> Any:
        """Does what takes as long as so many bytes: others must not wait for much of it."""
        if size <= SMALL_BYTES:
            return work(*args)
        return await self.run(self.readers, work, *args)

    def end(self, within_s: float) -> int:
        """Ends all within so long; returns how much is still being done."""
        ends = time.monotonic() + within_s
        forwards = self.forwards, self.forwarded_reads, self.cutters
        pools = (*forwards, self.parsers, self.readers, self.writers)
        return sum(pool.end(max(0.0, ends - time.monotonic())) for pool in pools)
