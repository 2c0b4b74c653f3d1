"""A cluster of two parts, marked, and its snapshot restored as one store of this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig
from tests.cluster.conftest import NAMESPACE

pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")

from workers.cluster import ClusterSpec, down, up

WIDTH, ROWS, LONG_S = 4, 60, 120.0


def rows(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


def test_a_cluster_is_restored_as_an_embedded_store(nodes: Any, tmp_path: Path) -> None:
    spec = ClusterSpec(folder=tmp_path / "cluster", name="marked", namespace=NAMESPACE, parts=2)
    uri = str(tmp_path / "snapshots")
    up(spec, LONG_S)
    try:
        with memstore.connect(spec.address, deadline_s=LONG_S) as client:
            memory = client.create("m", MemoryConfig(dim=WIDTH, shards=3, optimizer="adam"))
            memory.append(rows(ROWS, 0))
            memory.update(range(ROWS), rows(ROWS, 1))
            expected = memory.gather(range(ROWS)).keys_BD
            client.mark("step-1")
            memory.update(range(ROWS), rows(ROWS, 2))
            assert client.snapshot(uri, at="step-1").number == 1
            trained = memory.gather(range(ROWS)).keys_BD
    finally:
        down(spec.name, NAMESPACE)
    memstore.restore(uri, tmp_path / "one", shards=2)
    with memstore.open(tmp_path / "one") as store:
        twin = store.memory("m")
        np.testing.assert_array_equal(twin.gather(range(ROWS)).keys_BD, expected)
        # The state of the optimizer came along.
        twin.update(range(ROWS), rows(ROWS, 2))
        np.testing.assert_array_equal(twin.gather(range(ROWS)).keys_BD, trained)
