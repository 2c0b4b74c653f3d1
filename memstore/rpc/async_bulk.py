"""Loads for an event loop: threads of gRPC make and send the messages, and nothing waits for them.

grpc.aio would do it without threads, but says INTERNAL of itself where a server refuses a load
while it is being sent; and what makes the messages would hold up the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeAlias, cast

import pyarrow as pa

from memstore.rpc.bulk import Batches, Bulk, Loaded

AsyncBatches: TypeAlias = Batches | AsyncIterable[pa.Table | pa.RecordBatch]

OVER = object()
"""What stands behind the last batch."""


async def load(
    bulk: Bulk,
    messages: Callable[[Batches], Iterator[bytes]],
    batches: AsyncBatches,
    deadline_s: float | None,
) -> Loaded:
    """Does a load; where it is cancelled, what was loaded is taken back.

    messages: makes those of the load.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be gone
            loop.call_soon_threadsafe(ended.set)

    with contextlib.ExitStack() as stack:
        if isinstance(batches, AsyncIterable):
            batches = stack.enter_context(contextlib.closing(Drawn(batches, loop)))
        loading = bulk.begin(messages(batches), deadline_s)
        stack.callback(loading.call.cancel)
        loading.call.add_done_callback(end)
        await ended.wait()
        return bulk.end(loading)


class Drawn:
    """What an asynchronous iterator gives, for another thread than that of its loop."""

    def __init__(self, batches: AsyncIterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._batches, self._loop = aiter(batches), loop
        self._lock = threading.Lock()
        self._coming: Future[Any] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._lock:
            if self._closed:
                raise StopIteration
            self._coming = asyncio.run_coroutine_threadsafe(self._drawn(), self._loop)
        batch = self._coming.result()
        if batch is OVER:
            raise StopIteration
        return batch

    async def _drawn(self) -> Any:
        return await anext(cast(Any, self._batches), OVER)

    def close(self) -> None:
        """Gives no more, also to who waits for it."""
        with self._lock:
            self._closed = True
            if self._coming is not None:
                self._coming.cancel()
