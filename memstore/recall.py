"""Recall of a memory as it is now, measured against exact search of the same rows."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self

import numpy as np

from memstore import checks
from memstore.dtypes import counting, storage
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.errors import InvalidArgument, MemstoreError, StoreClosed
from memstore.memory import Array, Memory, SearchOptions
from memstore.meter import MeasuredRecall, unmetered
from memstore.store import Store

logger = logging.getLogger(__name__)


def measure_recall(
    memory: Memory,
    queries: Array | None = None,
    k: int = 10,
    options: SearchOptions = SearchOptions(),
) -> MeasuredRecall:
    """Searches by `options` and exactly, and compares the scores.

    queries `[Q, D]`; None takes up to 256 of those that the memory was asked lately. What is
    counted are scores ≥ the true k-th score, so that of equal scores any row is right; where
    fewer than k rows are there, or pass the filter, all of them are to be found. An embedded
    memory keeps the result for `memstore.metrics`. It costs an exact search of the queries; rows
    that change between the two searches shift it a little.

    Raises `InvalidArgument` where there is no query, or no row that one of them could find.
    """
    k = checks.positive("k", k)
    queries_QD = recent_queries(memory) if queries is None else queries
    search = unmetered(memory.search)
    exact = search(queries_QD, k, SearchOptions(exact=True, filter=options.filter))
    found = search(queries_QD, k, options)
    if not exact.counts_Q.any():
        raise InvalidArgument(
            "there is nothing to measure recall by",
            got=f"{len(queries_QD)} queries that find no row",
            hint="give queries, or search the memory first",
        )
    # Without a filter all queries find as many rows, and with it too.
    wanted = int(exact.counts_Q[0])
    floor_Q1 = exact.scores_QK[:, wanted - 1 : wanted]
    recall_Q = np.minimum((found.scores_QK >= floor_Q1).sum(axis=1), wanted) / wanted
    measured = MeasuredRecall(
        recall=float(recall_Q.mean()),
        error=float(recall_Q.std() / np.sqrt(len(recall_Q))),
        queries=len(recall_Q),
        k=k,
        at_s=time.time(),
    )
    if isinstance(memory, EmbeddedMemory | EncodedMemory):
        memory.meter.recall = measured
    return measured


def recent_queries(memory: Memory) -> Array:
    """Some of the queries that the index of a memory was asked lately, `[≤ 256, D]`."""
    base = memory.base if isinstance(memory, EncodedMemory) else memory
    if isinstance(base, EmbeddedMemory):
        # Every shard is asked the same.
        return base.shards[0].index.asked().astype(counting(storage(base.config.dtype)))
    return np.empty((0, memory.config.dim), counting(storage(memory.config.dtype)))


class RecallWatch:
    """Measures the recall of every searched memory of a store again and again, in a thread.

        with RecallWatch(store, every_s=60):
            …

    One round searches exactly for at most `queries` of the recent queries of each memory. It ends
    when the store is closed.
    """

    def __init__(self, store: Store, every_s: float = 60.0, queries: int = 32) -> None:
        self._store = store
        self._every_s = every_s
        self._queries = checks.positive("queries", queries)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memstore-recall", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                for name in self._store.list():
                    self._measure(name)
            except StoreClosed:
                return

    def _measure(self, name: str) -> None:
        try:
            memory = self._store.memory(name)
            recent_QD = recent_queries(memory)
            if len(recent_QD):
                measure_recall(memory, recent_QD[:: -(-len(recent_QD) // self._queries)])
        except StoreClosed:
            raise
        except MemstoreError as error:
            # It was dropped or emptied meanwhile: there is nothing to say of it.
            logger.debug("the recall of memory %r was not measured: %s", name, error)
