"""A server under mixed load: no call fails, checkpoints keep the log short, memory stays."""

from __future__ import annotations

from pathlib import Path

import pytest

import memstore
from memstore.durable.verify import verify
from tests.conftest import LONG
from tests.faults.soaking import Plan, soak

PLAN = (
    Plan(rows=200_000, capacity_s=20, warm_s=120, seconds=480, log_bytes=1 << 28)
    if LONG
    else Plan(rows=5_000, capacity_s=2, warm_s=1, seconds=5, log_bytes=1 << 24)
)


@pytest.mark.timeout(1_800 if LONG else 300)
def test_a_server_stays_as_it_is_under_load(tmp_path: Path) -> None:
    seen = soak(tmp_path / "store", PLAN)
    assert seen.errors == []
    assert any(seen.took.values())
    assert seen.checkpoints
    assert max(seen.log) <= PLAN.log_bound
    if LONG:
        assert all(seen.took.values())
        # What is kept of each call, if a kilobyte is, would be more.
        assert seen.growth() < 1.25
    assert list(verify(tmp_path / "store")) == []
    with memstore.open(tmp_path / "store") as store:
        shards = store.memory("m").describe().shards
        assert sum(shard.rows for shard in shards) >= PLAN.rows
