"""The worker that refreshes: what it keeps near its parts, what first, and how much it rests."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import (
    NO_SLOT,
    EncodingConfig,
    IndexConfig,
    Memory,
    MemoryConfig,
    Refreshed,
    SearchOptions,
)
from memstore.errors import (
    InvalidArgument,
    Overloaded,
    StoreClosed,
    UnknownMemory,
    UnknownSlot,
    Unsupported,
)
from memstore.memory import Array, Description, JobDescription, Slots
from memstore.rpc.server import Server
from memstore.staleness import staleness
from tests.congruence.oracle import settle
from tests.congruence.spread import Servers
from workers import refresh
from workers.refresh import Refresher, Sealing

WIDTH, PARTS, FACTS = 8, 40, 600
PART = MemoryConfig(dim=WIDTH, shards=2, index="none", optimizer="sgd")
CONFIG = MemoryConfig(
    dim=WIDTH,
    shards=3,
    index="exact",
    records={"a": "int64", "b": "int64"},
    encoding=EncodingConfig(key={"a": "ones", "b": "others"}),
)


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def named(facts: int = FACTS) -> dict[str, Slots]:
    at = np.arange(facts)
    return {"a": at % PARTS, "b": at // PARTS}


def filled(source: Any) -> Any:
    for name, seed in (("ones", 1), ("others", 2)):
        source.create(name, PART).append(rows(PARTS, seed))
    source.create("facts", CONFIG).append(records=named())
    return source


@pytest.fixture(params=["embedded", "servers"])
def source(request: Any, tmp_path: Path) -> Iterator[Any]:
    """A store, or a client of three servers."""
    if request.param == "embedded":
        with memstore.open(tmp_path / "store") as store:
            yield filled(store)
        return
    servers = Servers(tmp_path / "servers", 3)
    try:
        with memstore.connect(servers.servers[1].address, deadline_s=60.0) as client:
            yield filled(client)
    finally:
        servers.close()


def parts_of(source: Any) -> dict[str, Memory]:
    return {name: source.memory(name) for name in ("ones", "others")}


def sums(source: Any) -> Array:
    facts = named()
    ones, others = (source.memory(name) for name in ("ones", "others"))
    return np.asarray(ones.gather(facts["a"]).keys_BD + others.gather(facts["b"]).keys_BD)


class Stop(threading.Event):
    """Is not waited for, and knows for how long it should have been."""

    def __init__(self, ends: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.waited: list[float] = []
        self._ends = ends

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        if self._ends():
            self.set()
        return self.is_set()


def test_what_drifted_is_encoded_anew_once(source: Any) -> None:
    facts = source.memory("facts")
    source.memory("ones").update(range(PARTS), rows(PARTS, 5), lr=0.5)
    assert facts.describe().drift > refresh.DRIFT
    done = Refresher(source).run(Stop(), once=True)
    assert (done.encoded, done.batches, done.failed) == (FACTS, 1, 0)
    assert done.drift is not None
    assert facts.describe().drift == done.drift <= refresh.DRIFT
    np.testing.assert_array_equal(facts.gather(range(FACTS)).keys_BD, sums(source))
    assert not staleness(facts, parts_of(source), np.arange(FACTS)).any()
    again = Refresher(source).run(Stop(), once=True)
    assert again.encoded == 0


def test_what_drifted_most_comes_first(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch a time, of the slots of a few part rows."""
    monkeypatch.setattr(refresh, "FIRST", 2 * FACTS // PARTS)
    monkeypatch.setattr(refresh, "BATCH_S", 0.0)  # no batch is too short
    monkeypatch.setattr(refresh, "LEAST", 2 * FACTS // PARTS)
    facts, moved = source.memory("facts"), np.arange(PARTS)
    before_PD = np.asarray(source.memory("ones").gather(moved).keys_BD)
    # Row i is pulled in by some part of itself, the more the higher i.
    pull_P1 = (0.2 + 0.7 * moved / PARTS)[:, None].astype(np.float32)
    source.memory("ones").update(moved, before_PD * pull_P1, lr=1.0)
    order: list[int] = []
    stale_B = staleness(facts, parts_of(source), np.arange(FACTS)) > 0
    assert stale_B.all()

    def look(_: Any) -> None:
        nonlocal stale_B
        now_B = staleness(facts, parts_of(source), np.arange(FACTS)) > 0
        done = np.unique(named()["a"][stale_B & ~now_B])
        order.extend(sorted(done.tolist(), reverse=True))
        stale_B = now_B

    progress = Refresher(source).run(Stop(), once=True, tell=look)
    assert order == list(range(PARTS))[::-1]
    assert progress.batches == PARTS // 2


def test_a_part_row_of_more_facts_than_a_batch_is_encoded_in_pieces(source: Any) -> None:
    """It counts as encoded once all are, as of when the first were."""
    facts, ones = source.memory("facts"), source.memory("ones")
    of_row = np.flatnonzero(named()["a"] == 3)
    ones.update([3], rows(1, 5), lr=0.5)
    moved = sums(source)
    for first in range(0, len(of_row), 4):
        before = facts.describe().drift
        done = facts.refresh(limit=4)
        piece = of_row[first : first + 4]
        assert done.encoded == len(piece)
        np.testing.assert_array_equal(facts.gather(piece).keys_BD, sums(source)[piece])
        if first + 4 < len(of_row):
            assert done.drift_before == done.drift_after == before > 0.0
        if first == 4:  # Those before it are as old as that again.
            ones.update([3], rows(1, 6), lr=0.25)
    np.testing.assert_array_equal(facts.gather(of_row[:8]).keys_BD, moved[of_row[:8]])
    assert 0.0 < done.drift_after == pytest.approx(facts.describe().drift)
    assert facts.refresh().encoded == len(of_row)
    np.testing.assert_array_equal(facts.gather(range(FACTS)).keys_BD, sums(source))
    assert facts.describe().drift == 0.0


def test_it_keeps_up_beside_training(source: Any) -> None:
    """Rows are trained in one thread and facts refreshed in another."""
    ones, others, facts = (source.memory(name) for name in ("ones", "others", "facts"))
    with Refresher(source, share=0.5) as worker:
        for step in range(60):
            if step % 20 == 10:
                with worker.paused():
                    before = facts.describe().shards
                    source.list()
                    assert facts.describe().shards == before
            at = np.random.default_rng(step).integers(0, PARTS, 8)
            ones.update(at, rows(8, step), lr=0.05)
            others.update(at, rows(8, step + 1), lr=0.05)
            found = facts.search(rows(2, step), 5)
            assert (found.counts_Q == 5).all()
    assert worker.progress.failed == 0
    done = Refresher(source).run(Stop(), once=True)
    assert worker.progress.encoded + done.encoded > 0
    assert facts.describe().drift <= refresh.DRIFT
    assert (staleness(facts, parts_of(source), np.arange(FACTS)) < 2 * refresh.DRIFT).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_it_rests_by_its_share(source: Any, share: float) -> None:
    def busy() -> bool:
        source.memory("ones").update(range(PARTS), rows(PARTS, len(stop.waited)), lr=0.5)
        return len(stop.waited) > 10

    stop = Stop(busy)
    source.memory("ones").update(range(PARTS), rows(PARTS, 5), lr=0.5)
    worker = Refresher(source, share=share)
    done = worker.run(stop)
    assert done.batches > 5
    # Two clocks.
    assert 0 <= done.cpu_s < done.worked_s + 0.01
    assert sum(stop.waited) == pytest.approx(done.worked_s * (1 - share) / share)
    assert done.share == pytest.approx(share)


def test_sealing_behind_it_counts_as_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "LOOK_S", 0.0)
    index = IndexConfig(kind="clustered", fresh_limit=20)
    with memstore.open(tmp_path) as store:
        for name, seed in (("ones", 1), ("others", 2)):
            store.create(name, PART).append(rows(PARTS, seed))
        config = MemoryConfig.from_dict(CONFIG.to_dict() | {"index": index.to_dict()})
        facts = store.create("facts", config)
        facts.append(records=named())
        facts.reindex()

        def busy() -> bool:
            settle(facts)
            store.memory("ones").update(range(6), rows(6, len(stop.waited)), lr=0.5)
            return len(stop.waited) > 5

        stop = Stop(busy)
        busy()
        done = Refresher(store, share=0.5).run(stop)
    assert 0.0 < done.sealed_s < done.worked_s
    assert sum(stop.waited) == pytest.approx(done.worked_s)


def described(source: Any, *jobs: list[JobDescription], fresh: int = 0) -> Description:
    """jobs: of the first shards.  fresh: rows of the last one."""
    description = source.memory("facts").describe()
    each = [*jobs, *([] for _ in range(CONFIG.shards - len(jobs)))]
    shards = [
        dataclasses.replace(shard, jobs=tuple(of), fresh=0)
        for shard, of in zip(description.shards, each, strict=True)
    ]
    shards[-1] = dataclasses.replace(shards[-1], fresh=fresh)
    described: Description = dataclasses.replace(description, shards=tuple(shards))
    return described


def test_of_rows_that_others_wrote_sealing_is_not_its_work(source: Any) -> None:
    def job(kind: str, rows: int, seconds: float) -> JobDescription:
        return JobDescription(kind=kind, runs=1, rows=rows, seconds=seconds)

    sealing = Sealing()
    assert not sealing.told(described(source, [job("seal", 500, 9.0)]))
    sealing.encoded += 100
    waiting = described(source, [job("seal", 500, 9.0), job("cluster", 500, 9.0)], fresh=300)
    assert not sealing.told(waiting)
    both = [job("seal", 700, 11.0), job("merge", 500, 2.0)]
    assert sealing.told(described(source, both)) == pytest.approx(4.0 / 2)
    assert not sealing.told(described(source, [job("seal", 900, 13.0), both[1]]))
    # Of shards that seal at the same time, it is that which takes longest.
    sealing.encoded += 300
    each = [job("seal", 1_000, 15.0), both[1]], [job("seal", 200, 5.0)]
    assert sealing.told(described(source, *each)) == pytest.approx(5.0)
    # One was opened anew: from where it is now.
    sealing.encoded += 200
    each = [job("seal", 100, 1.0)], [job("seal", 300, 6.0)]
    assert sealing.told(described(source, *each, fresh=300)) == pytest.approx(1.0)
    assert sealing.encoded == 100
    # What is fresh no more, as after a clustering, is sealed by nobody.
    assert not sealing.told(described(source, *each, fresh=30))
    assert sealing.encoded == 30


def test_where_nothing_is_to_do_it_waits(source: Any) -> None:
    stop = Stop(lambda: len(stop.waited) > 3)
    done = Refresher(source, share=1.0).run(stop)
    assert set(stop.waited) == {refresh.IDLE_S}
    assert (done.batches, done.drift) == (0, 0.0)


class Troubled:
    """A source whose refresh raises some errors first."""

    def __init__(self, source: Any, *errors: Exception) -> None:
        self._source, self.errors = source, list(errors)

    def list(self) -> list[str]:
        found: list[str] = self._source.list()
        return found

    def memory(self, name: str) -> Any:
        memory, errors = self._source.memory(name), self.errors

        class Memory:
            config = memory.config
            describe = memory.describe

            def refresh(self, limit: int | None) -> Refreshed:
                if errors:
                    raise errors.pop(0)
                return memory.refresh(limit)

        return Memory()


def test_a_memory_that_is_named_is_there_and_encoded(source: Any) -> None:
    with pytest.raises(UnknownMemory, match="nothing"):
        Refresher(source, names=["facts", "nothing"]).run(Stop(), once=True)
    with pytest.raises(InvalidArgument, match="'ones' is refreshed by nobody"):
        Refresher(source, names=["ones"]).run(Stop(), once=True)
    source.memory("ones").update(range(PARTS), rows(PARTS, 5), lr=0.5)
    assert Refresher(source, names=["facts"]).run(Stop(), once=True).encoded == FACTS


def test_what_may_pass_is_tried_again_and_what_will_not_is_raised(source: Any) -> None:
    source.memory("ones").update(range(PARTS), rows(PARTS, 5), lr=0.5)
    stop = Stop()
    behind = Overloaded("behind", retry_after_s=0.0)
    troubled = Troubled(source, behind, Overloaded("still behind", retry_after_s=7.0))
    done = Refresher(troubled, share=1.0).run(stop, once=True)
    assert (done.failed, done.encoded) == (2, FACTS)
    assert "still behind" in done.why
    assert "still behind" in str(done)
    assert stop.waited[:2] == [refresh.PAUSES_S[0], 7.0]
    source.memory("ones").update(range(PARTS), rows(PARTS, 6), lr=0.5)
    with pytest.raises(InvalidArgument, match="no good"):
        Refresher(Troubled(source, InvalidArgument("no good"))).run(Stop())
    failed = threading.Event()

    class Told(InvalidArgument):
        def __str__(self) -> str:
            failed.set()
            return "no good"

    with pytest.raises(InvalidArgument), Refresher(Troubled(source, Told("no good"))):
        assert failed.wait(60)
    with Refresher(Troubled(source, StoreClosed("closed"))):
        pass


def test_a_memory_that_is_dropped_meanwhile_is_let_go(source: Any) -> None:
    source.memory("ones").update(range(PARTS), rows(PARTS, 5), lr=0.5)

    class Dropping(Troubled):
        dropped = False

        def memory(self, name: str) -> Any:
            if name == "facts" and worker._known and not self.dropped:
                self.dropped = True
                source.drop("facts")
            return source.memory(name)

    worker = Refresher(Dropping(source))
    done = worker.run(Stop(), once=True)
    assert (done.encoded, done.failed) == (0, 0)


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.1}, {"drift": 0.0}])
def test_bounds_are_checked(source: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match="out of range"):
        Refresher(source, **wrong)  # type: ignore[arg-type]


