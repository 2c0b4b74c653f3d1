"""Sequence numbers, and the kernels that copy whole rows, against their numpy twins."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memstore.index import exact
from memstore.kernels import sequence
from memstore.kernels.sequence import close_row, is_whole, mark_of, open_row, quiet, release
from memstore.kernels.whole import are_whole, marks_of, put_rows, take_rows, take_tenants
from memstore.memory import Array

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)
BLOCK = 1 << sequence.BLOCK_BITS

begin = numba.njit(lambda marks, row: open_row(marks, row))
end = numba.njit(lambda marks, row: close_row(marks, row))
mark = numba.njit(lambda marks, row: mark_of(marks, row))
whole = numba.njit(lambda marks, row, before: is_whole(marks, row, before))


@pytest.mark.parametrize(
    ("rows", "blocks"), [(0, 0), (1, 1), (BLOCK, 1), (BLOCK + 1, 2), (10 * BLOCK, 10)]
)
def test_blocks(rows: int, blocks: int) -> None:
    assert len(quiet(rows)) == sequence.blocks(rows) == blocks


def test_a_row_is_whole_while_its_mark_stays_and_is_even() -> None:
    marks = quiet(3 * BLOCK)
    row, neighbour, other = BLOCK, 2 * BLOCK - 1, 2 * BLOCK
    before = mark(marks, row)
    assert whole(marks, row, before)
    begin(marks, row)
    assert marks.tolist() == [0, 1, 0]
    during = mark(marks, row)
    assert not whole(marks, row, before)
    assert not whole(marks, row, during)
    assert not whole(marks, neighbour, during)
    assert whole(marks, other, mark(marks, other))
    end(marks, row)
    assert marks.tolist() == [0, 2, 0]
    assert not whole(marks, row, before)
    assert not whole(marks, row, during)
    assert whole(marks, row, mark(marks, row))


def test_what_a_failed_writer_left_open_is_closed() -> None:
    marks = np.array([3, 4, 0, 7], np.uint32)
    release(marks)
    assert marks.tolist() == [4, 4, 0, 8]
    marks = np.array([3], np.uint32)
    begin(marks, 0)  # or by the next writer
    assert marks.tolist() == [3]
    end(marks, 0)
    assert marks.tolist() == [4]
    marks = np.array([2**32 - 1], np.uint32)
    end(marks, 0)
    assert marks.tolist() == [0]


@pytest.mark.parametrize(
    ("kernel", "orders"),
    [
        (begin, ["store atomic", "monotonic", "fence release"]),
        (end, ["store atomic", "release"]),
        (mark, ["load atomic", "acquire"]),
        (whole, ["fence acquire", "load atomic", "monotonic"]),
    ],
)
def test_the_order_of_memory_is_asked_for(kernel: Any, orders: list[str]) -> None:
    arguments = (quiet(1), 0, np.uint32(0))[: len(kernel.py_func.__code__.co_varnames)]
    kernel(*arguments)
    code = "".join(kernel.inspect_llvm().values())
    for order in orders:
        assert order in code


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 3 * BLOCK), (BLOCK - 1, BLOCK + 1)])
def test_marks_of_many_rows(start: int, stop: int) -> None:
    marks = quiet(4 * BLOCK)
    before = marks_of(marks, start, stop)
    assert len(before) == (stop - 1) // BLOCK - start // BLOCK + 1
    assert are_whole(marks, start, before)
    begin(marks, 4 * BLOCK - 1)
    assert are_whole(marks, start, before)
    begin(marks, stop - 1)
    assert not are_whole(marks, start, before)
    assert not are_whole(marks, start, marks_of(marks, start, stop))
    end(marks, stop - 1)
    assert not are_whole(marks, start, before)
    assert are_whole(marks, start, marks_of(marks, start, stop))


@dtypes
@given(seed=seeds, width=st.integers(1, 40), values=st.integers(0, 3))
def test_copies_are_their_twins(dtype: Any, seed: int, width: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    keys_ND, values_NV = (rng.normal(size=(50, n)).astype(dtype) for n in (width, values))
    generation_N, rows_B = rng.integers(0, 9, 50), rng.integers(0, 50, rng.integers(0, 20))
    copies = take_tenants(keys_ND, values_NV, generation_N, quiet(50), rows_B)
    for copy, array in zip(copies, (keys_ND, values_NV, generation_N), strict=True):
        assert copy.tolist() == array[rows_B].tolist()
        assert copy.dtype == array.dtype
    assert take_rows(keys_ND, quiet(50), rows_B).tolist() == keys_ND[rows_B].tolist()


@dtypes
@given(seed=seeds, keys=st.booleans(), values=st.booleans(), tenants=st.integers(0, 1))
def test_put_is_its_twin(dtype: Any, seed: int, keys: bool, values: bool, tenants: int) -> None:
    rng = np.random.default_rng(seed)
    widths = 5, 3
    keys_ND, values_NV = (rng.normal(size=(40, n)).astype(dtype) for n in widths)
    alive, travel, generation = rng.random(40) < 0.5, rng.random(40), rng.integers(0, 9, 40)
    rows = rng.permutation(40)[: rng.integers(0, 20)]
    keys_BD, values_BV = (
        rng.normal(size=(len(rows), n if given else 0)).astype(dtype)
        for n, given in zip(widths, (keys, values), strict=True)
    )
    arrays = keys_ND, values_NV, generation, alive, travel
    twins = [array.copy() for array in arrays]
    if keys:
        old = alive[rows]
        way = keys_BD[old].astype(np.float64) - keys_ND[rows[old]]
        twins[4][rows[old]] += np.linalg.norm(way, axis=1)
        twins[0][rows] = keys_BD
    if values:
        twins[1][rows] = values_BV
    twins[2][rows] += tenants
    twins[3][rows] = True
    marks, before = quiet(40), alive.sum()
    born = put_rows(
        keys_ND, values_NV, generation, alive, travel, marks, rows, keys_BD, values_BV, tenants
    )
    assert born == alive.sum() - before
    for array, twin in zip(arrays, twins, strict=True):
        np.testing.assert_allclose(array, twin, rtol=1e-12)
    assert marks.tolist() == (2 * np.bincount(rows // BLOCK, minlength=len(marks))).tolist()


def test_an_exact_search_multiplies_again_what_changed_under_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    keys, queries = (rng.normal(size=(n, 8)).astype(np.float32) for n in (100, 3))
    expected = np.sort(np.argsort(-(queries @ keys.T), axis=1)[:, :5], axis=1)
    marks, torn = quiet(100), keys.copy()
    torn[:50, :4] = 0

    def changed(marks: Array, start: int, before: Array) -> bool:
        begin(marks, 60)
        torn[:] = keys
        end(marks, 60)
        return bool(are_whole(marks, start, before))

    monkeypatch.setattr(exact, "are_whole", changed)
    found = exact.propose(queries, torn, None, 5, marks)
    assert marks.any()
    assert [sorted(set(row) - {-1}) for row in found.tolist()] == expected.tolist()
