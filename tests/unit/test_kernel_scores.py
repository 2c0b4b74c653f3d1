"""Scoring and summing against their numpy twins: tiny literal cases, then any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memstore import NO_SLOT, OptimizerConfig
from memstore.kernels.group import by_row, distinct, group_equal
from memstore.memory import Array
from memstore.shard import optimizers
from tests.congruence.oracle import inner_products
from tests.unit.kernel_cases import dtypes, score, seeds


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


@pytest.mark.parametrize(
    ("rows", "distinct", "starts", "order"),
    [
        ([5], [5], [0, 1], [0]),
        ([5, 5], [5], [0, 2], [0, 1]),
        ([9, 2, 9], [2, 9], [0, 1, 3], [1, 0, 2]),
        ([2, 5, 9], [2, 5, 9], [0, 1, 2, 3], [0, 1, 2]),
        ([0, 0], [0], [0, 2], [0, 1]),
        ([1 << 40, 1, 1 << 40], [1, 1 << 40], [0, 1, 3], [1, 0, 2]),
        ([], [], [0], []),
    ],
)
def test_group_equal(rows: Any, distinct: Any, starts: Any, order: Any) -> None:
    groups = group_equal(np.array(rows, np.int64))
    assert [array.tolist() for array in groups] == [distinct, starts, order]


@given(seed=seeds, count=st.integers(0, 200), bits=st.integers(0, 62))
def test_group_equal_is_its_twin(seed: int, count: int, bits: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 1 << bits, count, endpoint=True)
    rows.flags.writeable = False
    rows_U, starts = np.unique(rows[np.argsort(rows)], return_index=True)
    groups = group_equal(rows)
    assert groups.rows_U.tolist() == rows_U.tolist()
    assert groups.starts.tolist() == [*starts.tolist(), count]
    assert groups.order_B.tolist() == np.argsort(rows, kind="stable").tolist()


def summed(rows: Array, grads: Array) -> Array:
    """The sums that a step is taken with: x ← x + g from zeros."""
    table = np.zeros((6, grads.shape[1]), grads.dtype)
    optimizers.step(OptimizerConfig(kind="sgd"), table, {}, rows, grads, -1.0)
    return table


def test_gradients_are_added_in_the_order_of_the_call() -> None:
    grads = np.array([[1e8], [1.0], [-1e8], [1.0]], np.float32)
    assert summed(np.zeros(4, np.int64), grads)[0].tolist() == [1.0]
    assert summed(np.zeros(4, np.int64), grads[[0, 2, 1, 3]])[0].tolist() == [2.0]


@pytest.mark.parametrize("count", [0, 1, 200])
def test_by_row_is_its_twin(count: int) -> None:
    rng = np.random.default_rng(count)
    rows, tags = rng.integers(0, 9, count), rng.permutation(count)
    starts, sorted_tags = by_row(rows, tags)
    assert len(starts) == rows.max(initial=-1) + 2
    for row in range(len(starts) - 1):
        own = sorted_tags[starts[row] : starts[row + 1]]
        assert own.tolist() == tags[rows == row].tolist()
    assert starts[-1] == count


@dtypes
@given(seed=seeds, width=st.integers(1, 70))
def test_sums_are_their_twin_bit_for_bit(dtype: Any, seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    rows, grads = rng.integers(0, 6, 20), rng.normal(size=(20, width)).astype(dtype)
    twin = np.zeros((6, width), dtype)
    for row, grad in zip(rows, grads, strict=True):
        twin[row] += grad
    assert summed(rows, grads).tolist() == twin.tolist()


@given(rows=st.lists(st.integers(0, 2**40), max_size=50))
def test_distinct_is_that_of_numpy(rows: list[int]) -> None:
    assert distinct(np.array(rows, np.int64)).tolist() == sorted(set(rows))
