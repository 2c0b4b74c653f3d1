"""Products, their bounds and their roundings, and sets of bits, against their numpy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memstore.kernels import near
from memstore.kernels.bits import cleared
from memstore.kernels.magnitude import magnitude
from memstore.kernels.near import Operand, peaks
from tests.congruence.oracle import inner_products
from tests.unit.kernel_cases import dtypes, seeds


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
    rows=st.sampled_from([near.LEAST_ROWS, near.SHAPES_ROWS, near.SHAPES_ROWS + 48]),
    queries=st.sampled_from([2, 3, 16, 65]),
)
def test_products_of_bfloat16_keep_their_bound(
    seed: int, width: int, scale: float, rows: int, queries: int
) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(rows, width)) * rng.lognormal(0, 3, (rows, 1))
    keys_ND = (keys * scale).astype(np.float32)
    queries_QD = rng.normal(size=(queries, width)).astype(np.float32)
    operand = Operand(keys_ND)
    bits_RQ = operand.products(queries_QD)
    assert bits_RQ.dtype == np.int16
    assert bits_RQ.shape == (rows, queries)
    assert bits_RQ.flags.c_contiguous
    products_RQ = torch.from_numpy(bits_RQ).view(torch.bfloat16).float().numpy()
    grouped = products_RQ.reshape(-1, near.GROUP, queries)
    assert peaks(bits_RQ).tolist() == grouped.max(axis=1).tolist()
    away_Q = np.abs(products_RQ.T - inner_products(queries_QD, keys_ND)).max(axis=1)
    assert (away_Q <= operand.slack(queries_QD)).all()


@pytest.mark.skipif(near.halving_units() is None, reason="no bfloat16, or no torch")
def test_however_many_rows_and_queries_few_shapes_are_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each stays in the memory of the process, 0.7 MB of it."""
    shapes, multiply = set(), torch.mm

    def noted(rows: Any, queries: Any, **how: Any) -> Any:
        shapes.add((rows.shape[0], queries.shape[1]))
        return multiply(rows, queries, **how)

    monkeypatch.setattr(torch, "mm", noted)
    laid_RD, rng = np.ones((20_000, 8), np.int16), np.random.default_rng(0)
    for _ in range(300):
        rows, queries = int(rng.integers(1, len(laid_RD))), int(rng.integers(2, 257))
        near_RQ = near.products([laid_RD[:rows]], np.ones((queries, 8), np.float32))
        assert near_RQ.shape == (rows, queries)
    assert {rows for rows, _ in shapes} == {near.SHAPES_ROWS << n for n in range(6)}
    assert {queries for _, queries in shapes} == {16, 32, 48, 64, 96, 128, 192, 256}


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


@dtypes
@pytest.mark.parametrize("rows", [0, 5, near.LEAST_ROWS])
def test_no_queries_have_no_products(dtype: Any, rows: int) -> None:
    operand, none = Operand(np.ones((rows, 8), dtype)), np.empty((0, 8), dtype)
    assert operand.products(none).shape == (rows, 0)
    assert operand.slack(none).shape == (0,)
