"""Choosing the best of many, against the numpy twins: tiny literal cases, then any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memstore import NO_SLOT
from memstore.index import exact
from memstore.kernels.branch import highest_columns, keep_highest
from memstore.kernels.near import Operand, peaks
from memstore.kernels.select import best_found, best_products, best_rows
from memstore.kernels.sequence import quiet
from memstore.kernels.topk import drop_repeats, top_k
from tests.congruence.oracle import best, inner_products
from tests.unit.kernel_cases import dtypes, score, seeds


@pytest.mark.parametrize(
    ("slots", "scores", "k", "best_slots", "best_scores"),
    [
        ([[4, 5, 6]], [[1, 3, 2]], 2, [[5, 6]], [[3, 2]]),
        ([[6, 5, 4]], [[1, 1, 1]], 2, [[4, 5]], [[1, 1]]),
        ([[4]], [[1]], 3, [[4, NO_SLOT, NO_SLOT]], [[1, -np.inf, -np.inf]]),
        ([[NO_SLOT, 4]], [[9, 1]], 2, [[4, NO_SLOT]], [[1, -np.inf]]),
        ([[NO_SLOT, 4]], [[9, -np.inf]], 2, [[4, NO_SLOT]], [[-np.inf, -np.inf]]),
        (np.zeros((1, 0)), np.zeros((1, 0)), 1, [[NO_SLOT]], [[-np.inf]]),
        (np.zeros((0, 2)), np.zeros((0, 2)), 1, np.zeros((0, 1)), np.zeros((0, 1))),
    ],
)
@dtypes
def test_top_k(
    dtype: Any, slots: Any, scores: Any, k: int, best_slots: Any, best_scores: Any
) -> None:
    found = top_k(np.array(slots, np.int64), np.array(scores, dtype), k)
    assert [array.tolist() for array in found] == [
        np.array(best_slots, np.int64).tolist(),
        np.array(best_scores, dtype).tolist(),
    ]
    assert [array.dtype for array in found] == [np.int64, dtype]


def test_top_k_fills_the_others_with_zero_where_there_is_no_slot() -> None:
    slots, scores = np.array([[NO_SLOT, 4]]), np.zeros((1, 2))
    *_, other = top_k(slots, scores, 3, np.array([[7, 8]], np.uint8))
    assert other.tolist() == [[8, 0, 0]]


@given(seed=seeds, k=st.integers(1, 12))
def test_top_k_is_its_twin(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    slots = np.array([rng.permutation(30)[:8] for _ in range(4)])
    scores = rng.integers(0, 3, (4, 8)).astype(np.float32)
    slots_QK, scores_QK, doubled_QK = top_k(slots, scores, k, 2 * slots)
    for q in range(4):
        assert (slots_QK[q].tolist(), scores_QK[q].tolist()) == best(slots[q], scores[q], k)
        assert doubled_QK[q].tolist() == [2 * s if s != NO_SLOT else 0 for s in slots_QK[q]]


@pytest.mark.parametrize(
    ("slots", "tiers", "kept_slots", "kept_tiers"),
    [
        ([[7, 3, 7]], [[1, 2, 3]], [[3, 7, NO_SLOT]], [[2, 1, 3]]),
        ([[NO_SLOT, 3, NO_SLOT]], [[1, 2, 3]], [[NO_SLOT, NO_SLOT, 3]], [[1, 3, 2]]),
        ([[1, 1, 1]], [[1, 2, 3]], [[1, NO_SLOT, NO_SLOT]], [[1, 2, 3]]),
        (np.zeros((1, 0)), np.zeros((1, 0)), np.zeros((1, 0)), np.zeros((1, 0))),
    ],
)
def test_drop_repeats(slots: Any, tiers: Any, kept_slots: Any, kept_tiers: Any) -> None:
    found_slots, found_tiers = drop_repeats(np.array(slots, np.int64), np.array(tiers))
    assert found_slots.tolist() == np.array(kept_slots).tolist()
    assert found_tiers.tolist() == np.array(kept_tiers).tolist()


@dtypes
@pytest.mark.parametrize("count", [60, 700])
@given(seed=seeds, k=st.integers(1, 9), scale=st.sampled_from([1.0, 1e4, 1e-4, 1e-30]))
def test_exact_proposals_hold_the_best(
    dtype: Any, count: int, seed: int, k: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(2, 19)).astype(dtype)
    if scale == 1e-4:
        queries *= dtype(1e-28)  # the squares of its elements vanish
    keys = np.round(rng.normal(size=(count, 19)), 1).astype(dtype) * dtype(scale)
    rows = np.flatnonzero(rng.random(count) < 0.7)
    for live in (None, rows):
        proposed_QC = exact.propose(queries, keys, live, k)
        among = np.arange(count) if live is None else live
        scores_QN = inner_products(queries, keys[among])
        for q, proposed in enumerate(proposed_QC.tolist()):
            assert set(proposed) <= {NO_SLOT, *among.tolist()}
            assert {*best(among, scores_QN[q], k)[0]} - {NO_SLOT} <= set(proposed)


def test_exact_proposals_cross_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "BLOCK_ROWS", 7)
    keys = np.random.default_rng(0).permutation(50)[:, None].astype(np.float64)
    [proposed] = exact.propose(np.ones((1, 1)), keys, None, 5)
    assert {float(keys[row, 0]) for row in proposed if row != NO_SLOT} >= {49, 48, 47, 46, 45}


@dtypes
@given(seed=seeds, k=st.integers(1, 12), whole=st.booleans())
def test_best_rows_is_its_twin(dtype: Any, seed: int, k: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = rng.integers(-3, 4, (43, 20)) if whole else rng.normal(size=(43, 20))
    queries, keys = draw[:3].astype(dtype), draw[3:].astype(dtype)
    alive = rng.random(40) < 0.8
    sealed = rng.integers(-1, 25, (3, 18))
    fresh = np.flatnonzero(rng.random(15) < 0.7) + 25
    tier_fresh = Operand(keys[fresh])
    products, slack = tier_fresh.products(queries), tier_fresh.slack(queries)

    rows = np.concatenate([sealed, np.tile(fresh, (3, 1))], axis=1)
    tier = np.where(np.arange(rows.shape[1]) < 18, 1, 2).astype(np.uint8)[None].repeat(3, 0)
    rows = np.where((rows >= 0) & alive[rows], rows, NO_SLOT)
    rows, tier = drop_repeats(rows, tier)
    twin = top_k(rows, score(queries, keys, rows), k, tier)
    groups, marks = peaks(products), quiet(40)
    found = best_rows(queries, keys, marks, alive, sealed, fresh, products, groups, slack, k)
    assert [part.tolist() for part in found] == [part.tolist() for part in twin]


@dtypes
@given(seed=seeds, count=st.integers(1, 9))
def test_best_products_is_its_twin(dtype: Any, seed: int, count: int) -> None:
    products = np.random.default_rng(seed).integers(0, 5, (70, 4)).astype(dtype)
    rows, best_scores = best_products(products, peaks(products), count)
    twin = np.argsort(-products.T, axis=1, kind="stable")[:, :count]
    assert np.sort(rows, axis=1).tolist() == np.sort(twin, axis=1).tolist()
    assert best_scores.tolist() == np.take_along_axis(products.T, rows, 1).tolist()


@given(seed=seeds, count=st.integers(1, 14))
def test_best_found_is_its_twin(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.array([rng.choice(40, 12, replace=False) for _ in range(3)])
    rows[rng.random((3, 12)) < 0.3] = NO_SLOT
    scores = rng.integers(0, 4, (3, 12)).astype(np.float32)
    best_rows, best_scores = top_k(rows, scores, count)
    found_rows, found_scores = best_found(rows, scores, count)
    assert np.sort(found_rows).tolist() == np.sort(best_rows).tolist()
    assert np.sort(found_scores).tolist() == np.sort(best_scores).tolist()


@given(seed=seeds, count=st.integers(1, 6))
@dtypes
def test_highest_columns_is_its_twin(dtype: Any, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (rng.integers(0, 9), rng.integers(count, 20))).astype(dtype)
    twin = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(highest_columns(scores, count), twin)


@given(seed=seeds)
@dtypes
def test_keep_highest_is_its_twin(dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(12)[: rng.integers(0, 12)], rng.integers(1, 9)
    scores = rng.integers(-3, 4, (len(rows), columns)).astype(dtype)
    names = rng.permutation(99)[:columns]
    highest = rng.integers(-3, 4, 12).astype(dtype)
    highest[rng.random(12) < 0.3] = -np.inf
    named = np.full(12, -1)
    expected = highest.copy(), named.copy()
    keep_highest(scores, rows, names, highest, named)
    for row, of_row in zip(rows, scores, strict=True):
        if of_row.max() > expected[0][row]:
            expected[0][row], expected[1][row] = of_row.max(), names[of_row.argmax()]
    np.testing.assert_array_equal(highest, expected[0])
    np.testing.assert_array_equal(named, expected[1])