def test_staleness_is_told_of_what_a_search_returned(source: Any) -> None:
    facts, parts = source.memory("facts"), parts_of(source)
    found = facts.search(rows(3, 9), FACTS + 2, SearchOptions(exact=True))
    stale_QK = staleness(facts, parts, found.slots_QK)
    assert stale_QK.shape == found.slots_QK.shape
    np.testing.assert_array_equal(np.isnan(stale_QK), found.slots_QK == NO_SLOT)
    assert not np.nansum(stale_QK)
    before_BD = sums(source)
    source.memory("ones").update([3], rows(1, 5), lr=0.1)
    stale_B = staleness(facts, parts, np.arange(FACTS))
    off_B = np.linalg.norm(sums(source) - before_BD, axis=1) / np.linalg.norm(before_BD, axis=1)
    np.testing.assert_allclose(stale_B, off_B, rtol=1e-5)
    assert set(named()["a"][stale_B > 0]) == {3}
    with pytest.raises(Unsupported, match="is not encoded"):
        staleness(source.memory("ones"), parts, [0])
    with pytest.raises(InvalidArgument, match="parts are missing"):
        staleness(facts, {"ones": parts["ones"]}, [0])
    facts.erase([1])
    with pytest.raises(UnknownSlot):
        staleness(facts, parts, [1])
    assert staleness(facts, parts, []).shape == (0,)


def test_from_the_command_line(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store, Server(store) as server:
        filled(store)
        store.memory("ones").update(range(PARTS), rows(PARTS, 5), lr=0.5)
        command = [sys.executable, "-m", "workers.cli", "refresh", server.address]
        own = {"env": os.environ, "text": True, "stdout": subprocess.PIPE}
        once = subprocess.run([*command, "--once"], check=True, timeout=200, **own)  # type: ignore[call-overload]
        assert f"{FACTS} slots in 1 batches" in once.stdout
        with subprocess.Popen([*command, "--share", "0.5"], **own) as process:  # type: ignore[call-overload]
            store.memory("ones").update(range(PARTS), rows(PARTS, 6), lr=0.5)
            while (store.memory("facts").describe().drift or 0.0) > refresh.DRIFT:
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            told, _ = process.communicate(timeout=200)
        assert process.returncode == 0
        assert f"{FACTS} slots in" in told


def test_progress_says_how_it_is() -> None:
    progress = dataclasses.replace(refresh.Progress(), drift=0.25, batches=2, encoded=3_000)
    assert str(progress) == "drift 0.25, 3,000 slots in 2 batches, 0.0 s, 0% of the time"
    assert str(refresh.Progress()).startswith("not looked yet")
