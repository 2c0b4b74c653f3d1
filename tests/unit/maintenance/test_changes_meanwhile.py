"""What changes while a job runs is in the index that it makes, or fresh."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, MemoryConfig, Store
from memstore.embedded import EmbeddedMemory
from memstore.index import clustered, jobs, tuning
from memstore.index.segment import Segment
from memstore.kernels.topk import drop_repeats
from tests.congruence.oracle import live_slots, settle
from tests.unit.maintenance.jobs import (
    EVERY,
    WIDTH,
    Gate,
    change,
    check,
    eventually,
    job,
    keys,
    make,
    state,
    threads,
)


@pytest.mark.parametrize(
    ("owner", "name", "kind"),
    [
        (clustered, "seal", "seal"),
        (clustered, "train", "cluster"),
        (clustered, "seal", "cluster"),
        (Segment, "joined", "merge"),
        (tuning, "truth", "cluster"),
        (tuning, "measure", "measure"),
    ],
)
def test_what_changes_while_a_job_runs_stays_fresh(
    store: Store, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, kind: str
) -> None:
    memory = make(store, 300)
    gate = Gate(monkeypatch, owner, name)
    if kind == "cluster":
        caller = threading.Thread(target=memory.reindex)
        caller.start()
    elif kind == "measure":
        memory.append(keys(160, 1))
    else:
        memory.append(keys(100 if kind == "merge" else 40, 1))
        if kind == "merge":
            eventually(lambda: job(memory, "seal").runs > 0 and not threads())
            memory.append(keys(100, 2))
    gate.wait()
    before = job(memory, kind).runs
    erased = change(memory)
    for again in range(3):
        change(memory, again)
    check(memory)
    gate.open()
    if kind == "cluster":
        caller.join()
    settle(memory)
    assert job(memory, kind).runs > before
    check(memory)
    assert not np.isin(erased, live_slots(memory)).any()
    memory.reindex()
    settle(memory)
    check(memory)


@pytest.mark.parametrize("moves", [False, True])
def test_the_best_rows_are_looked_for_again_if_rows_moved_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    memory = make(store, 300)
    again = list[int]()

    def noted(rows_QC: Any) -> Any:
        again.append(len(rows_QC))
        return drop_repeats(rows_QC)

    monkeypatch.setattr(jobs, "drop_repeats", noted)
    gate = Gate(monkeypatch, tuning, "truth")
    caller = threading.Thread(target=memory.reindex)
    caller.start()
    gate.wait()
    if moves:
        memory.update([7], keys(1, 3), lr=1.0)
    gate.open()
    caller.join()
    assert bool(again) == moves
    check(memory)


def test_rows_changed_while_they_are_sealed_are_fresh_and_no_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store, 300)
    gate = Gate(monkeypatch, clustered, "seal")
    new = memory.append(keys(40, 1))
    gate.wait()
    memory.write(new[:3], keys(3, 2))
    memory.erase(new[3:5])
    memory.update(new[5:7], 100 * keys(2, 3), lr=1.0)
    later = memory.append(keys(2, 4))
    gate.open()
    settle(memory)
    assert isinstance(memory, EmbeddedMemory)
    fresh = memory.shards[0].index.version.fresh_F
    assert fresh.tolist() == [*new[:3], *new[5:7], *later]
    check(memory)


def test_what_is_written_while_rows_are_clustered_is_sealed_before_the_swap(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store, 300)
    gate = Gate(monkeypatch, clustered, "train")
    caller = threading.Thread(target=memory.reindex)
    caller.start()
    gate.wait()
    for seed in range(5):
        memory.append(keys(20, seed))
    eventually(lambda: job(memory, "seal").runs > 0)  # nor does sealing wait for the clustering
    memory.write(np.arange(10), keys(10, 9))
    gate.open()
    caller.join()
    assert state(memory).fresh == 0
    assert state(memory).segments == 2
    settle(memory)
    check(memory)


def test_what_is_written_and_then_drifts_while_rows_are_clustered_is_fresh(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store, 300)
    assert isinstance(memory, EmbeddedMemory)
    shard = memory.shards[0]
    monkeypatch.setattr(shard.maintainer, "mutated", lambda: None)
    real, sealed = clustered.seal, 0

    def seal(*arguments: Any) -> Segment:
        nonlocal sealed
        segment = real(*arguments)
        sealed += 1
        if sealed == 1:
            memory.append(keys(40, 1))
        else:
            memory.update(np.array([320]), 100 * keys(1, 2), lr=1.0)
        return segment

    monkeypatch.setattr(clustered, "seal", seal)
    memory.reindex()
    assert sealed == 2
    assert shard.index.version.fresh_F.tolist() == [320]
    check(memory)


def test_a_caller_clusters_instead_of_the_background(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store)
    gate = Gate(monkeypatch, tuning, "truth")
    memory.append(keys(100))
    gate.wait()
    caller = threading.Thread(target=memory.reindex)
    caller.start()
    memory.append(keys(5, 1))
    gate.open()
    caller.join()
    settle(memory)
    assert (job(memory, "cluster").runs, job(memory, "cluster").failed) == (1, 0)
    assert state(memory).fresh == 0
    check(memory)


@pytest.mark.parametrize("shards", [1, 2])
def test_mutations_race_with_every_job(tmp_path: Path, shards: int) -> None:
    with memstore.open(tmp_path) as store:
        index = IndexConfig(clusters=4, codec="flat", fresh_limit=4, drift_limit=0.05)
        memory = store.create("m", MemoryConfig(dim=WIDTH, shards=shards, index=index))
        memory.append(keys(200))
        failures: list[BaseException] = []

        def churn(seed: int) -> None:
            rng = np.random.default_rng(seed)
            # Every thread has slots of its own to erase; all are updated by all.
            own = memory.append(keys(60, seed)).tolist()
            try:
                for step in range(60):
                    own += memory.append(keys(3, step)).tolist()
                    memory.write(rng.choice(own, 2, replace=False), keys(2, step))
                    memory.update(rng.integers(0, 200, 8), keys(8, step), lr=0.05)
                    gone = [own.pop(i) for i in (5, 0)]
                    memory.erase(gone)
                    found = memory.search(keys(2, step), 300, EVERY).slots_QK
                    assert not np.isin(found, gone).any()
                    if step % 20 == seed:
                        memory.reindex()
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        churners = [threading.Thread(target=churn, args=(seed,)) for seed in range(3)]
        for thread in churners:
            thread.start()
        for thread in churners:
            thread.join()
        assert failures == []
        settle(memory)
        check(memory)
        assert all(s.fresh <= 4 for s in memory.describe().shards)
        assert sum(job.runs for s in memory.describe().shards for job in s.jobs) > 10
    assert threads() == []
