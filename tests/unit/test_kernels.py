"""Each kernel against its numpy twin: tiny literal cases, then any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memstore import NO_SLOT, OptimizerConfig
from memstore.index import exact
from memstore.kernels.score import score_rows
from memstore.kernels.select import best_columns, best_rows
from memstore.kernels.step import adagrad, rowwise_adagrad, sgd, sum_equal
from memstore.kernels.topk import drop_repeats, top_k
from memstore.memory import Array
from memstore.shard import optimizers
from tests.congruence.oracle import best, inner_products

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


def score(queries_QD: Array, keys_ND: Array, rows_QC: Array) -> Array:
    scores_QC = np.full(rows_QC.shape, np.nan, queries_QD.dtype)
    score_rows(queries_QD, keys_ND, rows_QC, scores_QC)
    return scores_QC


@dtypes
@pytest.mark.parametrize(
    ("queries", "keys", "rows", "scores"),
    [
        ([[2]], [[3]], [[0]], [[6]]),
        ([[1, 2]], [[3, 4], [5, 6]], [[1, 0]], [[17, 11]]),
        ([[1, 0], [0, 1]], [[3, 4], [5, 6]], [[0], [1]], [[3], [6]]),
        ([[1, 1]], [[3, 4]], [[0, 0, 0]], [[7, 7, 7]]),
        ([[1, 1]], [[3, 4]], [[NO_SLOT, 0]], [[-np.inf, 7]]),
        ([[1, 1]], np.zeros((0, 2)), [[NO_SLOT]], [[-np.inf]]),
        ([[1] * 16], [[2] * 16], [[0]], [[32]]),
        ([[1] * 17], [list(range(17))], [[0]], [[136]]),
        ([[1] * 33], [list(range(33))], [[0]], [[528]]),
        ([[1]], [[1]], np.zeros((1, 0)), np.zeros((1, 0))),
        (np.zeros((0, 3)), [[1, 2, 3]], np.zeros((0, 2)), np.zeros((0, 2))),
    ],
)
def test_score_rows(dtype: Any, queries: Any, keys: Any, rows: Any, scores: Any) -> None:
    found = score(np.array(queries, dtype), np.array(keys, dtype), np.array(rows, np.int64))
    assert found.tolist() == np.array(scores, dtype).tolist()


@dtypes
@given(seed=seeds, width=st.integers(1, 70))
def test_score_rows_is_its_twin_bit_for_bit(dtype: Any, seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    queries, keys = (rng.normal(size=(n, width)).astype(dtype) for n in (3, 7))
    rows = rng.integers(0, 7, (3, 9))
    twin = np.take_along_axis(inner_products(queries, keys), rows, 1)
    found = score(queries, keys, rows)
    assert found.tolist() == twin.tolist()
    np.testing.assert_allclose(
        inner_products(queries, keys), queries @ keys.T, rtol=1e-4, atol=1e-4
    )


@dtypes
def test_a_score_does_not_depend_on_the_batch(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    queries, keys = (rng.normal(size=(n, 67)).astype(dtype) for n in (8, 64))
    rows = np.tile(np.arange(64), (8, 1))
    together = score(queries, keys, rows)
    alone = [
        [float(score(queries[q : q + 1], keys[c : c + 1], np.zeros((1, 1), int))[0, 0])]
        for q in range(8)
        for c in range(64)
    ]
    backwards = score(queries[::-1].copy(), keys[::-1].copy(), rows)[::-1, ::-1]
    assert together.ravel().tolist() == np.ravel(alone).tolist()
    assert together.tolist() == backwards.tolist()


@dtypes
@pytest.mark.parametrize(
    ("rows", "grads", "distinct", "sums"),
    [
        ([5], [[1, 2]], [5], [[1, 2]]),
        ([5, 5], [[1, 2], [3, 4]], [5], [[4, 6]]),
        ([9, 2, 9], [[1, 2], [3, 4], [5, 6]], [2, 9], [[3, 4], [6, 8]]),
        ([], np.zeros((0, 2)), [], np.zeros((0, 2))),
    ],
)
def test_sum_equal(dtype: Any, rows: Any, grads: Any, distinct: Any, sums: Any) -> None:
    rows_U, sums_UD = sum_equal(np.array(rows, np.int64), np.array(grads, dtype))
    assert rows_U.tolist() == distinct
    assert sums_UD.tolist() == np.array(sums, dtype).tolist()
    assert sums_UD.dtype == dtype


def test_sum_equal_adds_in_the_order_of_the_call() -> None:
    grads = np.array([[1e8], [1.0], [-1e8], [1.0]], np.float32)
    assert sum_equal(np.zeros(4, np.int64), grads)[1].tolist() == [[1.0]]
    assert sum_equal(np.zeros(4, np.int64), grads[[0, 2, 1, 3]])[1].tolist() == [[2.0]]


@dtypes
@given(seed=seeds)
def test_sum_equal_is_its_twin_bit_for_bit(dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, grads = rng.integers(0, 6, 20), rng.normal(size=(20, 3)).astype(dtype)
    rows_U, sums_UD = sum_equal(rows, grads)
    twin = np.zeros((6, 3), dtype)
    for row, grad in zip(rows, grads, strict=True):
        twin[row] += grad
    assert rows_U.tolist() == sorted(set(rows.tolist()))
    assert sums_UD.tolist() == twin[rows_U].tolist()


@dtypes
def test_sgd(dtype: Any) -> None:
    table = np.array([[1, 2], [3, 4], [5, 6]], dtype)
    moved = sgd(table, np.array([2, 0]), np.array([[2, 0], [0, -4]], dtype), dtype(0.5))
    assert table.tolist() == [[1, 4], [3, 4], [4, 6]]
    assert moved.tolist() == [1, 2]


@dtypes
def test_adagrad(dtype: Any) -> None:
    table, state = np.array([[1, 2], [3, 4]], dtype), np.array([[0, 0], [0, 7]], dtype)
    moved = adagrad(table, state, np.array([1]), np.array([[2, 3]], dtype), dtype(1), dtype(2))
    assert state.tolist() == [[0, 0], [4, 16]]
    assert table.tolist() == [[1, 2], [2.5, 3.5]]
    np.testing.assert_allclose(moved, [np.sqrt(0.5)])


@dtypes
def test_rowwise_adagrad(dtype: Any) -> None:
    table, state = np.array([[1, 2], [3, 4]], dtype), np.array([[0], [11]], dtype)
    moved = rowwise_adagrad(
        table, state, np.array([1]), np.array([[1, 3]], dtype), dtype(2), dtype(4)
    )
    assert state.tolist() == [[0], [16]]  # 11 + (1² + 3²) / 2
    assert table.tolist() == [[1, 2], [2.75, 3.25]]
    np.testing.assert_allclose(moved, [np.hypot(0.25, 0.75)])


@dtypes
@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad"])
def test_a_gradient_of_zero_moves_nothing(dtype: Any, kind: Any) -> None:
    config = OptimizerConfig(kind=kind)
    table = np.ones((2, 3), dtype)
    state = np.zeros((2, optimizers.state_width(config, 3)), dtype)
    optimizers.step(config, table, state, np.array([0]), np.zeros((1, 3), dtype), 0.1)
    assert table.tolist() == np.ones((2, 3)).tolist()


def dense_rowwise(parameter: torch.Tensor, state_N: Array, lr: float, eps: float) -> None:
    """s ← s + mean(g²); x ← x − lr·g / (√s + eps), on the dense table."""
    assert parameter.grad is not None
    grad = parameter.grad.numpy()
    state_N += np.mean(grad * grad, axis=1)
    parameter.detach().numpy()[:] -= lr * grad / (np.sqrt(state_N) + eps)[:, None]


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad"])
def test_five_steps_are_those_of_torch_on_the_dense_table(
    kind: Any, dtype: Any, rtol: float
) -> None:
    rng = np.random.default_rng(0)
    config = OptimizerConfig(kind=kind, eps=1e-10)
    table = rng.normal(size=(20, 5)).astype(dtype)
    state = np.zeros((20, optimizers.state_width(config, 5)), dtype)
    dense = torch.nn.Parameter(torch.from_numpy(table.copy()))
    state_N = np.zeros(20, dtype)
    torch_optimizer: torch.optim.Optimizer | None = None
    if kind == "sgd":
        torch_optimizer = torch.optim.SGD([dense], lr=0.3)
    elif kind == "adagrad":
        torch_optimizer = torch.optim.Adagrad([dense], lr=0.3, eps=1e-10)
    start = table.copy()
    for _ in range(5):
        rows, grads = rng.integers(0, 20, 30), rng.normal(size=(30, 5)).astype(dtype)
        before = table.copy()
        rows_U, moved_U = optimizers.step(config, table, state, rows, grads, 0.3)
        np.testing.assert_allclose(moved_U, np.linalg.norm(table - before, axis=1)[rows_U], 1e-4)
        summed = np.zeros_like(table)
        np.add.at(summed, rows, grads)
        dense.grad = torch.from_numpy(summed)
        if torch_optimizer is None:
            dense_rowwise(dense, state_N, 0.3, 1e-10)
        else:
            torch_optimizer.step()
    assert np.abs(table - start).max() > 0.1
    np.testing.assert_allclose(table, dense.detach().numpy(), rtol=rtol, atol=rtol)


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
@given(seed=seeds, k=st.integers(1, 9), scale=st.sampled_from([1.0, 1e4, 1e-4]))
def test_exact_proposals_hold_the_best(dtype: Any, seed: int, k: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(2, 19)).astype(dtype)
    keys = np.round(rng.normal(size=(60, 19)), 1).astype(dtype) * dtype(scale)
    rows = np.flatnonzero(rng.random(60) < 0.7)
    for live in (None, rows):
        proposed_QC = exact.propose(queries, keys, live, k)
        among = np.arange(60) if live is None else live
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
    near = queries @ keys[fresh].T
    slack = exact.error(queries) * np.linalg.norm(keys, axis=1).max()

    rows = np.concatenate([sealed, np.tile(fresh, (3, 1))], axis=1)
    tier = np.where(np.arange(rows.shape[1]) < 18, 1, 2).astype(np.uint8)[None].repeat(3, 0)
    rows = np.where((rows >= 0) & alive[rows], rows, NO_SLOT)
    rows, tier = drop_repeats(rows, tier)
    twin = top_k(rows, score(queries, keys, rows), k, tier)
    *found, scored = best_rows(queries, keys, alive, sealed, fresh, near, slack, k)
    assert [part.tolist() for part in found] == [part.tolist() for part in twin]
    assert scored.tolist() == [len(set(r[(r >= 0) & (r < 25)])) + len(fresh) for r in rows]


@dtypes
@given(seed=seeds, count=st.integers(1, 9))
def test_best_columns_is_its_twin(dtype: Any, seed: int, count: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 5, (4, 9)).astype(dtype)
    columns, best_scores = best_columns(scores, count)
    twin = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    assert np.sort(columns, axis=1).tolist() == np.sort(twin, axis=1).tolist()
    assert best_scores.tolist() == np.take_along_axis(scores, columns, 1).tolist()
