"""Threads for the engine's work, which end within a time, or say what they are still at."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any, ParamSpec, TypeVar

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
