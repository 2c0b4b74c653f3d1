"""Metrics: what a scrape says is what the memories did and are, store by store."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

import memstore
from memstore import EncodingConfig, IndexConfig, MemoryConfig, SearchOptions, Store, field
from memstore.errors import InvalidArgument, UnknownSlot
from memstore.memory import Memory, ShardDescription
from memstore.meter import BOUNDS_S, VERBS, Meter
from memstore.metrics import StoreCollector, registry
from memstore.placement import Part
from memstore.recall import RecallWatch, measure_recall

CLUSTERED = MemoryConfig(
    dim=8, shards=2, records={"kind": "int64"}, index=IndexConfig(clusters=64, fresh_limit=100)
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as opened:
        yield opened


def filled(store: Store, name: str = "words", rows: int = 4_000) -> Memory:
    memory = store.create(name, CLUSTERED)
    keys = np.random.default_rng(0).standard_normal((rows, 8), np.float32)
    memory.append(keys, records={"kind": np.arange(rows) % 2})
    memory.reindex()
    return memory


def scrape(store: Store) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by name and label values, `memory` first, as a scraper would parse the text."""
    text = prometheus_client.generate_latest(registry(store)).decode()
    return {
        (sample.name, (sample.labels.pop("memory"), *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_says_what_describe_says(store: Store) -> None:
    memory = filled(store)
    memory.erase(np.arange(10))
    found, described = scrape(store), memory.describe()
    assert found["memstore_next_slot", ("words",)] == 4_000
    for shard, description in enumerate(described.shards):
        for part in dataclasses.fields(ShardDescription):
            value = getattr(description, part.name)
            if isinstance(value, int | float):
                assert found[f"memstore_shard_{part.name}", ("words", str(shard))] == value
    assert found["memstore_shard_erased", ("words", "0")] == 5
    assert found["memstore_shard_sealed", ("words", "1")] >= 1_900
    assert found["memstore_shard_recall", ("words", "1")] > 0.5


def test_what_is_not_known_is_not_exported(store: Store) -> None:
    store.create("rows", MemoryConfig(dim=2, index="none"))
    names = {name for name, _ in scrape(store)}
    assert "memstore_shard_rows" in names
    assert not names & {"memstore_shard_recall", "memstore_drift", "memstore_recall"}


def test_the_drift_of_an_encoded_memory_is_exported(store: Store) -> None:
    parts = store.create("parts", MemoryConfig(dim=4, index="none"))
    slots = parts.append(np.eye(4, dtype=np.float32))
    facts = store.create(
        "facts",
        MemoryConfig(
            dim=4,
            records={"part": "int64"},
            encoding=EncodingConfig(key={"part": "parts"}),
        ),
    )
    facts.append(records={"part": slots})
    assert scrape(store)["memstore_drift", ("facts",)] == 0
    parts.update(slots[:1], np.ones((1, 4), np.float32))
    drift = scrape(store)["memstore_drift", ("facts",)]
    assert drift == facts.describe().drift
    assert drift > 0
    facts.refresh()
    found = scrape(store)
    assert found["memstore_drift", ("facts",)] == 0
    # The encoded memory's verbs count once, under its name.
    assert found["memstore_call_seconds_count", ("facts", "append")] == 1
    assert found["memstore_call_seconds_count", ("facts", "refresh")] == 1
    assert ("memstore_call_seconds_count", ("facts", "reindex")) not in found


def test_calls_are_counted_by_verb_and_errors_by_class(store: Store) -> None:
    memory = filled(store)
    for _ in range(3):
        memory.search(np.ones((2, 8), np.float32), 5)
    for missing in (5_000, 6_000):
        with pytest.raises(UnknownSlot):
            memory.gather([missing])
    with pytest.raises(InvalidArgument):
        memory.search(np.ones((2, 8), np.float32), 0)
    found = scrape(store)
    assert found["memstore_call_seconds_count", ("words", "append")] == 1
    assert found["memstore_call_seconds_count", ("words", "search")] == 4
    assert found["memstore_call_seconds_sum", ("words", "search")] > 0
    assert found["memstore_errors_total", ("words", "UnknownSlot", "gather")] == 2
    assert found["memstore_errors_total", ("words", "InvalidArgument", "search")] == 1
    # A scrape asks for descriptions, and does not count its own asking.
    assert ("memstore_call_seconds_count", ("words", "describe")) not in scrape(store)


def test_a_call_of_a_part_of_an_encoded_memory_counts_once(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "part", part=Part(0, 2)) as store:
        store.create("parts", MemoryConfig(dim=4, shards=2, index="none"), made=1)
        encoding = EncodingConfig(key={"part": "parts"})
        config = MemoryConfig(dim=4, shards=2, records={"part": "int64"}, encoding=encoding)
        store.create("facts", config, made=2).search(np.ones((1, 4), np.float32), 3)
        assert scrape(store)["memstore_call_seconds_count", ("facts", "search")] == 1


def test_every_verb_of_the_protocol_is_counted() -> None:
    verbs = {name for name, what in vars(Memory).items() if callable(what) and name[0] != "_"}
    assert set(VERBS) == verbs


def test_a_latency_falls_into_the_bucket_that_bounds_it() -> None:
    meter = Meter()
    for seconds in (0.0, BOUNDS_S[0], 1.01 * BOUNDS_S[0], BOUNDS_S[-1], 1.01 * BOUNDS_S[-1]):
        meter.note("search", seconds)
    counts = meter.calls()["search"].counts
    assert counts == [2, 1, *[0] * (len(BOUNDS_S) - 3), 1, 1]
    assert meter.calls()["search"].seconds == pytest.approx(2.01 * (BOUNDS_S[0] + BOUNDS_S[-1]))


def test_no_call_is_lost_among_threads() -> None:
    meter = Meter()

    def call() -> None:
        for _ in range(5_000):
            meter.note("search", 1e-3)
            meter.failed("search", UnknownSlot(""))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(meter.calls()["search"].counts) == 20_000
    assert meter.errors() == {("search", "UnknownSlot"): 20_000}


def test_stores_of_one_process_do_not_meet(store: Store, tmp_path: Path) -> None:
    before = {metric.name for metric in prometheus_client.REGISTRY.collect()}
    with memstore.open(tmp_path / "other") as other:
        store.create("words", MemoryConfig(dim=2)).append(np.ones((1, 2), np.float32))
        other.create("words", MemoryConfig(dim=2)).append(np.ones((3, 2), np.float32))
        assert scrape(store)["memstore_shard_rows", ("words", "0")] == 1
        assert scrape(other)["memstore_shard_rows", ("words", "0")] == 3
        # Both can also be laid into one registry of the caller's, which tells them apart itself.
        both = prometheus_client.CollectorRegistry()
        for each in (store, other):
            both.register(StoreCollector(each))
    assert {metric.name for metric in prometheus_client.REGISTRY.collect()} == before


def test_a_closed_store_and_a_dropped_memory_are_scraped_as_nothing(tmp_path: Path) -> None:
    store = memstore.open(tmp_path / "store")
    store.create("words", MemoryConfig(dim=2))
    scraped = registry(store)
    assert list(scraped.collect())
    store.drop("words")
    assert not list(scraped.collect())
    store.close()
    assert not list(scraped.collect())


def test_it_is_served_over_http(store: Store) -> None:
    filled(store, rows=10)
    server, thread = prometheus_client.start_http_server(
        0, addr="127.0.0.1", registry=registry(store)
    )
    with urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as reply:
        text = reply.read().decode()
    server.shutdown()
    server.server_close()
    thread.join()
    assert 'memstore_shard_rows{memory="words",shard="1"} 5.0' in text


def test_importing_memstore_imports_no_metrics() -> None:
    code = "import memstore, sys; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_the_extra_the_error_names_it() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; import memstore.metrics"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "pip install 'neural-memstore[metrics]'" in done.stderr


def test_recall_counts_the_scores_that_reach_the_true_kth(store: Store) -> None:
    memory = filled(store)
    queries = np.random.default_rng(1).standard_normal((50, 8), np.float32)
    exact = memory.search(queries, 10, SearchOptions(exact=True)).scores_QK
    found = memory.search(queries, 10, SearchOptions(probe=1)).scores_QK
    recalls = [np.mean(row >= floor) for row, floor in zip(found, exact[:, -1], strict=True)]
    measured = measure_recall(memory, queries, options=SearchOptions(probe=1))
    assert 0.1 < measured.recall < 0.95
    assert measured.recall == pytest.approx(np.mean(recalls))
    assert measured.error == pytest.approx(np.std(recalls) / 50**0.5)
    assert (measured.queries, measured.k) == (50, 10)
    assert scrape(store)["memstore_recall", ("words", "10")] == measured.recall
    every_list = measure_recall(memory, queries, k=3, options=SearchOptions(probe=64))
    assert every_list.recall > measured.recall
    assert scrape(store)["memstore_recall", ("words", "3")] == every_list.recall


def test_equal_scores_are_as_good_as_each_other(store: Store) -> None:
    memory = store.create("same", MemoryConfig(dim=2, index=IndexConfig(probe=1, clusters=2)))
    memory.append(np.tile(np.array([1, 0], np.float32), (300, 1)))
    memory.reindex()
    assert measure_recall(memory, np.array([[1, 0]], np.float32), k=5).recall == 1


@pytest.mark.parametrize("kind", [0, 7])
def test_recall_of_a_filtered_search_is_against_the_rows_that_pass(store: Store, kind: int) -> None:
    memory = filled(store)
    passing = SearchOptions(filter=field("kind") == kind, probe=64)
    queries = np.random.default_rng(1).standard_normal((5, 8), np.float32)
    if kind == 0:
        assert measure_recall(memory, queries, options=passing).recall > 0.9
    else:
        with pytest.raises(InvalidArgument, match="nothing to measure recall by"):
            measure_recall(memory, queries, options=passing)


def test_fewer_rows_than_k_are_all_to_be_found(store: Store) -> None:
    memory = filled(store, rows=6)
    measured = measure_recall(memory, np.ones((2, 8), np.float32), k=10)
    assert (measured.recall, measured.error) == (1, 0)


def test_recall_is_measured_on_recent_queries_and_not_counted_as_a_call(store: Store) -> None:
    memory = filled(store)
    with pytest.raises(InvalidArgument, match="give queries"):
        measure_recall(memory)
    for query in np.random.default_rng(1).standard_normal((20, 1, 8), np.float32):
        memory.search(query, 10)
    measured = measure_recall(memory)
    assert measured.queries == 20
    assert 0.5 < measured.recall <= 1
    assert scrape(store)["memstore_call_seconds_count", ("words", "search")] == 20


def test_a_watch_measures_again_and_again_until_it_is_stopped(store: Store) -> None:
    memory = filled(store)
    memory.search(np.random.default_rng(1).standard_normal((64, 8), np.float32), 10)
    dropped = filled(store, "dropped", rows=200)
    dropped.search(np.ones((1, 8), np.float32), 1)
    seen: set[float] = set()
    deadline = time.monotonic() + 60
    with RecallWatch(store, every_s=0.01, queries=4):
        store.drop("dropped")
        while len(seen) < 3 and time.monotonic() < deadline:
            seen |= {
                value
                for (name, _), value in scrape(store).items()
                if name == "memstore_recall_timestamp_seconds"
            }
            time.sleep(0.01)
    assert len(seen) >= 3
    stopped = scrape(store)["memstore_recall_timestamp_seconds", ("words", "10")]
    time.sleep(0.1)
    assert scrape(store)["memstore_recall_timestamp_seconds", ("words", "10")] == stopped


def test_a_watch_ends_with_its_store(tmp_path: Path) -> None:
    store = memstore.open(tmp_path / "store")
    watch = RecallWatch(store, every_s=0.01)
    with watch:
        store.close()
        watch._thread.join(timeout=60)
        assert not watch._thread.is_alive()
