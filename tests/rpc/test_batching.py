"""Coalescing: as many answers, in fewer searches, and each the caller's own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import SearchOptions, Store
from memstore.errors import NotFinite
from memstore.rpc.alone import ALONE_S, Alone
from memstore.rpc.batching import MOST_QUERIES, SHORT_S, Coalescer
from tests.rpc.conftest import WIDTH

ROWS = np.eye(WIDTH, dtype=np.float32)


class Slow:
    """A memory whose searches wait until they may, and are counted."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.config = memory.config
        self.may, self.sizes = threading.Event(), list[int]()
        self.threads = list[threading.Thread]()

    def search(self, queries: Any, k: int, options: SearchOptions) -> Any:
        self.may.wait(10)
        self.sizes.append(len(queries))
        self.threads.append(threading.current_thread())
        return self._memory.search(queries, k, options)


def run(work: Any) -> Any:
    return asyncio.run(work)


@pytest.fixture
def slow(store: Store) -> Slow:
    memory = store.memory("m")
    memory.append(np.random.default_rng(0).normal(size=(50, WIDTH)))
    return Slow(memory)


def test_those_that_wait_go_together(slow: Slow, store: Store) -> None:
    queries = np.random.default_rng(1).normal(size=(40, 2, WIDTH)).astype(np.float32)

    async def work() -> list[Any]:
        with ThreadPoolExecutor(4) as pool:
            coalescer = Coalescer(pool, 1, Alone())
            asked = [
                asyncio.ensure_future(coalescer.search(slow, some, 3, SearchOptions()))  # type: ignore[arg-type]
                for some in queries
            ]
            await asyncio.sleep(0.01)
            slow.may.set()
            found = await asyncio.gather(*asked)
        assert not coalescer._alike
        return found

    found = run(work())
    assert slow.sizes == [2, 78]  # the first found nobody waiting
    for some, one in zip(queries, found, strict=True):
        alone = store.memory("m").search(some, 3)
        for name, array in vars(alone).items():
            np.testing.assert_array_equal(getattr(one, name), array, err_msg=name)


def test_what_is_not_alike_does_not_go_together(slow: Slow) -> None:
    slow.may.set()

    async def work() -> None:
        with ThreadPoolExecutor(1) as pool:
            coalescer = Coalescer(pool, 1, Alone())
            each = [(3, SearchOptions()), (4, SearchOptions()), (3, SearchOptions(exact=True))]
            each += [(3, SearchOptions(union=True)), (3, SearchOptions(union=True))]
            await asyncio.gather(
                *(coalescer.search(slow, ROWS, k, options) for k, options in each)  # type: ignore[arg-type]
            )

    run(work())
    assert slow.sizes == [WIDTH] * 5


def test_who_is_alone_is_answered_in_the_loop(slow: Slow) -> None:
    slow.may.set()
    exact = SearchOptions(exact=True)

    async def work() -> None:
        here = threading.current_thread()
        with ThreadPoolExecutor(2) as pool:
            coalescer = Coalescer(pool, 2, Alone())
            # Nobody knows yet how long it takes.
            await coalescer.search(slow, ROWS[:1], 3, exact)  # type: ignore[arg-type]
            assert slow.threads.pop() is not here
            await asyncio.sleep(ALONE_S)
            coalescer._seconds = dict.fromkeys(coalescer._seconds, SHORT_S / 100)
            await coalescer.search(slow, ROWS[:1], 3, exact)  # type: ignore[arg-type]
            assert slow.threads.pop() is here
            # What takes long is not done there, nor what somebody else may wait for.
            many = np.ones((1_000, WIDTH), np.float32)
            await coalescer.search(slow, many, 3, exact)  # type: ignore[arg-type]
            assert slow.threads.pop() is not here
            coalescer._seconds = dict.fromkeys(coalescer._seconds, SHORT_S / 100)
            await asyncio.gather(
                *(coalescer.search(slow, ROWS[:1], 3, exact) for _ in range(2))  # type: ignore[arg-type]
            )
            await coalescer.search(slow, ROWS[:1], 3, exact)  # type: ignore[arg-type]
            assert here not in slow.threads
            # An error there is the caller's own, as anywhere.
            await asyncio.sleep(ALONE_S)
            bad = np.full((1, WIDTH), np.nan, np.float32)
            with pytest.raises(NotFinite):
                await coalescer.search(slow, bad, 3, exact)  # type: ignore[arg-type]
            assert slow.threads.pop() is here

    run(work())


def test_kinds_take_turns(slow: Slow) -> None:
    async def work() -> None:
        with ThreadPoolExecutor(1) as pool:
            coalescer = Coalescer(pool, 1, Alone())
            first = [
                asyncio.ensure_future(coalescer.search(slow, ROWS, 3, SearchOptions()))  # type: ignore[arg-type]
                for _ in range(2)
            ]
            await asyncio.sleep(0.01)
            other = asyncio.ensure_future(coalescer.search(slow, ROWS[:1], 4, SearchOptions()))  # type: ignore[arg-type]
            await asyncio.sleep(0.01)
            slow.may.set()
            await asyncio.gather(*first, other)

    run(work())
    assert slow.sizes == [WIDTH, 1, WIDTH]


def test_one_that_fails_does_no_harm_to_others(slow: Slow) -> None:
    bad = np.full((1, WIDTH), np.nan, np.float32)

    async def work() -> list[Any]:
        with ThreadPoolExecutor(1) as pool:
            coalescer = Coalescer(pool, 1, Alone())
            asked = [
                asyncio.ensure_future(coalescer.search(slow, some, 3, SearchOptions()))  # type: ignore[arg-type]
                for some in (ROWS, ROWS, bad, ROWS)
            ]
            await asyncio.sleep(0.01)
            asked[3].cancel()
            slow.may.set()
            return await asyncio.gather(*asked, return_exceptions=True)

    first, second, refused, cancelled = run(work())
    assert first.slots_QK.tolist() == second.slots_QK.tolist()
    assert isinstance(refused, NotFinite)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert slow.sizes == [WIDTH, WIDTH + 1, WIDTH, 1]


def test_a_batch_has_a_bound(slow: Slow) -> None:
    many = np.ones((MOST_QUERIES // 2, WIDTH), np.float32)

    async def work() -> None:
        with ThreadPoolExecutor(1) as pool:
            coalescer = Coalescer(pool, 1, Alone())
            asked = [
                asyncio.ensure_future(coalescer.search(slow, many, 1, SearchOptions()))  # type: ignore[arg-type]
                for _ in range(6)
            ]
            await asyncio.sleep(0.01)
            slow.may.set()
            await asyncio.gather(*asked)

    run(work())
    assert slow.sizes == [MOST_QUERIES // 2, MOST_QUERIES, MOST_QUERIES, MOST_QUERIES // 2]


def test_many_callers_of_a_server(store: Store) -> None:
    from memstore.rpc.server import Server

    memory = store.memory("m")
    memory.append(np.random.default_rng(0).normal(size=(500, WIDTH)))
    queries = np.random.default_rng(1).normal(size=(16, 20, WIDTH))
    with Server(store) as server, memstore.connect(server.address) as client:
        remote = client.memory("m")

        def ask(number: int) -> list[list[int]]:
            return [remote.search(one[None], 5).slots_QK[0].tolist() for one in queries[number]]

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(ask, range(16)))
    for number, some in enumerate(found):
        assert some == memory.search(queries[number], 5).slots_QK.tolist()
