"""Jobs in the background: rows change while they run, they fail, they are stopped, writers wait."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, Memory, MemoryConfig, SearchOptions, Store
from memstore.embedded import EmbeddedMemory
from memstore.errors import DeadlineExceeded, MemstoreError, Overloaded, StoreClosed
from memstore.index import clustered, due, maintenance, tuning
from memstore.index.segment import Segment
from memstore.kernels.near import halves
from memstore.memory import Array, JobDescription, ShardDescription, Slots
from tests.congruence.oracle import live_slots, settle

WIDTH, LIMIT = 6, 32
EVERY = SearchOptions(probe=1_000_000)
EXACT = SearchOptions(exact=True)


def keys(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as store:
        yield store
    assert threads() == []


def make(store: Store, rows: int = 0, **index: Any) -> Memory:
    given: dict[str, Any] = {"clusters": 4, "codec": "flat", "fresh_limit": LIMIT} | index
    config = MemoryConfig(dim=WIDTH, index=IndexConfig(**given), optimizer="sgd")
    memory = store.create("m", config)
    if rows:
        memory.append(keys(rows))
        memory.reindex()
        settle(memory)
    return memory


def threads() -> list[str]:
    """Those of jobs."""
    jobs = ("memstore-seal", "memstore-cluster")
    return [t.name for t in threading.enumerate() if t.name in jobs]


def state(memory: Memory) -> ShardDescription:
    return memory.describe().shards[0]


def job(memory: Memory, kind: str) -> JobDescription:
    return next(job for job in state(memory).jobs if job.kind == kind)


def eventually(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.002)


def check(memory: Memory) -> None:
    """Every live row is proposed from exactly one place, and is found as by exact search."""
    assert isinstance(memory, EmbeddedMemory)
    for shard in memory.shards:
        version = shard.index.version
        held = [np.flatnonzero(np.unpackbits(s.valid, bitorder="little")) for s in version.segments]
        proposed = np.sort(np.concatenate([version.fresh_F, *held]))
        assert proposed.tolist() == shard.rows.live_rows().tolist()
        for segment, rows in zip(version.segments, held, strict=True):
            assert len(segment) - segment.stale == len(rows)
    queries, k = keys(5, 99), max(memory.describe().rows, 1)
    found, true = memory.search(queries, k, EVERY), memory.search(queries, k, EXACT)
    assert found.slots_QK.tolist() == true.slots_QK.tolist()
    assert found.scores_QK.tolist() == true.scores_QK.tolist()


class Gate:
    """Holds a part of a job until it is opened, then lets it run as it is."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        real = getattr(owner, name)

        def gated(*arguments: Any) -> Any:
            found = real(*arguments)
            self.reached.set()
            assert self._open.wait(30)
            return found

        patch.setattr(owner, name, gated)

    def wait(self) -> None:
        assert self.reached.wait(30)

    def open(self) -> None:
        self._open.set()


def change(memory: Memory, seed: int = 7) -> Slots:
    """Changes rows in every way, some that a job has read among them; returns those erased."""
    slots = live_slots(memory)
    few = np.random.default_rng(seed).permutation(slots)[:25]
    memory.write(few[:5], keys(5, seed))
    memory.blend(few[5:10], np.ones(5), keys(5, seed) * 0 + 1, keys(5, seed + 1))
    memory.erase(few[10:15])
    memory.update(few[15:20], keys(5, seed + 2), lr=9.0)
    memory.allocate(3)
    memory.append(keys(4, seed + 3))
    return few[10:15]


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


@pytest.mark.parametrize("error", [MemoryError("full"), RuntimeError("faiss")])
@pytest.mark.parametrize(("name", "kind"), [("seal", "seal"), ("train", "cluster")])
def test_a_job_that_fails_leaves_the_old_version_and_is_tried_again(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    name: str,
    kind: str,
) -> None:
    monkeypatch.setattr(maintenance, "FIRST_PAUSE_S", 0.01)
    memory = make(store, 100)
    before = state(memory)
    real, fails = getattr(clustered, name), iter([True, True])

    def failing(*arguments: Any) -> Any:
        if next(fails, False):
            raise error
        return real(*arguments)

    monkeypatch.setattr(clustered, name, failing)
    # Five times as many rows as were clustered are clustered anew.
    memory.append(keys(400 if kind == "cluster" else 40, 2))
    eventually(lambda: job(memory, kind).failed > 0)
    assert state(memory).clusters == before.clusters
    check(memory)
    settle(memory)
    assert job(memory, kind).failed == 2
    assert job(memory, kind).runs > 0
    assert state(memory).fresh == 0
    check(memory)
    assert sum(str(error) in record.message for record in caplog.records) == 2


