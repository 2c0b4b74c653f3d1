"""An index on a device proposes what one on the host does.

Each test runs on a GPU where there is one, and everywhere on a stand-in.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions, Store, field
from memstore.embedded import EmbeddedMemory
from memstore.errors import DeviceError, DeviceUnavailable, InvalidArgument, OutOfDeviceMemory
from memstore.memory import Array, Memory
from tests.gpu import stand_in
from tests.gpu.stand_in import ON_GPU, PLACES, Lists

CODECS = ("flat", "fp16", "sq8")


@pytest.fixture(params=PLACES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return stand_in.choose(monkeypatch, request.param)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Lists]:
    """The copies of lists that a stand-in will be given."""
    return stand_in.put(monkeypatch).made


MADE: list[EmbeddedMemory] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Ends the threads of memories that no store closes: a job that fails is tried for ever."""
    yield
    while MADE:
        for shard in MADE.pop().shards:
            shard.maintainer.stop()


def twins(
    device: str, rows: Array, device_bytes: int | None = None, **settings: Any
) -> tuple[EmbeddedMemory, EmbeddedMemory]:
    """The same rows on a device and on the host, sealed under the same codebook."""
    made = []
    for place in ({"device": device, "device_bytes": device_bytes}, {"device": "cpu"}):
        options = {"probe": 4, "clusters": 16, "codec": "flat"} | settings
        index = IndexConfig.from_dict(options | place)
        memory = EmbeddedMemory("m", MemoryConfig(dim=rows.shape[1], index=index, shards=2))
        MADE.append(memory)
        memory.append(rows)
        if len(rows) // 2 > index.fresh_limit:
            settle(memory)
        else:
            memory.reindex()
        made.append(memory)
    return made[0], made[1]


def gaussian(seed: int, rows: int, width: int = 8) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, width), np.float32)


def check_same(one: Memory, other: Memory, queries: Array, k: int, **options: Any) -> None:
    found, expected = (m.search(queries, k, SearchOptions(**options)) for m in (one, other))
    np.testing.assert_array_equal(found.slots_QK, expected.slots_QK)
    np.testing.assert_array_equal(found.scores_QK, expected.scores_QK)


def settle(memory: Memory) -> None:
    most = memory.config.index_config.fresh_limit
    until(lambda: all(shard.fresh <= most for shard in memory.describe().shards))


