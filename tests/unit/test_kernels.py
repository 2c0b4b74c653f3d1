"""Each kernel against its numpy twin: tiny literal cases, then any."""

from __future__ import annotations

import functools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memstore import NO_SLOT, MemoryConfig, OptimizerConfig
from memstore.config import OptimizerKind
from memstore.index import exact
from memstore.kernels import near
from memstore.kernels.bits import cleared
from memstore.kernels.group import distinct, group_equal
from memstore.kernels.magnitude import magnitude
from memstore.kernels.near import Operand, peaks
from memstore.kernels.score import score_rows
from memstore.kernels.select import best_found, best_products, best_rows
from memstore.kernels.sequence import quiet
from memstore.kernels.topk import drop_repeats, top_k
from memstore.memory import Array
from memstore.shard import optimizers
from memstore.shard.rows import RowTable
from tests.congruence.oracle import best, inner_products, stepped

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)
KINDS = get_args(OptimizerKind)


def score(queries_QD: Array, keys_ND: Array, rows_QC: Array) -> Array:
    scores_QC = np.full(rows_QC.shape, np.nan, queries_QD.dtype)
    score_rows(queries_QD, keys_ND, quiet(len(keys_ND)), rows_QC, scores_QC)
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


@dtypes
@given(seed=seeds, width=st.integers(1, 70))
def test_sums_are_their_twin_bit_for_bit(dtype: Any, seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    rows, grads = rng.integers(0, 6, 20), rng.normal(size=(20, width)).astype(dtype)
    twin = np.zeros((6, width), dtype)
    for row, grad in zip(rows, grads, strict=True):
        twin[row] += grad
    assert summed(rows, grads).tolist() == twin.tolist()


def start(config: OptimizerConfig, table: Array, **state: Any) -> dict[str, Array]:
    """The state before the first step, with what is given instead of zeros."""
    new = optimizers.new_state(config, table)
    for name, numbers in state.items():
        new[name][:] = numbers
    return new


def take(config: OptimizerConfig, table: Array, state: Any, rows: Any, grads: Any) -> Array:
    """One step with the learning rate of the configuration; returns the length of each."""
    given = np.array(rows, np.int64), np.array(grads, table.dtype)
    return optimizers.step(config, table, state, *given, config.lr)[1]


@dtypes
def test_sgd(dtype: Any) -> None:
    config = OptimizerConfig(kind="sgd", lr=0.5)
    table = np.array([[1, 2], [3, 4], [5, 6]], dtype)
    moved = take(config, table, {}, [2, 0], [[2, 0], [0, -4]])
    assert table.tolist() == [[1, 4], [3, 4], [4, 6]]
    assert moved.tolist() == [2, 1]


@dtypes
def test_adagrad(dtype: Any) -> None:
    config = OptimizerConfig(kind="adagrad", lr=1, eps=2)
    table = np.array([[1, 2], [3, 4]], dtype)
    state = start(config, table, sum=[[0, 0], [0, 7]])
    moved = take(config, table, state, [1], [[2, 3]])
    assert state["sum"].tolist() == [[0, 0], [4, 16]]
    assert table.tolist() == [[1, 2], [2.5, 3.5]]
    np.testing.assert_allclose(moved, [np.sqrt(0.5)])


@dtypes
def test_rowwise_adagrad(dtype: Any) -> None:
    config = OptimizerConfig(kind="rowwise_adagrad", lr=2, eps=4)
    table = np.array([[1, 2], [3, 4]], dtype)
    state = start(config, table, sum=[0, 11])
    moved = take(config, table, state, [1], [[1, 3]])
    assert state["sum"].tolist() == [0, 16]  # 11 + (1² + 3²) / 2
    assert table.tolist() == [[1, 2], [2.75, 3.25]]
    np.testing.assert_allclose(moved, [np.hypot(0.25, 0.75)])


@dtypes
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam(dtype: Any, kind: Any) -> None:
    config = OptimizerConfig(kind=kind, lr=0.75, eps=1, betas=(0.5, 0.75))
    table = np.array([[1, 2], [3, 4]], dtype)
    state = start(config, table)
    moved = take(config, table, state, [1], [[2, -4]])
    assert state["mean"].tolist() == [[0, 0], [1, -2]]  # half of g
    assert state["square"].tolist() == [[0, 0], [1, 4]]  # a quarter of g²
    assert state["steps"].tolist() == [0, 1]
    # m / (1 − ½) = g and v / (1 − ¾) = g², so x ← x − ¾·g / (|g| + 1).
    np.testing.assert_allclose(table, np.array([[1, 2], [2.5, 4.6]]), rtol=1e-6)
    np.testing.assert_allclose(moved, [np.hypot(0.5, 0.6)], rtol=1e-6)


@dtypes
def test_rowwise_adam(dtype: Any) -> None:
    config = OptimizerConfig(kind="rowwise_adam", lr=3, eps=1, betas=(0.5, 0.75))
    table = np.array([[1, 2], [3, 4]], dtype)
    state = start(config, table)
    moved = take(config, table, state, [1], [[2, 14]])
    assert state["mean"].tolist() == [[0, 0], [1, 7]]
    assert state["square"].tolist() == [0, 25]  # a quarter of (2² + 14²) / 2
    assert state["steps"].tolist() == [0, 1]
    # √(25 / ¼) = 10, so x ← x − 3·g / 11.
    np.testing.assert_allclose(table, np.array([[1, 2], [27 / 11, 2 / 11]]), rtol=1e-5)
    np.testing.assert_allclose(moved, [np.hypot(6, 42) / 11], rtol=1e-6)


@dtypes
def test_a_gradient_is_clipped_once_it_is_summed(dtype: Any) -> None:
    config = OptimizerConfig(kind="sgd", lr=1, clip_norm=5)
    table = np.zeros((3, 2), dtype)
    moved = take(config, table, {}, [0, 0, 1, 2], [[6, 0], [0, 8], [3, 4], [0, 0]])
    assert table.tolist() == [[-3, -4], [-3, -4], [0, 0]]
    assert moved.tolist() == [5, 5, 0]


@dtypes
def test_decay_is_not_clipped_and_spares_rows_that_are_not_named(dtype: Any) -> None:
    config = OptimizerConfig(kind="sgd", lr=0.5, clip_norm=1, weight_decay=0.5)
    table = np.array([[8, 0], [8, 0]], dtype)
    assert take(config, table, {}, [1], [[4, 0]]).tolist() == [2.5]  # ½·(1 + ½·8)
    assert table.tolist() == [[8, 0], [5.5, 0]]


@dtypes
def test_adamw_decays_beside_the_gradient(dtype: Any) -> None:
    config = OptimizerConfig(kind="adamw", lr=0.5, weight_decay=0.5)
    table = np.array([[8, 0]], dtype)
    state = start(config, table)
    assert take(config, table, state, [0], [[0, 0]]).tolist() == [2]
    assert table.tolist() == [[6, 0]]
    assert state["square"].tolist() == [[0, 0]]


@dtypes
def test_a_row_too_long_is_scaled_to_the_largest_norm(dtype: Any) -> None:
    config = OptimizerConfig(kind="sgd", lr=1, max_norm=5)
    table = np.array([[0, 0], [0, 0], [60, 80]], dtype)
    moved = take(config, table, {}, [0, 1], [[-6, -8], [-3, 0]])
    assert table.tolist() == [[3, 4], [3, 0], [60, 80]]
    assert moved.tolist() == [5, 3]


def test_the_way_is_that_of_the_row_as_rounded() -> None:
    table = np.array([[1e8, 0]], np.float32)
    assert take(OptimizerConfig(kind="sgd", lr=1), table, {}, [0], [[1, 0]]).tolist() == [0]
    assert take(OptimizerConfig(kind="sgd", lr=1), table, {}, [0], [[5, 0]]).tolist() == [8]


@dtypes
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_of_zero_moves_nothing(dtype: Any, kind: Any) -> None:
    config = OptimizerConfig(kind=kind)
    table = np.ones((2, 3), dtype)
    assert take(config, table, start(config, table), [0], np.zeros((1, 3))).tolist() == [0]
    assert table.tolist() == np.ones((2, 3)).tolist()


@dtypes
@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=seeds,
    width=st.integers(1, 70),
    decay=st.sampled_from([0.0, 0.1]),
    clip=st.sampled_from([None, 0.0, 3.0]),
    bound=st.sampled_from([None, 0.0, 2.0]),
)
def test_steps_are_their_twin(
    dtype: Any, kind: Any, seed: int, width: int, decay: float, clip: Any, bound: Any
) -> None:
    rng = np.random.default_rng(seed)
    config = OptimizerConfig(
        kind=kind, lr=0.3, eps=1e-3, weight_decay=decay, clip_norm=clip, max_norm=bound
    )
    table = rng.normal(size=(8, width)).astype(dtype)
    state, twin = start(config, table), table.copy()
    states: list[dict[str, Any]] = [{} for _ in table]
    for _ in range(4):
        rows, grads = rng.integers(0, 8, 12), rng.normal(size=(12, width)).astype(dtype)
        before = table.copy()
        rows_U, moved_U = optimizers.step(config, table, state, rows, grads, 0.3)
        sums = np.zeros_like(table)
        np.add.at(sums, rows, grads)
        for row in set(rows.tolist()):
            twin[row] = stepped(config, twin[row], states[row], sums[row], 0.3)
        np.testing.assert_allclose(table, twin, rtol=2e-5, atol=2e-5)
        assert rows_U.tolist() == sorted(set(rows.tolist()))
        way_N = np.linalg.norm(table.astype(np.float64) - before, axis=1)
        np.testing.assert_allclose(moved_U, way_N[rows_U], rtol=1e-5)
        assert not np.delete(way_N, rows_U).any()


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam", "adamw"])
def test_steps_of_every_row_are_those_of_torch_on_the_dense_table(
    kind: Any, decay: float, dtype: Any, rtol: float
) -> None:
    rng = np.random.default_rng(0)
    config = OptimizerConfig(kind=kind, eps=1e-8, lr=0.1, weight_decay=decay)
    table = rng.normal(size=(20, 5)).astype(dtype)
    state, first = start(config, table), table.copy()
    dense = torch.nn.Parameter(torch.from_numpy(table.copy()))
    given: dict[str, Any] = {"lr": 0.1, "weight_decay": decay}
    makes: dict[str, Any] = {
        "sgd": torch.optim.SGD,
        "adagrad": functools.partial(torch.optim.Adagrad, eps=1e-8),
        "adam": functools.partial(torch.optim.Adam, eps=1e-8),
        "adamw": functools.partial(torch.optim.AdamW, eps=1e-8),
    }
    optimizer = makes[kind]([dense], **given)
    for _ in range(5):
        rows = np.concatenate([rng.permutation(20), rng.integers(0, 20, 15)])
        grads = rng.normal(size=(35, 5)).astype(dtype)
        take(config, table, state, rows, grads)
        sums = np.zeros_like(table)
        np.add.at(sums, rows, grads)
        dense.grad = torch.from_numpy(sums)
        optimizer.step()
    assert np.abs(table - first).max() > 0.1
    np.testing.assert_allclose(table, dense.detach().numpy(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("kind", ["sgd", "adagrad"])
def test_steps_of_some_rows_are_those_of_torch_on_the_dense_table(kind: Any) -> None:
    rng = np.random.default_rng(0)
    config = OptimizerConfig(kind=kind, lr=0.3)
    table = rng.normal(size=(20, 5)).astype(np.float32)
    state = start(config, table)
    dense = torch.nn.Parameter(torch.from_numpy(table.copy()))
    optimizer: torch.optim.Optimizer = torch.optim.SGD([dense], lr=0.3)
    if kind == "adagrad":
        optimizer = torch.optim.Adagrad([dense], lr=0.3, eps=1e-10)
    for _ in range(5):
        rows, grads = rng.integers(0, 20, 10), rng.normal(size=(10, 5)).astype(np.float32)
        take(config, table, state, rows, grads)
        sums = np.zeros_like(table)
        np.add.at(sums, rows, grads)
        dense.grad = torch.from_numpy(sums)
        optimizer.step()
    np.testing.assert_allclose(table, dense.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_adam_counts_the_updates_of_each_row() -> None:
    config = OptimizerConfig(kind="adam", lr=0.5)
    table = np.zeros((2, 1), np.float32)
    state, sparse = start(config, table), torch.nn.Parameter(torch.zeros(2, 1))
    optimizer = torch.optim.SparseAdam([sparse], lr=0.5, eps=1e-10)
    for row in [0] * 9 + [1]:
        assert take(config, table, state, [row], [[1]]) == pytest.approx(0.5)
        sparse.grad = torch.sparse_coo_tensor(
            torch.tensor([[row]]), torch.ones(1, 1), (2, 1), check_invariants=True
        )
        optimizer.step()
    assert state["steps"].tolist() == [9, 1]
    # The first step of row 1 is the tenth of the table for torch, and shorter for it.
    assert table[1, 0] == pytest.approx(-0.5)
    np.testing.assert_allclose(sparse[0].item(), table[0, 0], rtol=1e-6)
    assert -0.3 < sparse[1].item() < 0


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_made_by_the_first_update_and_given_back(kind: Any) -> None:
    config = MemoryConfig(dim=3, value_dim=2, optimizer=kind)
    table = RowTable(config)
    rows = np.arange(4)
    table.put(rows, np.ones((4, 3), np.float32), np.ones((4, 2), np.float32))
    assert table.state == {}
    table.step(rows[:2], np.ones((2, 3), np.float32), np.ones((2, 2), np.float32), 0.1)
    layout = optimizers.LAYOUT[kind]
    assert set(table.state) == {f"{part}_{name}" for part in ("key", "value") for name in layout}
    copy = RowTable(config)
    arrays = table.arrays()
    copy.restore(
        {name: (array.dtype, array.shape) for name, array in arrays.items()},
        lambda name, out: np.copyto(out, arrays[name]),
        1,
    )
    for both in (table, copy):
        both.put(np.arange(2_000), np.ones((2_000, 3), np.float32), np.ones((2_000, 2), np.float32))
        both.step(rows, np.ones((4, 3), np.float32), None, 0.1)
    for name, array in table.arrays().items():
        np.testing.assert_array_equal(copy.arrays()[name], array, err_msg=name)
    if "steps" in layout:
        assert table.state["key_steps"][:5].tolist() == [2, 2, 1, 1, 0]
        assert table.state["value_steps"][:5].tolist() == [1, 1, 0, 0, 0]


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
    *found, scored = best_rows(
        queries, keys, marks, alive, sealed, fresh, products, groups, slack, k
    )
    assert [part.tolist() for part in found] == [part.tolist() for part in twin]
    assert scored.tolist() == [len(set(r[(r >= 0) & (r < 25)])) + len(fresh) for r in rows]


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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@given(numbers=st.lists(st.floats(width=16, allow_nan=False), max_size=70))
def test_magnitude_is_its_twin(dtype: Any, numbers: list[float]) -> None:
    array = np.array(numbers, dtype)
    assert magnitude(array) == np.abs(array).max(initial=0.0)
    assert magnitude(array[::2]) == np.abs(array[::2]).max(initial=0.0)
    for odd in (np.nan, -np.nan):
        assert np.isnan(magnitude(np.append(array, dtype(odd))))


@dtypes
@given(seed=seeds, rows=st.integers(0, 40))
def test_peaks_are_their_twin(dtype: Any, seed: int, rows: int) -> None:
    products = np.random.default_rng(seed).normal(size=(rows, 3)).astype(dtype)
    twin = [products[g : g + near.GROUP].max(axis=0) for g in range(0, rows, near.GROUP)]
    assert peaks(products).tolist() == np.array(twin).reshape(-1, 3).tolist()


@given(seed=seeds, scale=st.sampled_from([1e-37, 1e-18, 1.0, 1e12]))
def test_rounding_to_bfloat16_is_that_of_torch(seed: int, scale: float) -> None:
    keys = np.random.default_rng(seed).normal(size=(5, 37)).astype(np.float32) * np.float32(scale)
    bits = np.empty(keys.shape, np.int16)
    lost, longest = near.rounded(keys, bits)
    twin = torch.from_numpy(keys).bfloat16()
    assert (bits == twin.view(torch.int16).numpy()).all()
    rest = np.linalg.norm((keys - twin.float().numpy()).astype(np.float64), axis=1)
    lengths = np.linalg.norm(keys.astype(np.float64), axis=1)
    assert (rest <= lost * lengths).all()
    assert lost <= near.ROUNDING * 1.01
    assert (lengths <= longest).all()


@pytest.mark.skipif(near.halving_units() is None, reason="no bfloat16, or no torch")
@given(
    seed=seeds,
    width=st.sampled_from([1, 16, 37, 300]),
    scale=st.sampled_from([1e-20, 1.0, 1e9]),
)
def test_products_of_bfloat16_keep_their_bound(seed: int, width: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(near.LEAST_ROWS, width)) * rng.lognormal(0, 3, (near.LEAST_ROWS, 1))
    keys_ND = (keys * scale).astype(np.float32)
    queries_QD = rng.normal(size=(3, width)).astype(np.float32)
    operand = Operand(keys_ND)
    bits_RQ = operand.products(queries_QD)
    assert bits_RQ.dtype == np.int16
    products_RQ = torch.from_numpy(bits_RQ).view(torch.bfloat16).float().numpy()
    assert peaks(bits_RQ).tolist() == products_RQ.reshape(-1, near.GROUP, 3).max(axis=1).tolist()
    away_Q = np.abs(products_RQ.T - inner_products(queries_QD, keys_ND)).max(axis=1)
    assert (away_Q <= operand.slack(queries_QD)).all()


@given(rows=st.lists(st.integers(0, 99), max_size=30), size=st.integers(0, 12))
def test_cleared_bits_are_those_of_their_twin(rows: list[int], size: int) -> None:
    bits = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    before = bits.copy()
    mask = np.unpackbits(bits, bitorder="little")
    gone = np.array([row for row in rows if row < 8 * size], np.int64)
    twin = mask.copy()
    twin[gone] = 0
    after, lost = cleared(bits, np.array(rows, np.int64))
    assert np.unpackbits(after, bitorder="little").tolist() == twin.tolist()
    assert lost == int(mask.sum()) - int(twin.sum())
    assert bits.tolist() == before.tolist()
    assert (after is bits) == (lost == 0)


@given(rows=st.lists(st.integers(0, 2**40), max_size=50))
def test_distinct_is_that_of_numpy(rows: list[int]) -> None:
    assert distinct(np.array(rows, np.int64)).tolist() == sorted(set(rows))


@dtypes
@pytest.mark.parametrize("rows", [0, 5, near.LEAST_ROWS])
def test_no_queries_have_no_products(dtype: Any, rows: int) -> None:
    operand, none = Operand(np.ones((rows, 8), dtype)), np.empty((0, 8), dtype)
    assert operand.products(none).shape == (rows, 0)
    assert operand.slack(none).shape == (0,)
