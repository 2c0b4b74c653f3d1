"""Loads of several servers of which one dies in the middle: nothing of them is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import MemoryConfig, RequestId
from memstore.errors import MemoryInUse, MemstoreError
from tests.faults.processes import Cluster

SERVERS, WIDTH, BEFORE = 2, 3, 10
CONFIG = MemoryConfig(dim=WIDTH, shards=4, index="exact")


def rows(count: int) -> list[list[float]]:
    return [[1.0, 2.0, 3.0]] * count


@pytest.mark.parametrize("victim", [0, 1])
def test_a_server_dies_while_rows_are_loaded(tmp_path: Path, victim: int) -> None:
    cluster = Cluster(tmp_path, SERVERS)
    try:
        with memstore.connect(",".join(cluster.addresses), deadline_s=60.0) as client:
            memory = client.create("m", CONFIG)
            memory.append(np.ones((BEFORE, WIDTH), np.float32))

            def dying() -> Iterator[pa.RecordBatch]:
                for _ in range(3):
                    yield pa.record_batch({"key": rows(100)})
                ends = time.monotonic() + 60
                while memory.describe().rows < BEFORE + 200:
                    assert time.monotonic() < ends
                cluster.kill(victim)
                yield pa.record_batch({"key": rows(100)})

            with pytest.raises(MemstoreError):
                client.load("m", dying(), deadline_s=60.0)
            cluster.restart(victim)
            # It is taken back behind; until then nobody is given slots. Under one number, since
            # an append that is left half done would keep the next load from its end for a minute.
            ends = time.monotonic() + 120
            while True:
                assert time.monotonic() < ends, "it is not taken back"
                try:
                    one = np.ones((1, WIDTH), np.float32)
                    slots = memory.append(one, request_id=RequestId("after", 1))
                    break
                except MemoryInUse:
                    time.sleep(0.1)
                except MemstoreError as error:
                    if not error.retryable:
                        raise
            assert memory.describe().rows == BEFORE + 1
            assert slots[0] >= BEFORE
            table = pa.table({"key": rows(50)})
            assert client.load("m", table).rows == 50
            assert memory.describe().rows == BEFORE + 51
    finally:
        cluster.close()
