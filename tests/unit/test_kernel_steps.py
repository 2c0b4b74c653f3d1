"""The steps of every optimizer: literal cases, their twin, and torch on the dense table."""

from __future__ import annotations

import functools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memstore import MemoryConfig, OptimizerConfig
from memstore.config import OptimizerKind
from memstore.memory import Array
from memstore.shard import optimizers
from memstore.shard.rows import RowTable
from tests.congruence.oracle import stepped
from tests.unit.kernel_cases import dtypes, seeds

KINDS = get_args(OptimizerKind)


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
        lambda name, out, filled: np.copyto(out, arrays[name]),
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