def until(holds: Callable[[], bool]) -> None:
    """Waits for what another thread may do."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("codec", CODECS)
def test_a_device_proposes_what_the_host_does(device: str, codec: str) -> None:
    memory, host = twins(device, gaussian(0, 3_000), codec=codec)
    # A GPU rounds another way, so of codes that score alike it may take others: of the lists
    # visited all are asked for.
    check_same(memory, host, gaussian(1, 50), 1_200)
    check_same(memory, host, gaussian(1, 1), 1_200, probe=1)
    assert memory.describe().shards[1].device_bytes > host.describe().shards[1].device_bytes == 0


def test_with_its_own_top_1000_erased_a_query_finds_the_next(device: str) -> None:
    memory, host = twins(device, gaussian(0, 6_000))
    query = gaussian(1, 1)
    top = memory.search(query, 1_000, SearchOptions(exact=True)).slots_QK[0]
    for each in (memory, host):
        each.erase(top)
    found = memory.search(query, 10, SearchOptions(probe=16))
    expected = memory.search(query, 10, SearchOptions(exact=True))
    np.testing.assert_array_equal(found.slots_QK, expected.slots_QK)
    # And beside queries of which nothing was erased.
    check_same(memory, host, np.concatenate([query, gaussian(2, 20)]), 10)


def test_it_asks_wider_until_enough_stand(made: list[Lists]) -> None:
    memory, _ = twins("cuda:0", gaussian(0, 6_000))
    query = gaussian(1, 1)
    for copy in made:
        copy.searches.clear()  # recall was measured
    memory.search(query, 10)
    # Ten, half as many again and eight are scored again from the rows.
    assert [copy.searches for copy in made] == [[23], [23]]
    memory.erase(memory.search(query, 1_000, SearchOptions(exact=True)).slots_QK[0])
    for copy in made:
        copy.searches.clear()
    memory.search(query, 10, SearchOptions(probe=16))
    assert [copy.searches for copy in made] == [[31, 124, 496, 1_984]] * 2


def test_what_lies_behind_2048_stale_rows_the_host_finds(device: str) -> None:
    memory, host = twins(device, gaussian(0, 12_000))
    query = gaussian(1, 1)
    top = memory.search(query, 6_000, SearchOptions(exact=True)).slots_QK[0]
    for each in (memory, host):
        each.erase(top)
    check_same(memory, host, query, 10, probe=16)
    exact = memory.search(query, 10, SearchOptions(exact=True))
    found = memory.search(query, 10, SearchOptions(probe=16))
    np.testing.assert_array_equal(found.slots_QK, exact.slots_QK)


def test_a_list_may_hold_fewer_rows_than_are_asked_for(device: str) -> None:
    memory, host = twins(device, gaussian(0, 400))
    memory.erase(np.arange(0, 400, 3))
    host.erase(np.arange(0, 400, 3))
    check_same(memory, host, gaussian(1, 9), 100, probe=1)
    check_same(memory, host, gaussian(1, 9), 400, probe=16)


def test_more_results_or_lists_than_a_gpu_gives_come_from_the_host(
    made: list[Lists],
) -> None:
    rows = gaussian(0, 9_000, 4)
    memory, host = twins("cuda:0", rows, clusters=2_200)
    for copy in made:
        copy.searches.clear()
    check_same(memory, host, gaussian(1, 3, 4), 2_000, probe=4)
    check_same(memory, host, gaussian(1, 3, 4), 10, probe=2_100)
    assert not any(copy.searches for copy in made)
    check_same(memory, host, gaussian(1, 3, 4), 10, probe=2_048)
    assert all(copy.searches == [23] for copy in made)


def test_a_filtered_search_stays_on_the_host(made: list[Lists], tmp_path: Path) -> None:
    rows = gaussian(0, 9_000)
    index = IndexConfig(probe=16, clusters=16, codec="flat", device="cuda:0")
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", MemoryConfig(dim=8, records={"n": "int64"}, index=index))
        memory.append(rows, records={"n": np.arange(9_000)})
        memory.reindex()
        allowed = field("n") < 6_000
        for copy in made:
            copy.searches.clear()
        found = memory.search(gaussian(1, 5), 10, SearchOptions(filter=allowed))
        exact = memory.search(gaussian(1, 5), 10, SearchOptions(filter=allowed, exact=True))
        np.testing.assert_array_equal(found.slots_QK, exact.slots_QK)
        assert not any(copy.searches for copy in made)


def test_segments_are_copied_as_they_are_sealed_and_joined(device: str) -> None:
    memory, host = twins(device, gaussian(0, 600), fresh_limit=50)
    for seed in range(2, 12):
        for each in (memory, host):
            slots = each.append(gaussian(seed, 80))
            each.erase(slots[::7])
    settle(memory)
    assert memory.describe().shards[0].sealed > 300
    for shard in memory.shards:
        assert all(segment.copy is not None for segment in shard.index.version.segments)
    check_same(memory, host, gaussian(1, 30), 10, probe=16)


def test_a_copy_is_given_back_with_its_segment(device: str) -> None:
    memory, _ = twins(device, gaussian(0, 2_000))
    before = memory.describe().shards[0].device_bytes
    for _ in range(3):
        memory.reindex()
    gc.collect()
    assert memory.describe().shards[0].device_bytes == before
    memory.erase(np.arange(2_000))
    memory.reindex()
    gc.collect()
    assert memory.describe().shards[0].device_bytes == 0


def test_beyond_its_budget_a_shard_keeps_the_old_index_serving(device: str) -> None:
    rows = gaussian(0, 4_000)
    free, host = twins(device, rows)
    need = free.describe().shards[0].device_bytes
    bound, _ = twins(device, rows, device_bytes=int(1.5 * need))
    number = bound.shards[0].index.version.number
    with pytest.raises(OutOfDeviceMemory, match="device_bytes") as caught:
        bound.reindex()
    assert isinstance(caught.value, MemoryError)
    assert bound.shards[0].index.version.number == number
    assert bound.describe().shards[0].device_bytes == need
    check_same(bound, host, gaussian(1, 20), 10)


def test_a_mutation_takes_effect_when_what_it_seals_does_not_fit(
    device: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = gaussian(0, 4_000)
    free, _ = twins(device, rows)
    need = free.describe().shards[0].device_bytes
    bound, host = twins(device, rows, device_bytes=int(1.5 * need), fresh_limit=100)
    with caplog.at_level(logging.WARNING):
        for each in (bound, host):
            each.append(gaussian(3, 300))
        until(lambda: "does not fit on cuda:0" in caplog.text)
    assert bound.describe().shards[0].fresh >= 100
    check_same(bound, host, gaussian(1, 20), 10, exact=True)
    found = bound.search(gaussian(3, 300), 1, SearchOptions(probe=16)).slots_QK
    exact = bound.search(gaussian(3, 300), 1, SearchOptions(exact=True)).slots_QK
    np.testing.assert_array_equal(found, exact)


def test_a_full_device_is_a_typed_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(lists: Any) -> Any:
        raise RuntimeError("alloc fail type IVFLists dev 0 (cudaMalloc error out of memory [2])")

    def broken(lists: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    device = stand_in.put(monkeypatch)
    for transfer, expected in ((full, OutOfDeviceMemory), (broken, DeviceError)):
        monkeypatch.setattr(device, "transfer", transfer)
        memory = EmbeddedMemory("m", MemoryConfig(dim=4, index=IndexConfig(device="cuda:0")))
        memory.append(gaussian(0, 100, 4))
        with pytest.raises(expected) as caught:
            memory.reindex()
        assert type(caught.value) is expected
        found = memory.search(gaussian(0, 3, 4), 1)
        np.testing.assert_array_equal(
            found.slots_QK, memory.search(gaussian(0, 3, 4), 1, SearchOptions(exact=True)).slots_QK
        )


def test_a_search_that_fails_on_the_device_is_answered_by_the_host(
    made: list[Lists], caplog: pytest.LogCaptureFixture
) -> None:
    memory, host = twins("cuda:0", gaussian(0, 2_000))
    for each in (memory, host):
        each.erase(np.arange(100))
    for copy in made:
        copy.fails = True
    check_same(memory, host, gaussian(1, 20), 10)
    assert "cuda:0 could not search, the host does" in caplog.text


def test_searches_of_many_threads_reach_a_device_one_by_one(device: str) -> None:
    memory, _ = twins(device, gaussian(0, 3_000), probe=16)
    queries = gaussian(1, 64)
    expected = memory.search(queries, 10, SearchOptions(exact=True)).slots_QK
    right: list[bool] = []

    def ask() -> None:
        found = [memory.search(queries, 10).slots_QK for _ in range(20)]
        right.append(all(np.array_equal(slots, expected) for slots in found))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        memory.reindex()
    for thread in threads:
        thread.join()
    assert right == [True] * 4


def test_it_survives_a_reopening(device: str, tmp_path: Path) -> None:
    index = IndexConfig(probe=4, clusters=8, device=device)
    queries = gaussian(1, 20)
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", MemoryConfig(dim=8, index=index))
        memory.append(gaussian(0, 2_000))
        memory.reindex()
        memory.erase(np.arange(50))
        before = memory.search(queries, 10)
    with memstore.open(tmp_path / "store") as store:
        memory = store.memory("m")
        assert memory.config.index_config.device == device
        assert memory.describe().shards[0].device_bytes > 0
        np.testing.assert_array_equal(memory.search(queries, 10).slots_QK, before.slots_QK)


def test_a_store_made_beside_a_gpu_opens_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries, index = gaussian(1, 20), IndexConfig(probe=4, clusters=8, device="cuda:7")
    with pytest.MonkeyPatch.context() as patch:
        stand_in.put(patch, "cuda:7")
        with memstore.open(tmp_path / "store") as store:
            memory = store.create("m", MemoryConfig(dim=8, index=index))
            memory.append(gaussian(0, 2_000))
            memory.reindex()
            before = memory.search(queries, 10)
    with memstore.open(tmp_path / "store") as store:
        assert "the host searches instead" in caplog.text
        assert store.memory("m").describe().shards[0].device_bytes == 0
        np.testing.assert_array_equal(
            store.memory("m").search(queries, 10).slots_QK, before.slots_QK
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as opened:
        yield opened


@pytest.mark.skipif(ON_GPU, reason="there is a GPU")
def test_a_memory_is_not_made_on_a_device_that_is_not_there(store: Store) -> None:
    config = MemoryConfig(dim=2, index=IndexConfig(device="cuda:0"))
    with pytest.raises(DeviceUnavailable, match=r"cuda:0.*memstore\[gpu\]"):
        store.create("m", config)
    assert store.list() == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"device": "gpu"}, "device is unknown"),
        ({"device": "cuda"}, "device is unknown"),
        ({"device": "cuda:01"}, "device is unknown"),
        ({"device": "cuda:-1"}, "device is unknown"),
        ({"device": 0}, "device is unknown"),
        ({"device": "cuda:0", "device_bytes": 0}, "device_bytes is out of range"),
        ({"device_bytes": 1_000}, "bounds nothing"),
        ({"device": "cuda:0", "kind": "none"}, "nothing to put"),
        ({"device": "cuda:0", "codec": "pq4"}, "does not search codes of pq4"),
    ],
)
def test_a_device_that_means_nothing_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        IndexConfig(**settings)
