"""A network that fails: what was acknowledged is there, and nothing is done twice."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import Store
from memstore.errors import MemstoreError, Unreachable
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from memstore.rpc.target import Target
from tests.faults.changes import Script, change, config, state
from tests.rpc.conftest import CONFIG, WIDTH


class FaultyClient(Client):
    """A client whose calls are lost on the way there or back, come twice, or late."""

    def __init__(self, address: str, seed: int) -> None:
        super().__init__(Target(address, deadline_s=60.0))
        self.rng, self.met = np.random.default_rng(seed), Counter[str]()
        self._late: list[tuple[str, str, Any]] = []

    def _sent(self, service: str, verb: str, message: Any, left_s: float) -> Any:
        fault = ("none", "there", "back", "twice", "late", "slow")[self.rng.integers(6)]
        self.met[fault] += 1
        if fault == "there":
            raise Unreachable("lost on the way there")
        if fault == "slow":
            time.sleep(0.002)
        if fault == "twice":
            super()._sent(service, verb, message, left_s)
        reply = super()._sent(service, verb, message, left_s)
        if self._late and self.rng.integers(2):
            # One of before comes again, behind others that were made after it.
            try:
                super()._sent(*self._late.pop(), left_s)
            except MemstoreError:
                self.met["refused"] += 1
        if fault == "late":
            self._late.append((service, verb, message))
        if fault == "back":
            raise Unreachable("lost on the way back")
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
        assert min(client.met[f] for f in ("there", "back", "twice", "late", "slow")) > 10
    assert state(store.memory("stormy")) == state(peaceful)


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
