"""float16 and bfloat16 in kernels: conversions, rounding by chance and masters, against twins."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memstore import OptimizerConfig
from memstore.dtypes import BFLOAT16, FLOAT16
from memstore.kernels.half import narrow, packed, wide
from memstore.kernels.keep import Chance, Master
from memstore.memory import Array
from memstore.shard import optimizers

LOW = pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])

# Zeros, subnormals of both dtypes, ties between neighbours, the largest of each.
EDGES = np.array(
    [
        *(0.0, -0.0, 1e-45, 1e-38, 2**-25, 2**-24, 3 * 2**-25, 1023 * 2**-24, 2**-14, 1 / 3),
        *(1.0, -1.0, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8),
        *(65504.0, -65504.0, 65503.0),
    ],
    np.float32,
)


def every(dtype: np.dtype[Any]) -> Array:
    """All finite numbers of a dtype, in order of their bits."""
    numbers = np.arange(2**16, dtype=np.uint16).view(dtype)
    return numbers[np.isfinite(numbers.astype(np.float32))]


@LOW
def test_widening_is_exact_for_every_number(dtype: Any) -> None:
    numbers = every(dtype)
    assert wide(numbers).dtype == np.float32
    assert wide(numbers).tobytes() == numbers.astype(np.float32).tobytes()


@LOW
def test_narrowing_is_numpys_for_every_number_and_at_the_edges(dtype: Any) -> None:
    numbers = every(dtype)
    assert narrow(wide(numbers), dtype).tobytes() == numbers.tobytes()
    assert narrow(EDGES, dtype).tobytes() == EDGES.astype(dtype).tobytes()


@LOW
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-30, 15))
def test_narrowing_is_numpys(dtype: Any, seed: int, power: int) -> None:
    numbers = np.random.default_rng(seed).normal(size=100).astype(np.float32) * np.float32(2**power)
    numbers = np.clip(numbers, -65504, 65504)
    assert narrow(numbers, dtype).tobytes() == numbers.astype(dtype).tobytes()


@LOW
def test_beyond_the_largest_number_stands_the_largest(dtype: Any) -> None:
    largest = ml_dtypes.finfo(dtype).max
    beyond = np.array([3.4e38, -3.4e38], np.float32)
    assert narrow(beyond, dtype).tolist() == [largest, -largest]


def drawn(numbers: Array, dtype: Any, rows: int, *, seed: int = 0, before: int = 0) -> Array:
    """Each number `rows` times, kept by chance in as many slots: x ← x − (−1)·g from zeros."""
    table = np.zeros((rows, len(numbers)), dtype)
    keeper = Chance(np.full(rows, before, np.uint32), np.uint64(seed), 1, 0)
    config = OptimizerConfig(kind="sgd")
    grads = np.tile(numbers, (rows, 1))
    optimizers.step(config, table, {}, np.arange(rows), grads, -1.0, keeper)
    return table


def splitmix(number: int) -> int:
    mask = 2**64 - 1
    number = (number + 0x9E3779B97F4A7C15) & mask
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & mask
    return number ^ (number >> 31)


def noise(seed: int, slot: int, count: int, d: int) -> int:
    """The random bits in plain Python integers."""
    mask = 2**32 - 1
    key = splitmix((splitmix(seed ^ slot) + count) & (2**64 - 1))
    bits = (key & mask) ^ (d * 0x9E3779B9 & mask)
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & mask
    bits = (bits + (key >> 32)) & mask
    bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & mask
    return bits ^ (bits >> 16)


def neighbours(number: float, dtype: Any) -> tuple[Any, Any]:
    """The largest number of a dtype not above, and the smallest not below."""
    near = np.array(number, np.float32).astype(dtype)
    if float(near) > number:
        return np.nextafter(near, np.array(-np.inf, dtype)), near
    return near, near if float(near) == number else np.nextafter(near, np.array(np.inf, dtype))


def kept_by_chance(number: np.float32, bits: int, dtype: Any) -> float:
    """The twin: the neighbour away from zero if bits and what lies beyond the other carry."""
    low, high = (float(x) for x in neighbours(abs(float(number)), dtype))
    parts = 2**20 if dtype == FLOAT16 and abs(number) < 2**-14 else None
    parts = parts or (2**13 if dtype == FLOAT16 else 2**16)
    share = 0.0 if low == high else (abs(float(number)) - low) / (high - low)
    up = int(share * parts) + (bits >> (32 - parts.bit_length() + 1)) >= parts
    return float(np.copysign(high if up else low, number))


@LOW
@given(seed=st.integers(0, 2**62), count=st.integers(0, 2**31), power=st.integers(-30, 15))
def test_chance_is_its_twin_bit_for_bit(dtype: Any, seed: int, count: int, power: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = np.concatenate([EDGES, rng.normal(size=30).astype(np.float32) * np.float32(2**power)])
    numbers = np.clip(numbers, -65504, 65504).astype(np.float32)
    table = drawn(numbers, dtype, 3, seed=seed, before=count)
    for slot in range(3):
        twin = [
            kept_by_chance(number, noise(seed, slot, count + 1, d), dtype)
            for d, number in enumerate(numbers)
        ]
        assert table[slot].astype(np.float32).tolist() == twin


@LOW
def test_chance_is_right_on_average(dtype: Any) -> None:
    numbers = np.array([1.0001, 1.0009, 1.0074, -3.21, 1e-7, 3e-6, 6.1e-5, 0.1], np.float32)
    rows = 40_000
    table = drawn(numbers, dtype, rows).astype(np.float64)
    for d, number in enumerate(numbers):
        low, high = sorted(float(x) for x in neighbours(float(number), dtype))
        assert set(table[:, d]) <= {low, high}
        share = (float(number) - low) / (high - low)
        error = (high - low) * np.sqrt(max(share * (1 - share), 1e-3) / rows)
        # Five standard errors: one such test in a million fails by chance, and the seed is fixed.
        assert abs(table[:, d].mean() - number) < 5 * error
    # Elements and slots are drawn apart.
    ups = (table > numbers).astype(np.float64)[:, [0, 1, 3, 7]]
    assert np.abs(np.corrcoef(ups.T) - np.eye(4)).max() < 0.025
    assert np.abs(np.corrcoef(ups[:-1].T, ups[1:].T)[:4, 4:]).max() < 0.025


@LOW
def test_what_is_exact_is_kept_whatever_chance_says(dtype: Any) -> None:
    numbers = every(dtype)
    numbers = numbers[wide(numbers) != 0]
    kept = drawn(wide(numbers), dtype, 1)
    assert kept.tobytes() == numbers.tobytes()


@LOW
def test_beyond_the_largest_number_chance_keeps_the_largest(dtype: Any) -> None:
    largest = ml_dtypes.finfo(dtype).max
    kept = drawn(np.array([3.4e38, -3.4e38], np.float32), dtype, 5)
    assert set(map(tuple, kept.tolist())) == {(largest, -largest)}


@LOW
@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad", "adam", "rowwise_adam"])
@pytest.mark.parametrize("bound", [None, 2.0])
def test_a_master_steps_as_a_float32_table_does(dtype: Any, kind: Any, bound: Any) -> None:
    rng = np.random.default_rng(0)
    config = OptimizerConfig(kind=kind, lr=0.01, max_norm=bound, weight_decay=0.01)
    exact = rng.normal(size=(9, 21)).astype(dtype).astype(np.float32)
    table, master = exact.astype(dtype), Master(np.zeros_like(exact))
    states = [optimizers.new_state(config, t) for t in (exact, table)]
    for _ in range(20):
        rows, grads = rng.integers(0, 9, 12), rng.normal(size=(12, 21)).astype(np.float32)
        before = wide(table).copy()
        optimizers.step(config, exact, states[0], rows, grads, 0.01)
        rows_U, moved_U = optimizers.step(config, table, states[1], rows, grads, 0.01, master)
        way_U = np.linalg.norm(wide(table).astype(np.float64) - before, axis=1)[rows_U]
        np.testing.assert_allclose(moved_U, way_U, rtol=1e-5)
    stepped = np.unique(rows)
    np.testing.assert_allclose(master.rows_ND[stepped], exact[stepped], rtol=1e-5, atol=1e-6)
    assert table[stepped].tobytes() == narrow(master.rows_ND[stepped], dtype).tobytes()


@LOW
def test_a_row_written_since_is_not_what_its_master_says(dtype: Any) -> None:
    config = OptimizerConfig(kind="sgd")
    table, master = np.ones((1, 3), dtype), Master(np.zeros((1, 3), np.float32))
    grads = np.full((1, 3), 1e-4, np.float32)
    optimizers.step(config, table, {}, np.zeros(1, np.int64), grads, 1.0, master)
    table[0, 1] = 5.0
    optimizers.step(config, table, {}, np.zeros(1, np.int64), grads, 1.0, master)
    np.testing.assert_allclose(master.rows_ND[0], [1 - 2e-4, 5 - 1e-4, 1 - 2e-4], rtol=1e-6)


def test_packed_tables_share_their_memory_and_tell_their_dtype() -> None:
    table16, brain16 = np.zeros((2, 2), FLOAT16), np.zeros((2, 2), BFLOAT16)
    assert [packed(table).dtype.name for table in (table16, brain16)] == ["uint16", "int16"]
    packed(table16)[0, 0], packed(brain16)[0, 0] = 0x3C00, 0x3F80
    assert (float(table16[0, 0]), float(brain16[0, 0])) == (1.0, 1.0)
    single = np.zeros((2, 2), np.float32)
    assert packed(single) is single
