"""Graphs: walks against a plain twin, rows that are gone, files, and when one is laid."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions, field, files
from memstore.embedded import EmbeddedMemory
from memstore.errors import InvalidArgument
from memstore.index import graph, jobs, tuning
from memstore.index.graph import Graph
from memstore.index.scanning import are_set
from memstore.index.two_tier import TwoTierIndex
from memstore.kernels.codes import BLOCK, MOST
from memstore.kernels.graph import walk
from memstore.memory import NO_SLOT, Array, Proposal, Slots
from tests.benchmarks.data import mixture
from tests.congruence.oracle import settle

WIDTH = 16
INLINE = IndexConfig(kind="graph", maintenance="inline", fresh_limit=500)


class Stopped(Exception):
    pass


def source(keys: Array) -> jobs.Source:
    """Rows that nobody changes."""
    return jobs.Source(
        read=lambda rows: keys[rows],
        live=lambda: np.arange(len(keys)),
        count=lambda: len(keys),
        alive=lambda rows: rows < len(keys),
        writers=contextlib.nullcontext(),
    )


def built(keys: Array, count: int | None = None, **config: Any) -> TwoTierIndex:
    """An index over the first `count` rows; the others may come."""
    told = IndexConfig(**{"kind": "graph", **config})
    index = TwoTierIndex(told, keys.shape[1], lambda rows: keys[rows])
    jobs.cluster(index, source(keys[:count]))
    return index


def truth(queries: Array, keys: Array, k: int = 10) -> Slots:
    return np.argsort(-queries @ keys.T, axis=1)[:, :k]


def share_found(found: Slots, true: Slots) -> float:
    return float(np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]))


def twin(scores_N: Array, links: list[list[int]], window: int, fit_N: Array) -> list[int]:
    """What a walk from place 0 finds, by lists: dead places beside the window, none forgotten."""
    view, followed = [0], set()
    while todo := [place for place in view if place not in followed]:
        followed.add(todo[0])
        view = sorted({*view, *links[todo[0]]}, key=lambda place: -scores_N[place])
        fit = [rank for rank, place in enumerate(view) if fit_N[place]]
        if len(fit) >= window:
            view = view[: fit[window - 1] + 1]
    return [place for place in view if fit_N[place]]


@given(
    seed=st.integers(0, 2**20),
    window=st.integers(1, 12),
    gone=st.sampled_from([0.0, 0.3, 1.0]),
    enough=st.sampled_from([0, 1, 99]),
)
def test_a_walk_is_its_twin(seed: int, window: int, gone: float, enough: int) -> None:
    rng = np.random.default_rng(seed)
    count, room = 40, 5
    codes_ND = rng.integers(-127, 128, (count, 2 * BLOCK)).astype(np.int8)
    scale_N = rng.uniform(0.5, 2.0, count).astype(np.float32)
    degree_N = rng.integers(1, room + 1, count).astype(np.int32)
    links_NL = rng.integers(0, count, (count, room)).astype(np.int32)
    rows_N = rng.permutation(100)[:count]
    # With this the codes of the query are the query.
    query_D = rng.integers(-9_999, 9_999, 2 * BLOCK).astype(np.float32)
    query_D[0] = MOST
    scores_N = (codes_ND.astype(np.int64) @ query_D.astype(np.int64)).astype(np.float32) * scale_N
    fit_N = rng.random(count) >= gone
    valid = np.zeros(100, bool)
    valid[rows_N[fit_N]] = True
    rows_QC, scores_QC, [scored] = walk(
        query_D[None],
        codes_ND,
        scale_N,
        links_NL,
        degree_N,
        rows_N,
        np.packbits(valid, bitorder="little"),
        np.zeros(1, np.int64),
        window,
        count,
        window,
        enough,
    )
    links = [links_NL[p, : degree_N[p]].tolist() for p in range(count)]
    blind = [place for place in twin(scores_N, links, window, fit_N | True) if fit_N[place]]
    expected = blind
    if len(blind) < enough or not enough:
        expected = twin(scores_N, links, window, fit_N)
    assert rows_QC[0][rows_QC[0] >= 0].tolist() == rows_N[expected].tolist()
    np.testing.assert_array_equal(scores_QC[0][: len(expected)], scores_N[expected])
    assert (rows_QC[0][len(expected) :] == NO_SLOT).all()
    assert len(expected) <= scored <= 2 * count


def test_a_wider_walk_finds_more() -> None:
    keys, queries = mixture(10_000, 200, width=64)
    index = built(keys)
    true = truth(queries, keys)
    found = [
        share_found(
            index.propose(index.version, queries, 10, SearchOptions(probe=window)).rows_QC, true
        )
        for window in (10, 20, 80)
    ]
    assert found[0] > 0.8
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.98


@pytest.mark.parametrize("target", [0.9, 0.98])
def test_a_measured_window_reaches_its_target(target: float) -> None:
    keys, queries = mixture(8_000, 500, width=32)
    index = built(keys, recall_target=target)
    assert index.window(index.version) is not None
    found = index.propose(index.version, queries, 10, SearchOptions()).rows_QC
    # Queries are of the mixture, those measured with are jittered rows.
    assert share_found(found, truth(queries, keys)) >= target - 0.05


def test_a_target_that_no_walk_reaches_is_reached_by_lists() -> None:
    keys, queries = mixture(5_000, 50, width=WIDTH)
    index = built(keys, codec="flat")
    options = SearchOptions(recall_target=1.0)
    laid = index.version.graph
    assert laid is not None
    assert laid.recall is not None
    low = dataclasses.replace(laid.recall, recalls_P=laid.recall.recalls_P - 0.5)
    oldest = dataclasses.replace(index.version.segments[0], graph=laid.with_recall(low))
    index.version = dataclasses.replace(index.version, segments=(oldest,))
    assert index.window(index.version, options) is None
    found = index.propose(index.version, queries, 10, options).rows_QC
    assert share_found(found, truth(queries, keys)) == 1.0


def test_a_graph_is_the_same_for_a_seed() -> None:
    keys, _ = mixture(3_000, 1, width=WIDTH)
    rows = np.arange(3_000)
    first, again, other = (graph.lay(lambda r: keys[r], rows, seed) for seed in (3, 3, 4))
    assert first.links_NL.tolist() == again.links_NL.tolist()
    assert first.links_NL.tolist() != other.links_NL.tolist()


def test_no_row_that_is_gone_comes_back_however_many_of_the_best_are() -> None:
    keys, queries = mixture(12_000, 4, width=WIDTH)
    index = built(keys)
    for query, top in zip(queries, truth(queries, keys, 1_000), strict=True):
        (index.killed if query[0] > 0 else index.wrote)(top)
        found = index.propose(index.version, queries, 10, SearchOptions(probe=20)).rows_QC
        assert not np.isin(found, top).any()
        assert ((found >= 0).sum(axis=1) >= 10).all()
        left = keys.copy()
        left[~are_set(index.version.segments[0].valid, np.arange(12_000))] = -1e3 * query
        own = index.propose(index.version, query[None], 10, SearchOptions(probe=20)).rows_QC
        assert share_found(own, truth(query[None], left)) >= 0.5


def test_where_nearly_all_are_gone_the_lists_are_asked() -> None:
    keys, queries = mixture(6_000, 8, width=WIDTH)
    index = built(keys, codec="flat")
    # More than a walk keeps in view beside its window.
    left = np.setdiff1d(np.arange(6_000), truth(queries, keys, 3_000))
    index.killed(np.setdiff1d(np.arange(6_000), left))
    found = index.propose(index.version, queries, 10, SearchOptions(recall_target=0.98)).rows_QC
    assert len(left) == 20
    best = left[np.argsort(-queries @ keys[left].T, axis=1)[:, :10]]
    assert share_found(found, best) == 1.0
    assert np.isin(found[found >= 0], left).all()


def test_rows_sealed_since_are_found_beside_the_walk() -> None:
    keys, queries = mixture(8_000, 200, width=WIDTH)
    index = built(keys, 6_000)
    for stop in (6_500, 7_000, 7_500, 8_000):
        index.wrote(np.arange(stop - 500, stop))
        jobs.seal(index, source(keys[:stop]))
    assert not len(index.version.fresh_F)
    found = index.propose(index.version, queries, 10, SearchOptions(recall_target=0.98)).rows_QC
    assert share_found(found, truth(queries, keys)) > 0.93
    # Young segments are joined among each other; the one with the graph stays.
    jobs.merge(index, source(keys))
    oldest, *young = index.version.segments
    assert len(oldest) == 6_000
    assert len(young) < 4
    assert sum(map(len, young)) == 2_000
    assert index.version.graph is not None
    again = index.propose(index.version, queries, 10, SearchOptions(recall_target=0.98)).rows_QC
    assert share_found(again, truth(queries, keys)) > 0.93


def test_walks_are_measured_again_once_real_queries_came() -> None:
    keys, queries = mixture(5_000, 512, width=WIDTH)
    index = built(keys)
    for start in range(0, 512, 8):
        index.propose(index.version, queries[start : start + 8], 10, SearchOptions())
    before = index.version.graph
    assert before is not None
    assert before.recall is not None
    assert not before.recall.asked
    jobs.measure(index, source(keys))
    after = index.version.graph
    assert after is not None
    assert after.recall is not None
    assert after.recall.asked
    assert after.links_NL is before.links_NL


def test_laying_ends_when_reading_is_refused() -> None:
    keys, _ = mixture(5_000, 1, width=WIDTH)
    read = 0

    def reading(rows: Slots) -> Array:
        nonlocal read
        read += len(rows)
        if read > 1_000:
            raise Stopped
        return keys[rows]

    with pytest.raises(Stopped):
        graph.lay(reading, np.arange(5_000), 0)
    assert read <= 1_000 + graph.BLOCK_ROWS


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_rows_of_every_dtype_are_walked(tmp_path: Path, dtype: Any) -> None:
    keys, queries = mixture(3_000, 64, width=WIDTH)
    with memstore.open(tmp_path) as store:
        config = MemoryConfig(dim=WIDTH, dtype=dtype, index=INLINE)
        memory = store.create("m", config)
        memory.append(keys)
        exact = memory.search(queries, 10, SearchOptions(exact=True))
        found = memory.search(queries, 10, SearchOptions(recall_target=0.98))
    assert share_found(found.slots_QK, exact.slots_QK) > 0.93


@pytest.mark.parametrize("keys", [np.zeros((9, 3)), np.ones((9, 3)), np.eye(3)[:1]])
def test_rows_without_a_difference_are_found(tmp_path: Path, keys: Array) -> None:
    with memstore.open(tmp_path) as store:
        index = IndexConfig(kind="graph", fresh_limit=1, maintenance="inline")
        memory = store.create("m", MemoryConfig(dim=3, index=index))
        memory.append(keys.astype(np.float32))
        memory.reindex()
        found = memory.search(np.ones((2, 3), np.float32), 20)
        assert found.counts_Q.tolist() == [len(keys)] * 2


def test_a_reopened_store_walks_as_before(tmp_path: Path) -> None:
    keys, queries = mixture(6_000, 300, width=WIDTH)
    with memstore.open(tmp_path) as store:
        config = MemoryConfig(dim=WIDTH, index=INLINE)
        memory = store.create("m", config)
        memory.append(keys[:5_000])
        memory.append(keys[5_000:])
        memory.erase(np.arange(100))
        found = memory.search(queries, 10)
        described = memory.describe().shards[0]
        assert described.walked == 5_000
        assert described.segments == 2
        assert described.recall is not None
    with memstore.open(tmp_path) as store:
        memory = store.memory("m")
        # The pages that a table was touched in are not those that it is read into.
        alike = dataclasses.replace(memory.describe().shards[0], row_bytes=described.row_bytes)
        assert alike == described
        assert memory.search(queries, 10).slots_QK.tolist() == found.slots_QK.tolist()


def test_filters_and_sampled_clusters_go_through_the_lists(tmp_path: Path) -> None:
    keys, queries = mixture(6_000, 16, width=WIDTH)
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=WIDTH, index=INLINE, records={"n": "int64"}))
        memory.append(keys, records={"n": np.arange(6_000)})
        odd = field("n") >= 2_000
        exact = memory.search(queries, 10, SearchOptions(exact=True, filter=odd))
        found = memory.search(queries, 10, SearchOptions(recall_target=0.98, filter=odd))
        assert (found.slots_QK >= 2_000).all()
        assert share_found(found.slots_QK, exact.slots_QK) > 0.9
        widened = memory.search(
            queries, 10, SearchOptions(union=True, sample_clusters=2, sample_random=50, seed=1)
        )
        marks = set(np.unique(widened.proposal_QK).tolist())
        assert {Proposal.SEALED, Proposal.SAMPLED_CLUSTER, Proposal.UNION} <= marks
        for slots in widened.slots_QK:
            stand = slots[slots != NO_SLOT]
            assert len(np.unique(stand)) == len(stand)


def test_concurrent_walks_are_as_one_alone() -> None:
    from concurrent.futures import ThreadPoolExecutor

    keys, queries = mixture(5_000, 256, width=WIDTH)
    index = built(keys)
    alone = index.propose(index.version, queries, 10, SearchOptions(probe=30)).rows_QC
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(
            lambda at: (
                index.propose(
                    index.version, queries[at : at + 64], 10, SearchOptions(probe=30)
                ).rows_QC
            ),
            [0, 64, 128, 192] * 4,
        )
    for at, part in zip([0, 64, 128, 192] * 4, parts, strict=True):
        assert part.tolist() == alone[at : at + 64].tolist()


def walked(memory: Any) -> int:
    assert isinstance(memory, EmbeddedMemory)
    return sum(shard.walked for shard in memory.describe().shards)


AUTO = IndexConfig(kind="auto", recall_target=0.99, maintenance="inline", fresh_limit=500)


def ask(memory: Any, queries: Array) -> None:
    """Asks as often as a memory wants to know what is asked."""
    for start in range(0, tuning.QUERIES, 64):
        memory.search(queries[start : start + 64], 10)


@pytest.mark.parametrize(
    ("kind", "target", "laid"),
    [("auto", 0.5, False), ("auto", 0.99, True), ("clustered", 0.99, False)],
)
def test_auto_lays_a_graph_where_walking_is_reckoned_faster(
    tmp_path: Path, kind: Any, target: float, laid: bool
) -> None:
    keys, queries = mixture(6_000, 256, width=32)
    with memstore.open(tmp_path) as store:
        config = dataclasses.replace(AUTO, kind=kind, recall_target=target)
        memory = store.create("m", MemoryConfig(dim=32, index=config))
        memory.append(keys)
        ask(memory, queries)
        memory.reindex()
        assert walked(memory) == (6_000 if laid else 0)


def test_auto_lays_none_before_it_was_asked_and_one_by_itself_after(tmp_path: Path) -> None:
    keys, queries = mixture(7_000, 512, width=32)
    seen, asked = queries[:256], queries[256:]
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=32, index=AUTO))
        memory.append(keys[:6_000])
        memory.reindex()
        assert walked(memory) == 0
        assert not memory.describe().shards[0].recall_asked
        memory.erase(np.arange(100))
        ask(memory, seen)
        assert walked(memory) == 0  # a search does no work of this kind
        memory.append(keys[6_000:])
        assert walked(memory) == 5_900
        state = memory.describe().shards[0]
        assert state.recall_asked
        assert {job.kind: job.runs for job in state.jobs}["lay"] == 1
        found = memory.search(asked, 10)
        exact = memory.search(asked, 10, SearchOptions(exact=True))
        assert share_found(found.slots_QK, exact.slots_QK) >= 0.97
        assert not np.isin(found.slots_QK, np.arange(100)).any()
    with memstore.open(tmp_path) as store:
        memory = store.memory("m")
        assert walked(memory) == 5_900
        assert memory.search(asked, 10).slots_QK.tolist() == found.slots_QK.tolist()


def test_in_the_background_no_write_need_follow_the_queries(tmp_path: Path) -> None:
    keys, queries = mixture(6_000, 256, width=32)
    with memstore.open(tmp_path) as store:
        config = dataclasses.replace(AUTO, maintenance="background")
        memory = store.create("m", MemoryConfig(dim=32, index=config))
        memory.append(keys)
        settle(memory)
        assert walked(memory) == 0
        ask(memory, queries)
        settle(memory)
        assert walked(memory) > 3_000


def test_rows_changed_while_a_graph_is_laid_are_not_walked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, queries = mixture(6_000, 256, width=32)
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=32, index=AUTO))
        assert isinstance(memory, EmbeddedMemory)
        memory.append(keys[:6_000])
        ask(memory, queries)
        real = graph.lay

        def lay(*arguments: Any) -> Graph:
            laid = real(*arguments)
            shard = memory.shards[0]
            monkeypatch.setattr(shard.maintainer, "mutated", lambda: None)
            memory.erase(np.arange(200))
            memory.write(np.arange(200, 400), -keys[200:400])
            return laid

        monkeypatch.setattr(graph, "lay", lay)
        jobs.measure(memory.shards[0].index, memory.shards[0].maintainer._source)
        assert memory.shards[0].index.version.laying
        jobs.lay(memory.shards[0].index, memory.shards[0].maintainer._source)
        assert walked(memory) == 0  # not before its recall is known
        jobs.measure(memory.shards[0].index, memory.shards[0].maintainer._source)
        assert walked(memory) == 6_000
        version = memory.shards[0].index.version
        assert version.segments[0].stale == 400
        assert version.fresh_F.tolist() == list(range(200, 400))
        exact = memory.search(queries, 10, SearchOptions(exact=True))
        found = memory.search(queries, 10)
        assert share_found(found.slots_QK, exact.slots_QK) >= 0.97


def test_a_graph_that_is_due_is_laid_after_reopening(tmp_path: Path) -> None:
    keys, queries = mixture(7_000, 256, width=32)
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=32, index=AUTO))
        assert isinstance(memory, EmbeddedMemory)
        memory.append(keys[:6_000])
        ask(memory, queries)
        jobs.measure(memory.shards[0].index, memory.shards[0].maintainer._source)
    with memstore.open(tmp_path) as store:
        memory = store.memory("m")
        memory.append(keys[6_000:6_501])
        assert walked(memory) == 0  # what is asked now is not known yet
        ask(memory, queries)
        memory.append(keys[6_501:])
        assert walked(memory) == 0  # no more are fresh than may be
        memory.append(keys[:100])
        assert walked(memory) == 6_000


def test_auto_lays_no_graph_over_rows_that_are_rewritten_much(tmp_path: Path) -> None:
    keys, queries = mixture(6_000, 256, width=32)
    with memstore.open(tmp_path) as store:
        config = dataclasses.replace(AUTO, fresh_limit=3_000)
        memory = store.create("m", MemoryConfig(dim=32, index=config))
        memory.append(keys)
        ask(memory, queries)
        memory.reindex()
        assert walked(memory) == 6_000
        memory.write(np.arange(2_400), keys[:2_400])
        memory.reindex()
        assert walked(memory) == 0
        memory.reindex()
        assert walked(memory) == 6_000


@pytest.mark.parametrize("kind", ["graph", "auto"])
def test_a_graph_is_not_put_on_a_device(kind: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"device='cuda:0'.*clustered"):
        IndexConfig(kind=kind, device="cuda:0")


def test_what_a_file_keeps_is_what_was_laid(tmp_path: Path) -> None:
    keys, _ = mixture(1_000, 1, width=WIDTH)
    laid = graph.lay(lambda rows: keys[rows], np.arange(1_000), 0)
    files.make(tmp_path / "graph.npz", laid.save)
    again = Graph.load(tmp_path / "graph.npz")
    assert again.recall is None
    for name in graph.ARRAYS:
        assert getattr(again, name).tolist() == getattr(laid, name).tolist()
