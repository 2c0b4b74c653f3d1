"""A network that fails: what was acknowledged is there, and nothing is done twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import Store
from memstore.errors import MemstoreError, Unreachable
from memstore.rpc.async_client import AsyncClient
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from memstore.rpc.target import Target
from tests.congruence.served import driven
from tests.faults.changes import Script, change, config, state
from tests.rpc.conftest import CONFIG, WIDTH

FAULTS = ("there", "back", "twice", "late", "slow")


class Weather:
    """What befalls each call: it is lost on the way there or back, comes twice, or late."""

    def __init__(self, seed: int) -> None:
        self._rng, self.met = np.random.default_rng(seed), Counter[str]()
        self._late: list[tuple[str, str, Any]] = []

    def fault(self) -> str:
        fault = ("none", *FAULTS)[self._rng.integers(6)]
        self.met[fault] += 1
        return fault

    def from_before(self) -> tuple[str, str, Any] | None:
        """A call that comes again, behind others that were made after it."""
        return self._late.pop() if self._late and self._rng.integers(2) else None

    def after(self, fault: str, call: tuple[str, str, Any]) -> None:
        if fault == "late":
            self._late.append(call)
        if fault == "back":
            raise Unreachable("lost on the way back")


class FaultyClient(Client):
    """A client in such weather."""

    def __init__(self, address: str, seed: int) -> None:
        super().__init__(Target(address, deadline_s=60.0))
        self.weather = Weather(seed)

    def _sent(self, service: str, verb: str, message: Any, left_s: float) -> Any:
        call = (service, verb, message)
        fault = self.weather.fault()
        if fault == "there":
            raise Unreachable("lost on the way there")
        if fault == "slow":
            time.sleep(0.002)
        if fault == "twice":
            super()._sent(*call, left_s)
        reply = super()._sent(*call, left_s)
        if before := self.weather.from_before():
            with suppress(MemstoreError):
                super()._sent(*before, left_s)
        self.weather.after(fault, call)
        return reply


class FaultyAsyncClient(AsyncClient):
    """An asyncio client in such weather."""

    def __init__(self, address: str, seed: int) -> None:
        super().__init__(Target(address, deadline_s=60.0))
        self.weather = Weather(seed)

    async def _sent(self, service: str, verb: str, message: Any, left_s: float) -> Any:
        call = (service, verb, message)
        fault = self.weather.fault()
        if fault == "there":
            raise Unreachable("lost on the way there")
        if fault == "slow":
            await asyncio.sleep(0.002)
        if fault == "twice":
            await super()._sent(*call, left_s)
        reply = await super()._sent(*call, left_s)
        if before := self.weather.from_before():
            with suppress(MemstoreError):
                await super()._sent(*before, left_s)
        self.weather.after(fault, call)
        return reply


@pytest.mark.parametrize("seed", range(3))
def test_changes_over_a_faulty_network_are_those_made_in_peace(store: Store, seed: int) -> None:
    how = config("float32", "logged", "adam", 2)
    peaceful = store.create("peaceful", how)
    store.create("stormy", how)
    script = Script()
    with Server(store) as server, FaultyClient(server.address, seed) as client:
        stormy, after = client.memory("stormy"), Script()
        for _ in range(120):
            change(peaceful, script)
            change(stormy, after)
        assert min(client.weather.met[fault] for fault in FAULTS) > 10
    assert state(store.memory("stormy")) == state(peaceful)


def test_an_asyncio_client_over_a_faulty_network(store: Store) -> None:
    how = config("float32", "logged", "adam", 2)
    peaceful = store.create("peaceful", how)
    store.create("stormy", how)
    script, after = Script(), Script()
    with Server(store) as server, asyncio.Runner() as runner:
        client = FaultyAsyncClient(server.address, 3)
        awaited = runner.run(client.memory("stormy"))
        stormy = driven(runner, awaited, store.memory("stormy"))
        for _ in range(120):
            change(peaceful, script)
            change(stormy, after)
        runner.run(client.close())
    assert min(client.weather.met[fault] for fault in FAULTS) > 10
    assert state(store.memory("stormy")) == state(peaceful)


def test_many_at_once_over_a_faulty_network(store: Store) -> None:
    async def work(address: str) -> None:
        async with FaultyAsyncClient(address, 5) as client:
            memory = await client.memory("m")
            slots = await memory.append(np.zeros((3, WIDTH)))
            step = np.full((3, WIDTH), -1.0)
            await asyncio.gather(*(memory.update(slots, step, lr=1.0) for _ in range(100)))
            rows = await memory.gather(slots)
            assert rows.keys_BD is not None
            assert rows.keys_BD.tolist() == [[100.0] * WIDTH] * 3

    with Server(store) as server:
        asyncio.run(work(server.address))
    assert store.memory("m").describe().rows == 3


def test_numbers_of_the_clients_own(store: Store) -> None:
    with Server(store) as server, FaultyClient(server.address, 7) as client:
        memory = client.memory("m")
        slots = memory.append(np.zeros((3, WIDTH)))
        for _ in range(100):
            memory.update(slots, np.full((3, WIDTH), -1.0), lr=1.0)
    keys = store.memory("m").gather(slots).keys_BD
    assert keys is not None
    assert keys.tolist() == [[100.0] * WIDTH] * 3
    assert store.memory("m").describe().rows == 3


def test_a_reader_trains_over_the_network(store: Store) -> None:
    torch = pytest.importorskip("torch")
    from memstore.torch import RowOptimizer, SparseReader

    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(30, WIDTH)), rng.normal(size=(5, 6, WIDTH))
    store.create("near", CONFIG).append(keys)
    store.create("far", CONFIG).append(keys)
    with Server(store) as server, memstore.connect(server.address) as client:
        for memory in (store.memory("near"), client.memory("far")):
            reader = SparseReader(memory, k=4)
            assert reader.rows is not None
            optimizer = RowOptimizer([reader.rows], lr=0.1)
            for query in queries:
                read = reader(torch.from_numpy(query).float())
                read.output_QV.square().sum().backward()
                assert optimizer.step() > 0
    near, far = (store.memory(name).gather(np.arange(30)).keys_BD for name in ("near", "far"))
    assert near is not None
    np.testing.assert_array_equal(near, far)
    assert np.abs(near - keys).max() > 0.01
