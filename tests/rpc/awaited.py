"""A client whose long streams are those of the asyncio client, which a loop in a thread runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import memstore
from memstore.rpc.bulk import Loaded
from memstore.rpc.client import Client
from memstore.rpc.target import Target


class AwaitedTransfers(Client):
    """The synchronous client, but for `load` and `export`."""

    def __init__(self, address: str) -> None:
        super().__init__(Target(address))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._awaited = memstore.connect_async(address)

    def _run(self, made: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(made, self._loop).result(60)

    def load(self, *args: Any, **kwargs: Any) -> Loaded:
        done: Loaded = self._run(self._awaited.load(*args, **kwargs))
        return done

    def export(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._each(self._awaited.export(*args, **kwargs))

    def _each(self, batches: Any) -> Iterator[Any]:
        try:
            while (batch := self._run(anext(batches, None))) is not None:
                yield batch
        finally:
            if self._loop.is_running():
                asyncio.run_coroutine_threadsafe(batches.aclose(), self._loop)

    def close(self) -> None:
        super().close()
        self._run(self._awaited.close())
        self._run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
