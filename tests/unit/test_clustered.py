"""Clustered inner product search: reductions, assignment, tuning, and what is kept on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions
from memstore.config import Codec
from memstore.embedded import EmbeddedMemory
from memstore.index import assignment, clustered, due, jobs, tuning
from memstore.index.assignment import Flat, Tree, assigner
from memstore.index.fresh import Queue
from memstore.index.k_means import k_means
from memstore.index.recall import Recall
from memstore.index.reductions import Reduction, Terms, lengths
from memstore.index.two_tier import TwoTierIndex
from memstore.memory import Array, Slots
from memstore.shard import reading
from tests.benchmarks.data import mixture

WIDTH = 16


def rows_of(seed: int, count: int = 50) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(count, WIDTH)) * rng.lognormal(0, 1, (count, 1))
    return keys.astype(np.float32), rng.normal(size=(8, WIDTH)).astype(np.float32)


@given(seed=st.integers(0, 2**20), alpha=st.sampled_from([0.0, 0.5, 1.0]), share=st.floats(0.1, 1))
def test_a_reduction_keeps_every_inner_product(seed: int, alpha: float, share: float) -> None:
    keys, queries = rows_of(seed)
    reduction = Reduction(alpha, share * float(lengths(keys).max()))
    mapped = reduction.queries(queries) @ reduction.rows(keys).T
    np.testing.assert_allclose(mapped, queries @ keys.T, rtol=1e-5, atol=1e-4)
    assert (mapped.argmax(1) == (queries @ keys.T).argmax(1)).all()


@given(seed=st.integers(0, 2**20))
def test_the_exact_reduction_makes_rows_equally_long(seed: int) -> None:
    keys, queries = rows_of(seed)
    reach = float(lengths(keys).max())
    mapped = Reduction(1.0, reach).rows(keys)
    np.testing.assert_allclose(lengths(mapped), reach, rtol=1e-5)
    nearest = ((Reduction().queries(queries)[:, None] - mapped) ** 2).sum(2).argmin(1)
    assert (nearest == (queries @ keys.T).argmax(1)).all()


def test_rows_beyond_the_reach_are_clamped_and_counted() -> None:
    keys = np.array([[3, 4], [0, 1], [0, 6]], np.float32)
    assert Reduction(1.0, 5.0).rows(keys)[:, 2].tolist() == [0, pytest.approx(24**0.5), 0]
    assert Reduction(1.0, 5.0).beyond(keys) == 1
    assert Reduction(0.0, 5.0).beyond(keys) == 0


@given(seed=st.integers(0, 2**20), terms=st.integers(1, 4))
def test_the_terms_map_keeps_the_order_and_its_own_length(seed: int, terms: int) -> None:
    keys, queries = rows_of(seed)
    reach = float(lengths(keys).max())
    mapped = Terms(terms, 0.83, reach)
    scores = mapped.queries(queries) @ mapped.rows(keys).T
    assert (scores.argmax(1) == (queries @ keys.T).argmax(1)).all()
    scaled = 0.83 * lengths(keys) / reach
    expected = terms / 4 + scaled ** (2 ** (terms + 1))
    np.testing.assert_allclose(lengths(mapped.rows(keys)) ** 2, expected, rtol=1e-4)


def terms_of(key: Array, terms: int, shrink: float, longest: float) -> Array:
    """P(x) as the paper writes it, eq. 94, one term after the other."""
    scaled = [float(x) * shrink / longest for x in key]
    length = sum(x * x for x in scaled) ** 0.5
    return np.array(scaled + [0.5 - length ** (2**i) for i in range(1, terms + 1)])


@given(seed=st.integers(0, 2**20), terms=st.integers(1, 4), shrink=st.sampled_from([0.5, 0.85]))
def test_the_terms_map_is_that_of_the_paper(seed: int, terms: int, shrink: float) -> None:
    keys, queries = rows_of(seed, 20)
    longest = float(lengths(keys).max())
    mapped = Terms(terms, shrink, longest)
    plain = [terms_of(key, terms, shrink, longest) for key in keys.astype(float)]
    np.testing.assert_allclose(mapped.rows(keys), plain, rtol=1e-4, atol=1e-6)
    for query, found in zip(queries.astype(float), mapped.queries(queries), strict=True):
        unit = query / np.linalg.norm(query)
        np.testing.assert_allclose(found, [*unit, *[0.0] * terms], rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 2**20), shrink=st.sampled_from([0.5, 0.75, 0.85]))
def test_more_terms_bring_the_cosine_to_the_order_of_the_inner_product(
    seed: int, shrink: float
) -> None:
    keys, queries = rows_of(seed, 40)
    products_QN = queries.astype(float) @ keys.T.astype(float)
    first_QNN, second_QNN = products_QN[:, :, None], products_QN[:, None, :]
    for terms in (1, 2, 4, 8):
        mapped_NE = Terms(terms, shrink, float(lengths(keys).max())).rows(keys).astype(float)
        norms_N = np.linalg.norm(mapped_NE, axis=1)
        # ‖P(x)‖² lies between m/4 and m/4 + U^(2^(m + 1)): so near to each other are the lengths,
        # and no two rows whose products differ by a larger factor change places.
        spread = (1 + 4 * shrink ** (2 ** (terms + 1)) / terms) ** 0.5
        assert norms_N.max() <= norms_N.min() * spread * (1 + 1e-5)
        cosine_QN = products_QN / norms_N
        swapped_QNN = (first_QNN > second_QNN) & (cosine_QN[:, :, None] < cosine_QN[:, None, :])
        smaller_QNN = np.minimum(np.abs(first_QNN), np.abs(second_QNN))
        larger_QNN = np.maximum(np.abs(first_QNN), np.abs(second_QNN))
        assert (larger_QNN <= smaller_QNN * spread * (1 + 1e-5))[swapped_QNN].all()
    assert spread < 1 + 1e-15


@pytest.mark.parametrize("codec", ["flat", "fp16", "sq8", "pq4"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_rows_lie_unaugmented_in_the_lists_of_their_augmented_clusters(
    codec: str, alpha: float
) -> None:
    keys, _ = rows_of(0, 400)
    config = IndexConfig.from_dict({"codec": codec, "clusters": 8})
    reduction = Reduction(alpha, float(lengths(keys).max()))
    book = clustered.train(config, keys, len(keys), 0, reduction)
    numbers = np.arange(len(keys)) * 3
    segment = clustered.seal(book, lambda rows: keys[rows // 3], numbers)
    brute = (reduction.rows(keys) @ book.centroids_CE.T).argmax(1)
    lists = segment.lists.invlists
    for at in range(8):
        held = faiss.rev_swig_ptr(lists.get_ids(at), lists.list_size(at))
        assert sorted(held.tolist()) == numbers[brute == at].tolist()
    assert segment.lists.d == WIDTH
    assert segment.lists.quantizer.d == WIDTH


def test_the_tree_assigns_nearly_as_the_flat_product() -> None:
    keys, _ = rows_of(1, 4_000)
    centroids = k_means(keys, 64, 3, 0, None)
    tree = Tree(*_tree_of(centroids), branches=4)
    flat = (keys @ centroids.T).argmax(1)
    assert (tree(keys) == flat).mean() > 0.9
    assert isinstance(assigner(centroids, 0), Flat)


def _tree_of(centroids: Array) -> tuple[Array, Array, tuple[Slots, ...]]:
    parents = k_means(centroids, 8, 5, 0, None)
    of = (centroids @ parents.T).argmax(1)
    return centroids, parents, tuple(np.flatnonzero(of == p) for p in range(8))


@pytest.mark.parametrize(("clusters", "by_tree"), [(5, False), (300, False), (300, True)])
def test_k_means_is_as_good_as_that_of_faiss(
    monkeypatch: pytest.MonkeyPatch, clusters: int, *, by_tree: bool
) -> None:
    if by_tree:
        monkeypatch.setattr(assignment, "halves", lambda _: False)
        monkeypatch.setattr(assignment, "ROUGH_CLUSTERS", 200)
    keys, _ = mixture(12_000, 1, width=WIDTH)
    assert isinstance(assigner(keys[:clusters], 0, rough=True), Tree) == by_tree
    ours = k_means(keys, clusters, 8, 0, None)
    peer = faiss.Kmeans(WIDTH, clusters, niter=8, spherical=True, max_points_per_centroid=10**6)
    peer.train(keys)
    fit, fit_peer = ((keys @ c.T).max(axis=1).sum() for c in (ours, peer.centroids))
    assert fit >= 0.995 * fit_peer
    np.testing.assert_allclose(lengths(ours), 1, rtol=1e-5)


def test_k_means_splits_for_empty_clusters_and_bears_rows_without_direction() -> None:
    keys, _ = rows_of(2, 400)
    keys[:20] = 0
    found = k_means(keys, 8, 6, 0, keys[[30] * 8])
    np.testing.assert_allclose(lengths(found), 1, rtol=1e-5)
    assert (np.bincount(Flat(found)(keys), minlength=8) > 0).all()
    assert (k_means(np.zeros((9, 4), np.float32), 3, 2, 0, None) == 0).all()


def test_recall_finds_the_probe_of_a_target() -> None:
    recall = Recall(np.array([1, 2, 4]), np.array([0.5, 0.7, 0.9]), np.zeros(3), True, 9)
    assert [recall.probe(t, 99) for t in (0.4, 0.5, 0.6, 0.7, 0.9, 0.95)] == [1, 1, 2, 2, 4, 99]
    assert recall.at(2) == 0.7


def source(keys: Array) -> jobs.Source:
    """Rows that nobody changes."""
    return jobs.Source(
        read=lambda rows: keys[rows],
        live=lambda: np.arange(len(keys)),
        count=lambda: len(keys),
        alive=lambda rows: rows < len(keys),
        writers=contextlib.nullcontext(),
    )


def _build(
    keys: Array, queries: Array | None = None, seed: int = 0, **config: float | str
) -> TwoTierIndex:
    index = TwoTierIndex(
        IndexConfig.from_dict(config), keys.shape[1], lambda rows_R: keys[rows_R], seed
    )
    if queries is not None:
        for start in range(0, len(queries), 8):
            index.recent.saw(queries[start : start + 8])
    jobs.cluster(index, source(keys))
    return index


@pytest.mark.parametrize("codec", ["sq8", "pq4"])
@pytest.mark.parametrize("target", [0.8, 0.95])
def test_a_tuned_index_reaches_its_target_on_other_queries(target: float, codec: str) -> None:
    keys, queries = mixture(20_000, 1_024, width=32)
    index = _build(keys, queries[:512], recall_target=target, codec=codec)
    book = index.version.codebook
    assert book is not None
    assert book.recall is not None
    assert book.recall.asked
    found = index.propose(index.version, queries[512:], 10, SearchOptions()).rows_QC
    true = np.argsort(-queries[512:] @ keys.T, axis=1)[:, :10]
    recall = np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)])
    # Two sets of queries differ by some standard errors of half a percent each.
    assert recall >= target - 0.03


def test_tuning_is_the_same_for_a_seed() -> None:
    keys, _ = mixture(5_000, 1, width=16)
    first, second = (_build(keys, seed=3).version.codebook for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.reduction == second.reduction
    assert first.centroids_CE.tolist() == second.centroids_CE.tolist()
    assert first.recall is not None
    assert second.recall is not None
    assert first.recall.recalls_P.tolist() == second.recall.recalls_P.tolist()


def test_the_index_is_measured_again_once_real_queries_came() -> None:
    keys, queries = mixture(5_000, 512, width=16)
    index = _build(keys)
    assert index.version.codebook is not None
    assert index.version.codebook.recall is not None
    assert not index.version.codebook.recall.asked
    for start in range(0, 512, 8):
        index.propose(index.version, queries[start : start + 8], 10, SearchOptions())
    index.wrote(np.arange(10))
    jobs.measure(index, source(keys))
    assert index.version.codebook.recall.asked


def test_longer_rows_later_are_clustered_anew() -> None:
    keys, _ = rows_of(0, 400)
    index = _build(keys, clusters=8)
    assert index.version.codebook is not None
    reach = float(lengths(keys).max())
    old = dataclasses.replace(index.version.codebook, reduction=Reduction(1.0, reach))
    index.version = dataclasses.replace(index.version, codebook=old)
    grown = np.concatenate([keys, 1_000 * keys[:40]])
    index.queue = Queue(lambda rows_R: grown[rows_R])
    index.wrote(np.arange(400, 410))
    jobs.seal(index, source(grown[:410]))
    assert not due.clustering(index, 410)
    assert index.version.codebook is old
    assert index.version.segments[1].beyond == int((lengths(grown[400:410]) > reach).sum())
    index.wrote(np.arange(410, 440))
    jobs.seal(index, source(grown))
    assert due.clustering(index, 440)
    jobs.cluster(index, source(grown))
    assert index.version.codebook is not old
    assert len(index.version.segments) == 1


@pytest.mark.parametrize("codec", ["sq8", "pq4"])
def test_a_reopened_store_searches_as_before(tmp_path: Path, codec: Codec) -> None:
    keys, queries = mixture(6_000, 300, width=16)
    with memstore.open(tmp_path) as store:
        index = IndexConfig(codec=codec, fresh_limit=4_096, maintenance="inline")
        memory = store.create("m", MemoryConfig(dim=16, index=index))
        memory.append(keys)
        memory.erase(np.arange(100))
        found = memory.search(queries, 10)
        rare = memory.search(queries, 10, SearchOptions(recall_target=0.5))
        described = memory.describe().shards
    assert described[0].recall is not None
    assert described[0].probe >= 1
    with memstore.open(tmp_path) as store:
        memory = store.memory("m")
        # The pages that a table was touched in are not those that it is read into.
        alike = [dataclasses.replace(shard, row_bytes=0) for shard in memory.describe().shards]
        assert alike == [dataclasses.replace(shard, row_bytes=0) for shard in described]
        again = memory.search(queries, 10)
        assert again.slots_QK.tolist() == found.slots_QK.tolist()
        again = memory.search(queries, 10, SearchOptions(recall_target=0.5))
        assert again.slots_QK.tolist() == rare.slots_QK.tolist()


@pytest.mark.parametrize("codec", ["sq8", "pq4"])
def test_no_erased_row_comes_back_however_many_of_the_best_are_gone(codec: str) -> None:
    keys, queries = mixture(12_000, 4, width=16)
    memory_index = _build(keys, codec=codec)
    best = np.argsort(-queries @ keys.T, axis=1)[:, :1_000]
    for top in best:
        memory_index.killed(top)
        version = memory_index.version
        found = memory_index.propose(version, queries, 10, SearchOptions(probe=100_000)).rows_QC
        assert not np.isin(found, np.concatenate([top])).any()
        assert ((found >= 0).sum(axis=1) >= 10).all()


def test_an_index_that_was_replaced_is_let_go(tmp_path: Path) -> None:
    keys, queries = rows_of(0, 3_000)
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=WIDTH, index=IndexConfig(probe=4)))
        assert isinstance(memory, EmbeddedMemory)
        memory.append(keys)
        memory.reindex()
        memory.search(queries, 3)
        old = weakref.ref(memory.shards[0].index.version.segments[0])
        memory.reindex()
        assert old() is None


def test_joined_segments_hold_every_row_once() -> None:
    keys, _ = rows_of(1, 900)
    codebook = clustered.train(IndexConfig(clusters=8), keys, 900, 0)
    parts = [clustered.seal(codebook, keys.__getitem__, np.arange(s, s + 300)) for s in (0, 300)]
    (joined,) = clustered.merge((parts[0].without(np.arange(10)), parts[1]), 1)
    lists = joined.lists.invlists
    sizes = [lists.list_size(number) for number in range(8)]
    ids = [faiss.rev_swig_ptr(lists.get_ids(n), size) for n, size in enumerate(sizes) if size]
    assert sorted(np.concatenate(ids).tolist()) == list(range(10, 600))


def test_recent_queries_replace_the_oldest() -> None:
    recent = tuning.Recent(1)
    assert recent.take().shape == (0, 1)
    for start in range(0, tuning.QUERIES + 8, 8):
        assert not recent.enough() or start >= tuning.QUERIES
        recent.saw(np.arange(start, start + 8, dtype=np.float32)[:, None])
    assert recent.enough()
    assert sorted(recent.take().ravel().tolist()) == list(range(8, tuning.QUERIES + 8))


def test_fresh_rows_too_many_to_lay_out_are_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, queries = mixture(3_000, 20, width=16)
    with memstore.open(tmp_path) as store:
        memory = store.create(
            "m", MemoryConfig(dim=16, index=IndexConfig(fresh_limit=2_000, maintenance="inline"))
        )
        memory.append(keys[:2_500])
        memory.append(keys[2_500:])
        lists = SearchOptions(probe=32)
        laid_out = memory.search(queries, 10, lists)
        monkeypatch.setattr(reading, "MOST_LAID_OUT", 64)
        blocked = memory.search(queries, 10, lists)
        assert blocked.slots_QK.tolist() == laid_out.slots_QK.tolist()
        assert blocked.scores_QK.tolist() == laid_out.scores_QK.tolist()
        assert blocked.proposal_QK.tolist() == laid_out.proposal_QK.tolist()
        assert set(np.unique(blocked.proposal_QK)) == {1, 2}