def test_a_reindex_that_fails_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = make(store, 100)
    before = state(memory)

    def failing(*_: Any) -> Any:
        raise MemoryError("full")

    with monkeypatch.context() as patch:
        patch.setattr(clustered, "train", failing)
        with pytest.raises(MemoryError):
            memory.reindex()
    assert state(memory).index_version == before.index_version
    memory.reindex()
    check(memory)


def overfill(memory: Memory) -> None:
    """Leaves as many rows fresh as may be before writers wait, and some more."""
    memory.append(keys(maintenance.OVERFLOW * LIMIT + 1, 1))


MUTATIONS: dict[str, Callable[[Memory], object]] = {
    "append": lambda memory: memory.append(keys(1)),
    "write": lambda memory: memory.write([0], keys(1)),
    "blend": lambda memory: memory.blend([0], [1.0], keys(1) * 0, keys(1)),
    "update": lambda memory: memory.update([0], keys(1)),
    "allocate": lambda memory: memory.allocate(1),
}


@pytest.mark.parametrize("verb", MUTATIONS)
def test_writers_are_refused_while_too_many_rows_are_fresh(
    store: Store, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    memory = make(store, 300, patience_s=0.02)
    gate = Gate(monkeypatch, clustered, "seal")
    overfill(memory)
    gate.wait()
    gathered = memory.gather(np.arange(300)).keys_BD
    before = memory.describe()  # its bytes count pages that a gather read first
    with pytest.raises(DeadlineExceeded, match="waited for rows to be sealed"):
        memory.append(keys(1), deadline_s=0.001)
    with pytest.raises(Overloaded, match="try again in") as caught:
        MUTATIONS[verb](memory)
    assert isinstance(caught.value, MemstoreError)
    assert caught.value.retryable
    assert 0 < caught.value.retry_after_s < 60
    assert memory.describe() == before
    assert memory.gather(np.arange(300)).keys_BD.tolist() == gathered.tolist()  # type: ignore[union-attr]
    assert state(memory).overloaded == 1
    # What makes nothing fresh goes on, reads with it.
    memory.touch([0], 1)
    memory.erase([1])
    check(memory)
    gate.open()
    settle(memory)
    MUTATIONS[verb](memory)
    settle(memory)
    check(memory)


def test_a_writer_waits_until_there_is_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = make(store, 300)
    gate = Gate(monkeypatch, clustered, "seal")
    overfill(memory)
    gate.wait()
    threading.Timer(0.2, gate.open).start()
    done = memory.write([0], keys(1))
    assert 0.1 < done.delay_s < 30
    assert memory.write([0], keys(1)).delay_s == 0
    settle(memory)
    check(memory)


def test_values_alone_and_a_memory_that_does_not_drift_never_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store, 300, patience_s=0, drift_limit=None)
    gate = Gate(monkeypatch, clustered, "seal")
    overfill(memory)
    gate.wait()
    assert memory.update([0], keys(1)).applied == 1
    gate.open()
    settle(memory)


def test_appending_block_by_block_never_waits_before_the_first_clustering(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store, patience_s=0)
    gate = Gate(monkeypatch, clustered, "train")
    for seed in range(10):
        memory.append(keys(100, seed))
    gate.wait()
    check(memory)
    gate.open()
    settle(memory)
    assert state(memory).fresh <= LIMIT
    assert state(memory).jobs[3].runs <= 3
    check(memory)


def test_closing_stops_a_job_at_the_next_rows_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memstore.open(tmp_path)
    memory = make(store, 300)
    monkeypatch.setattr(clustered, "BLOCK_ROWS", 1)
    read = 0
    real = Segment.add

    def slow(*arguments: Any) -> None:
        nonlocal read
        read += 1
        time.sleep(0.02)
        real(*arguments)

    monkeypatch.setattr(Segment, "add", slow)
    memory.append(keys(120, 1))
    eventually(lambda: read > 1)
    store.close()
    assert read < 100
    assert threads() == []
    with pytest.raises(StoreClosed):
        memory.append(keys(1))
    monkeypatch.undo()
    with memstore.open(tmp_path) as store:
        memory = store.memory("m")
        assert state(memory).fresh == 120
        check(memory)
        memory.append(keys(1))
        settle(memory)
        assert state(memory).fresh == 0


