"""Exact search of rows on a device answers as the host does, to the bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import memstore
from memstore import EncodingConfig, IndexConfig, MemoryConfig, SearchOptions, Store, field
from memstore.config import IndexKind
from memstore.dtypes import counting, storage
from memstore.embedded import EmbeddedMemory
from memstore.errors import DeviceError, DeviceUnavailable, OutOfDeviceMemory
from memstore.index import mirror
from memstore.kernels.whole import copies
from memstore.memory import Array
from memstore.shard import optimizers, row_view
from tests.gpu import stand_in
from tests.gpu.stand_in import ON_GPU, PLACES, StandIn

DTYPES = ["float32", "float64", "float16", "bfloat16"]


@pytest.fixture(params=PLACES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return stand_in.choose(monkeypatch, request.param)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return stand_in.put(monkeypatch)


def gaussian(seed: int, rows: int, width: int = 24) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, width), np.float32)


def twins(
    rows: Array, *, device_bytes: int | None = None, **settings: Any
) -> tuple[EmbeddedMemory, EmbeddedMemory]:
    """The same rows on the device and on the host."""
    made = []
    for place in ({"device": "cuda:0", "device_bytes": device_bytes}, {}):
        index = IndexConfig.from_dict({"kind": "exact"} | place)
        memory = EmbeddedMemory("m", MemoryConfig(dim=rows.shape[1], index=index, **settings))
        memory.append(rows.astype(storage(memory.config.dtype)))
        made.append(memory)
    return made[0], made[1]


def check_same(one: Any, other: Any, queries: Array, k: int = 10, **options: Any) -> None:
    queries = queries.astype(counting(storage(one.config.dtype)))
    found, expected = (m.search(queries, k, SearchOptions(**options)) for m in (one, other))
    np.testing.assert_array_equal(found.slots_QK, expected.slots_QK)
    np.testing.assert_array_equal(found.scores_QK, expected.scores_QK)
    np.testing.assert_array_equal(found.proposal_QK, expected.proposal_QK)
    np.testing.assert_array_equal(found.scored_Q, expected.scored_Q)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_answers_as_the_host_does(device: str, dtype: str) -> None:
    memory, host = twins(gaussian(0, 5_000), dtype=dtype, shards=2)
    check_same(memory, host, gaussian(1, 70))
    check_same(memory, host, gaussian(1, 1), 1)
    check_same(memory, host, gaussian(1, 3), 1_000)
    assert memory.describe().shards[0].device_bytes > host.describe().shards[0].device_bytes == 0


def test_the_device_is_asked_and_in_blocks(there: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, host = twins(gaussian(0, 5_000))
    monkeypatch.setattr(mirror, "PRODUCTS", 40_000)
    monkeypatch.setattr(mirror, "BLOCK_QUERIES", 40)
    check_same(memory, host, gaussian(1, 80))
    # A thousand rows a block of 40 queries, and what they give beside what was best before.
    assert there.widths == [32] * (2 * 5 * 2)


def test_rows_nearer_than_rounding_are_told_apart(device: str) -> None:
    rng = np.random.default_rng(0)
    rows = np.tile(1e3 * rng.standard_normal((1, 64)), (400, 1)).astype(np.float32)
    rows += rng.standard_normal(rows.shape).astype(np.float32) * 2e-4
    queries = rng.standard_normal((50, 64)).astype(np.float32)
    queries -= (queries @ rows[:1].T) * rows[:1] / (rows[0] @ rows[0])
    memory, host = twins(rows)
    check_same(memory, host, queries)


@pytest.mark.parametrize("precision", ["high", "medium", "newer switch"])
def test_coarse_products_lose_nothing(device: str, precision: str) -> None:
    memory, host = twins(gaussian(0, 20_000, 64))
    switch = torch.backends.cuda.matmul
    try:
        if precision == "newer switch":
            switch.fp32_precision = "tf32"
        else:
            torch.set_float32_matmul_precision(precision)
        check_same(memory, host, gaussian(1, 64, 64))
    finally:
        switch.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


def test_equal_scores_go_to_the_smaller_slot(device: str) -> None:
    rows = np.tile(gaussian(0, 3), (1_500, 1))
    memory, host = twins(rows)
    for k in (1, 10, 2_000):
        check_same(memory, host, gaussian(1, 20), k)
    check_same(memory, host, np.zeros((2, 24), np.float32))
    check_same(memory, host, np.concatenate([gaussian(1, 2), np.zeros((2, 24), np.float32)]))


def test_it_looks_wider_before_it_asks_the_host(there: StandIn) -> None:
    # The best hundred of one query score alike.
    rows = gaussian(0, 3_000)
    rows[::30] = 9.0
    memory, host = twins(rows)
    check_same(memory, host, np.ones((2, 24), np.float32))
    assert there.widths == [32, 32, 128, 128]


def test_more_than_2048_results_come_from_the_host(there: StandIn) -> None:
    memory, host = twins(gaussian(0, 3_000))
    check_same(memory, host, gaussian(1, 5), 2_049)
    assert not there.widths
    check_same(memory, host, gaussian(1, 5), 2_048)
    assert there.widths


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_caller_reads_its_own_writes(device: str, dtype: str) -> None:
    rows = gaussian(0, 3_000)
    memory, host = twins(rows, dtype=dtype, shards=2)
    queries, numbers = gaussian(1, 20), counting(storage(dtype))
    check_same(memory, host, queries)
    some = np.arange(0, 3_000, 7)
    changes: list[Any] = [
        lambda m: m.write(some, 2 * rows[some].astype(storage(dtype))),
        lambda m: m.update(some, gaussian(2, len(some)).astype(numbers), lr=0.5),
        lambda m: m.append(3 * gaussian(3, 50).astype(storage(dtype))),
        lambda m: m.erase(m.search(queries.astype(numbers), 30).slots_QK[0]),
        lambda m: m.blend(some[-9:], np.ones(9), np.zeros((9, 24)), gaussian(4, 9).astype(numbers)),
        lambda m: m.allocate(5),
        lambda m: m.append(2 * gaussian(5, 4_000).astype(storage(dtype))),
    ]
    for change in changes:
        for each in (memory, host):
            change(each)
        check_same(memory, host, queries)


def test_only_what_changed_is_copied_again(there: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, host = twins(gaussian(0, 3_000))
    copied: list[int] = []

    def counted(table_ND: Array, marks: Any, rows_B: Array) -> Array:
        copied.append(len(rows_B))
        return copies(table_ND, marks, rows_B)

    monkeypatch.setattr(row_view, "copies", counted)
    for _ in range(2):
        check_same(memory, host, gaussian(1, 5))
    for each in (memory, host):
        each.update(np.array([5, 7, 7]), gaussian(2, 3))
        each.append(gaussian(3, 4))
    check_same(memory, host, gaussian(1, 5))
    assert copied == [3_000, 2, 4]


def test_filters_that_many_rows_pass_are_searched_there(there: StandIn, tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        made = []
        for name, device in (("m", "cuda:0"), ("host", "cpu")):
            index = IndexConfig(kind="exact", device=device)
            made.append(
                store.create(name, MemoryConfig(dim=24, records={"n": "int64"}, index=index))
            )
            made[-1].append(gaussian(0, 3_001), records={"n": np.arange(3_001)})
            made[-1].erase(np.arange(0, 3_001, 5))
        check_same(made[0], made[1], gaussian(1, 30), filter=field("n") < 100)
        assert not there.widths
        check_same(made[0], made[1], gaussian(1, 30), filter=field("n") < 2_000)
        assert there.widths


def test_beyond_its_budget_the_host_searches(device: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = gaussian(0, 4_000)
    free, host = twins(rows)
    free.search(rows[:2], 1)
    need = free.describe().shards[0].device_bytes
    fits, _ = twins(rows, device_bytes=need)
    check_same(fits, host, gaussian(1, 20))
    assert not caplog.text
    for each in (fits, host):
        each.append(gaussian(2, 10))
    check_same(fits, host, gaussian(1, 20))
    assert "device_bytes" in caplog.text
    assert fits.describe().shards[0].device_bytes == 0
    caplog.clear()
    check_same(fits, host, gaussian(1, 20))
    assert not caplog.text  # it was said once
    with pytest.raises(OutOfDeviceMemory, match="device_bytes"):
        fits.reindex()
    check_same(fits, host, gaussian(1, 20))


def test_a_refresh_needs_no_room(device: str, tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        parts = store.create("parts", MemoryConfig(dim=8, index="none"))
        parts.append(gaussian(0, 40, 8))
        facts = store.create(
            "facts",
            MemoryConfig(
                dim=8,
                index=IndexConfig(kind="exact", device=device, device_bytes=1),
                records={"subject": "int64"},
                encoding=EncodingConfig(key={"subject": "parts"}),
            ),
        )
        facts.append(records={"subject": np.arange(40)})
        parts.write(np.arange(40), gaussian(1, 40, 8))
        assert facts.refresh().encoded == 40
        assert facts.search(gaussian(1, 40, 8), 1).counts_Q.tolist() == [1] * 40


def test_a_full_device_leaves_the_host_searching(there: StandIn) -> None:
    there.most = 100_000
    memory, host = twins(gaussian(0, 4_000))
    check_same(memory, host, gaussian(1, 20))
    with pytest.raises(OutOfDeviceMemory, match="out of memory") as caught:
        memory.reindex()
    assert isinstance(caught.value, DeviceError)
    assert there.bytes == 0
    check_same(memory, host, gaussian(1, 20))
    assert not there.widths
    there.most = 10**9
    memory.reindex()
    check_same(memory, host, gaussian(1, 20))
    assert there.widths


def test_a_search_that_fails_there_is_answered_by_the_host(
    there: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    memory, host = twins(gaussian(0, 4_000))
    there.fails = True
    check_same(memory, host, gaussian(1, 20))
    assert "cuda:0 has no answer, the host searches" in caplog.text
    there.fails = False
    check_same(memory, host, gaussian(1, 20))
    assert there.widths


def test_sealed_rows_go_before_keys(there: StandIn) -> None:
    rows = gaussian(0, 4_000)
    index = IndexConfig(clusters=8, probe=8, codec="flat", device="cuda:0", fresh_limit=100_000)
    memory = EmbeddedMemory("m", MemoryConfig(dim=24, index=index))
    memory.append(rows)
    exactly = SearchOptions(exact=True)
    expected = memory.search(rows[:9], 10, exactly)
    keys = there.bytes
    assert there.widths
    assert keys >= rows.nbytes
    # There is room for the lists or for the keys.
    there.most = 450_000
    memory.reindex()
    assert len(there.made) == 1
    assert there.bytes == 4_000 * (4 * 24 + 8)
    there.most = 10**9
    there.widths.clear()
    found = memory.search(rows[:9], 10, exactly)
    np.testing.assert_array_equal(found.slots_QK, expected.slots_QK)
    assert there.widths


@pytest.mark.parametrize("kind", ["exact", "clustered"])
def test_keys_that_moved_are_found_where_the_step_of_the_values_failed(
    there: StandIn, monkeypatch: pytest.MonkeyPatch, kind: IndexKind
) -> None:
    index = IndexConfig(kind=kind, device="cuda:0")
    config = MemoryConfig(dim=24, value_dim=3, index=index, optimizer="sgd")
    memory = EmbeddedMemory("m", config)
    memory.append(gaussian(0, 500), gaussian(1, 500, 3))
    query = gaussian(2, 2)[:1]
    assert memory.search(query, 1).slots_QK.tolist() != [[7]]
    real = optimizers.step

    def failing(config: Any, table_ND: Array, *arguments: Any) -> Any:
        if table_ND.shape[1] == 3:
            raise MemoryError
        return real(config, table_ND, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(optimizers, "step", failing)
        with pytest.raises(MemoryError):
            memory.update([7], -100 * query, np.ones((1, 3), np.float32), lr=1.0)
    assert memory.search(query, 1).slots_QK.tolist() == [[7]]


def test_readers_and_a_writer_at_once(device: str) -> None:
    rows = gaussian(0, 4_000)
    memory, host = twins(rows, shards=2)
    ended = threading.Event()
    right: list[bool] = []

    def ask() -> None:
        every = True
        while not ended.is_set():
            found = memory.search(rows[:8], 5)
            every &= bool((found.counts_Q == 5).all()) and bool((found.slots_QK >= 0).all())
            every &= bool((np.diff(found.scores_QK, axis=1) <= 0).all())
        right.append(every)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(5)
    for step in range(40):
        slots = rng.choice(4_000, 100, replace=False)
        for each in (memory, host):
            each.update(slots, gaussian(step, 100), lr=0.1)
            each.append(gaussian(1_000 + step, 60))
        check_same(memory, host, gaussian(2_000 + step, 6))
    ended.set()
    for thread in threads:
        thread.join()
    assert right == [True] * 3


def test_it_survives_a_reopening(device: str, tmp_path: Path) -> None:
    index, queries = IndexConfig(kind="exact", device=device), gaussian(1, 20)
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", MemoryConfig(dim=24, index=index))
        memory.append(gaussian(0, 2_000))
        memory.erase(np.arange(50))
        before = memory.search(queries, 10)
    with memstore.open(tmp_path / "store") as store:
        found = store.memory("m").search(queries, 10)
        assert store.memory("m").describe().shards[0].device_bytes > 0
    np.testing.assert_array_equal(found.slots_QK, before.slots_QK)
    np.testing.assert_array_equal(found.scores_QK, before.scores_QK)


def test_an_empty_memory_finds_nothing(device: str) -> None:
    memory, host = twins(gaussian(0, 0))
    check_same(memory, host, gaussian(1, 3))
    for each in (memory, host):
        each.append(gaussian(0, 3))
        each.erase(np.array([1]))
    check_same(memory, host, gaussian(1, 3))


def test_rows_that_came_after_a_search_began_are_left_out(device: str) -> None:
    memory, _ = twins(np.ones((100, 24), np.float32))
    memory.append(np.full((50, 24), 2, np.float32))
    shard = memory.shards[0]
    assert shard.index.mirror is not None
    found_QC, owed_Q = shard.index.mirror.propose(
        np.ones((2, 24), np.float32), 10, 100, lambda: shard.rows.view, None
    )
    assert not len(owed_Q)
    assert found_QC.max() < 100 <= (found_QC >= 0).sum(axis=1).min()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as opened:
        yield opened


@pytest.mark.skipif(ON_GPU, reason="there is a GPU")
def test_rows_are_not_put_on_a_device_that_is_not_there(store: Store) -> None:
    config = MemoryConfig(dim=2, index=IndexConfig(kind="exact", device="cuda:0"))
    with pytest.raises(DeviceUnavailable, match=r"there is no cuda:0.*torch"):
        store.create("m", config)
    assert store.list() == []
