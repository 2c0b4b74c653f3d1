"""The actor that refreshes: it keeps encoded memories near their parts, and is started again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig
from memstore.errors import Unreachable
from memstore.staleness import staleness
from tests.cluster.conftest import NAMESPACE

pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")

from workers.cluster import ClusterSpec, control, down, status, up
from workers.refresh import DRIFT

WIDTH, PARTS, FACTS, LONG_S = 4, 20, 200, 120.0
PART = MemoryConfig(dim=WIDTH, shards=2, index="none", optimizer="sgd")
CONFIG = MemoryConfig(
    dim=WIDTH,
    shards=2,
    index="exact",
    records={"a": "int64", "b": "int64"},
    encoding=EncodingConfig(key={"a": "ones", "b": "others"}),
)


def rows(seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(PARTS, WIDTH)).astype(np.float32)


def until(done: Callable[[], bool]) -> None:
    ends = time.monotonic() + LONG_S
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.1)


def process_of(spec: ClusterSpec) -> int:
    """Of the actor that refreshes, once there is one."""
    ends = time.monotonic() + LONG_S
    while True:
        try:
            actor = control.actor(spec.refresher, NAMESPACE)
            found: int = control.ask(actor.__ray_call__.remote(lambda _: os.getpid()))
            return found
        except Unreachable:
            assert time.monotonic() < ends
            time.sleep(0.1)


def test_it_refreshes_and_is_started_again_where_it_dies(nodes: Any, tmp_path: Path) -> None:
    spec = ClusterSpec(
        folder=tmp_path,
        name="refreshed",
        namespace=NAMESPACE,
        parts=2,
        cpus=0.5,
        refresh_share=0.5,
    )
    up(spec, LONG_S)
    with memstore.connect(spec.address, deadline_s=LONG_S) as client:
        ones, others = client.create("ones", PART), client.create("others", PART)
        ones.append(rows(1))
        others.append(rows(2))
        facts = client.create("facts", CONFIG)
        at = np.arange(FACTS)
        facts.append(records={"a": at % PARTS, "b": at // 10})

        def near() -> bool:
            drift = facts.describe().drift
            return drift is not None and drift <= DRIFT

        ones.update(range(PARTS), rows(3), lr=0.5)
        assert not near()
        until(near)
        found = status(spec.name, NAMESPACE)
        assert found.refreshing is not None
        before = process_of(spec)
        os.kill(before, signal.SIGKILL)
        others.update(range(PARTS), rows(4), lr=0.5)
        until(near)
        assert process_of(spec) != before
        parts = {"ones": ones, "others": others}
        assert (staleness(facts, parts, at) <= 2 * DRIFT).all()
        until(lambda: getattr(status(spec.name, NAMESPACE).refreshing, "encoded", 0) >= FACTS)
    down(spec.name, NAMESPACE)
    with pytest.raises(Unreachable):
        control.actor(spec.refresher, NAMESPACE)