def test_dropping_a_memory_ends_its_threads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = make(store, 300)
    gate = Gate(monkeypatch, clustered, "seal")
    memory.append(keys(40, 1))
    gate.wait()
    threading.Timer(0.05, gate.open).start()
    store.drop("m")
    assert threads() == []


FORGOTTEN = """
import sys, numpy as np, memstore
from memstore import IndexConfig, MemoryConfig
store = memstore.open(sys.argv[1])
memory = store.create("m", MemoryConfig(dim=32, index=IndexConfig(fresh_limit=1_000)))
for _ in range(8):
    memory.append(np.random.default_rng(0).normal(size=(10_000, 32)).astype(np.float32))
print("done", flush=True)
"""


def test_a_store_that_is_not_closed_keeps_no_process_alive(tmp_path: Path) -> None:
    code = [sys.executable, "-c", textwrap.dedent(FORGOTTEN), str(tmp_path / "store")]
    done = subprocess.run(code, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_inline_the_same_calls_make_the_same_index(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        with memstore.open(tmp_path / name) as store:
            memory = make(store, maintenance="inline")
            for seed in range(12):
                memory.append(keys(50, seed))
                change(memory, seed)
            assert threads() == []
            check(memory)
            assert isinstance(memory, EmbeddedMemory)
            version = memory.shards[0].index.version
            assert version.codebook is not None
            made.append(
                (
                    version.number,
                    version.fresh_F.tolist(),
                    version.codebook.centroids_CE.tolist(),
                    [(len(s), s.stale, s.valid.tolist()) for s in version.segments],
                )
            )
    assert made[0] == made[1]


def test_few_segments_are_kept_and_no_row_is_joined_often(store: Store) -> None:
    memory = make(store, 2_000, maintenance="inline", fresh_limit=9)
    for seed in range(60):
        memory.append(keys(10, seed))
        assert isinstance(memory, EmbeddedMemory)
        segments = memory.shards[0].index.version.segments
        sizes = [len(segment) for segment in segments]
        assert len(sizes) <= due.MAX_SEGMENTS
        assert sizes[0] >= due.TIER * sum(sizes[1:])
    # About log n times: a merge at each sealing would have joined 60 · 10 · 60 / 2 rows.
    assert job(memory, "merge").rows < 60 * 10 * 60 / 2 / 3
    check(memory)


def test_clustering_rests_before_it_begins_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store, 300)
    monkeypatch.setattr(maintenance, "REST", 1e6)

    def overwrite_all() -> None:
        for at in range(0, 300, 50):
            memory.write(np.arange(at, at + 50), keys(50, at))
            eventually(lambda: state(memory).fresh <= LIMIT)

    def runs() -> int:
        return job(memory, "measure").runs + job(memory, "cluster").runs

    assert isinstance(memory, EmbeddedMemory)
    maintainer = memory.shards[0].maintainer
    overwrite_all()
    eventually(lambda: maintainer._retry_at["cluster"] > time.monotonic() + 60)
    before = runs()
    for _ in range(3):
        overwrite_all()
    assert "memstore-cluster" in threads()
    assert runs() == before
    check(memory)
    # Who asks for it waits for nothing, and nothing is left to do.
    memory.reindex()
    assert runs() == before + 1
    settle(memory)
    check(memory)


def test_copies_of_fresh_rows_are_among_the_bytes_of_the_index(store: Store) -> None:
    memory = make(store)
    row_bytes = WIDTH * (2 if halves(np.dtype(np.float32)) else 4)
    memory.append(keys(20))
    assert state(memory).index_bytes == 20 * row_bytes
    memory.write(np.arange(5), keys(5))  # what they were is still there
    assert state(memory).index_bytes == 25 * row_bytes
    memory.append(keys(200))
    memory.reindex()
    settle(memory)
    sealed = state(memory).index_bytes
    memory.append(keys(7))
    assert state(memory).index_bytes == sealed + 7 * row_bytes


def test_recall_that_was_lost_clusters_the_rows_anew(store: Store) -> None:
    memory = make(store, 3_000, maintenance="inline", fresh_limit=500, clusters=32, probe=2)
    before = state(memory)
    assert before.recall is not None
    # Rows that lie elsewhere altogether, yet too few to be a turnover of all.
    memory.write(np.arange(2_000), keys(2_000, 1) + 20 * keys(1, 2))
    assert job(memory, "measure").runs == 1
    assert job(memory, "cluster").runs == 2
    after = state(memory)
    assert after.recall is not None
    assert after.recall > 0.9 * before.recall
    check(memory)
