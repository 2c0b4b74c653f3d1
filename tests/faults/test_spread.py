"""Servers of one memory that die under load, again and again, and come back elsewhere."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, RequestId, SearchOptions
from memstore.errors import MemstoreError
from memstore.memory import Array
from tests.conftest import LONG
from tests.faults.lives import together
from tests.faults.processes import Cluster

SERVERS, KILLS = 4, 20 if LONG else 2
WIDTH, BATCH, COUNTERS = 4, 6, 16
CONFIG = MemoryConfig(dim=WIDTH, shards=8, index="exact", optimizer="sgd", updates="logged")
EXACT = SearchOptions(exact=True)


class Load:
    """What callers do, and what they were told was done."""

    def __init__(self, client: Any) -> None:
        self.memory = client.memory("m")
        self.over = threading.Event()
        self.rows: dict[int, Array] = {}
        self.counted = self.healthy = 0
        self._lock = threading.Lock()

    def append(self, name: str, seed: int) -> None:
        """Appends batches, each until it is told that it is there."""
        rng, number = np.random.default_rng(seed), 0
        while not self.over.is_set():
            number += 1
            rows = rng.integers(-99, 100, (BATCH, WIDTH)).astype(np.float32)
            slots = self._until_done(
                lambda rows=rows, n=number: self.memory.append(rows, request_id=RequestId(name, n))
            )
            with self._lock:
                assert not self.rows.keys() & set(slots.tolist()), "a slot was given twice"
                self.rows |= dict(zip(slots.tolist(), rows, strict=True))
            time.sleep(0.005)

    def count(self) -> None:
        """Adds 1 to rows of all servers, each time until it is told that it is done."""
        grads = -np.ones((COUNTERS, WIDTH), np.float32)
        while not self.over.is_set():
            request = RequestId("counter", self.counted + 1)
            done = self._until_done(
                lambda r=request: self.memory.update(range(COUNTERS), grads, lr=1.0, request_id=r)
            )
            assert done.applied == COUNTERS
            self.counted += 1
            time.sleep(0.005)

    def read(self) -> None:
        """Reads and changes rows of servers that are never killed: that never fails."""
        mine = [slot for slot in range(COUNTERS) if slot % 8 % SERVERS in (2, 3)]
        while not self.over.is_set():
            assert len(self.memory.gather(mine).slots_B) == len(mine)
            assert self.memory.touch(mine, self.healthy).applied == len(mine)
            found = self.memory.search(np.ones((1, WIDTH)), 3, SearchOptions(partial=True))
            assert not {2, 3, 6, 7} & set(found.missing_shards)
            self.healthy += 1
            time.sleep(0.005)

    def watched(self, work: Any) -> None:
        """Does what goes on until it is over; where it fails, it is over for all."""
        try:
            work()
        finally:
            self.over.set()

    def wait(self, is_so: Any) -> None:
        """Waits for what the load is to come to."""
        ends = time.monotonic() + 120
        while not is_so():
            assert time.monotonic() < ends, "nothing goes on"
            assert not self.over.is_set(), "another failed"
            time.sleep(0.01)

    def _until_done(self, call: Any) -> Any:
        while True:
            try:
                return call()
            except MemstoreError as error:
                if not error.retryable:
                    raise


@pytest.mark.parametrize("fan_out", [True, False], ids=["fan out", "forward"])
def test_nothing_acknowledged_is_lost_and_others_never_fail(tmp_path: Path, fan_out: bool) -> None:
    cluster = Cluster(tmp_path, SERVERS)
    try:
        # Who asks one server for all asks one that lives.
        address = cluster.addresses[2]
        with memstore.connect(address, deadline_s=120.0) as client:  # all is cold
            memory = client.create("m", CONFIG)
            zeros = np.zeros((COUNTERS, WIDTH), np.float32)
            memory.update(memory.append(zeros), zeros)
            memory.search(zeros, 3)
        with memstore.connect(address, fan_out=fan_out, deadline_s=10.0) as client:
            load = Load(client)
            recovered = []

            def kill() -> None:
                for round_ in range(KILLS):
                    seen = load.counted
                    load.wait(lambda seen=seen: load.counted > seen + 3)
                    cluster.kill(round_ % 2)
                    time.sleep(0.3)
                    cluster.restart(round_ % 2)
                    begun, seen = time.monotonic(), load.counted
                    load.wait(lambda seen=seen: load.counted > seen + 1)
                    recovered.append(time.monotonic() - begun)

            works = [kill, load.count, load.read]
            works += [lambda i=i: load.append(f"appender-{i}", i) for i in range(2)]  # type: ignore[misc]
            together([partial(load.watched, work) for work in works])
            print("back within", [f"{seconds:.2f} s" for seconds in recovered])
            assert load.healthy > 0
            counters = load.memory.gather(range(COUNTERS)).keys_BD
            np.testing.assert_array_equal(counters, np.full((COUNTERS, WIDTH), load.counted))
            slots = sorted(load.rows)
            found = load.memory.gather(slots).keys_BD
            np.testing.assert_array_equal(found, np.stack([load.rows[slot] for slot in slots]))
            assert load.memory.describe().rows == COUNTERS + len(slots)
    finally:
        cluster.close()
