"""Regions: arrays that grow in place, in memory and over a file, until there is no more room."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.shard import region
from memstore.shard.region import Region

PAGE = mmap.PAGESIZE


@pytest.fixture(params=["memory", "mapped"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "mapped" else None


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,)])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint16, np.float32, np.int64])
def test_new_rows_are_zero(folder: Path | None, shape: Any, dtype: Any) -> None:
    grown = Region(shape, dtype, folder)
    assert grown.view(0).shape == (0, *shape)
    for rows in (1, 7, 5_000):
        assert not grown.grow(rows) or rows == 1
        view = grown.view(rows)
        assert view.shape == (rows, *shape)
        assert view.dtype == dtype
        assert view.flags.c_contiguous
        assert view.flags.writeable
        assert view.flags.aligned
        assert not view[rows // 2 :].any()
        view[:] = 1
    assert grown.view(5_000).all()


def test_a_view_is_the_array_however_far_it_grows(folder: Path | None) -> None:
    grown = Region((16,), np.float32, folder)
    grown.grow(10)
    early = grown.view(10)
    early[:] = 1
    assert not grown.grow(200_000)
    late = grown.view(200_000)
    assert np.shares_memory(early, late)
    late[9] = 7
    assert early[9].tolist() == [7] * 16
    del grown, late
    assert early[8].tolist() == [1] * 16


def test_rows_move_where_they_must_and_old_views_stay(
    folder: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region, "RESERVED_ROWS", 8)
    grown = Region((4,), np.float64, folder)
    grown.grow(2)
    assert grown.capacity == 8
    early = grown.view(2)
    early[:] = [[1] * 4, [2] * 4]
    assert not grown.grow(8)
    assert grown.grow(9)
    assert grown.capacity == 36
    late = grown.view(9)
    assert not np.shares_memory(early, late)
    assert late[:3].tolist() == [[1] * 4, [2] * 4, [0] * 4]
    late[0] = 9
    assert early.tolist() == [[1] * 4, [2] * 4]


def test_what_was_not_touched_costs_nothing() -> None:
    grown = Region((PAGE,), np.uint8)
    grown.grow(10_000)
    assert grown.resident_bytes == 0
    grown.view(10_000)[[3, 5]] = 1
    assert grown.resident_bytes == 2 * PAGE
    grown.view(10_000)[5_000] = 1
    assert 3 * PAGE <= grown.resident_bytes <= 2 * PAGE + region.HUGE_BYTES


@pytest.mark.parametrize("width", [PAGE, 100, 1])
def test_released_rows_are_zero_and_take_no_memory(width: int) -> None:
    grown = Region((width,), np.uint8)
    grown.grow(9_000)
    view = grown.view(9_000)
    view[:] = 1
    before = grown.resident_bytes
    grown.release(1_000, 8_000)
    # Before they are read: pages of zeros that were read are there.
    assert grown.resident_bytes <= before - 7_000 * width + 2 * PAGE
    assert not view[1_000:8_000].any()
    assert view[:1_000].all()
    assert view[8_000:].all()
    view[5_000] = 1
    assert view[1_000:8_000].sum() == width


def test_rows_in_a_file_are_not_released(tmp_path: Path) -> None:
    mapped = Region((PAGE,), np.uint8, tmp_path)
    mapped.grow(100)
    mapped.view(100)[:] = 1
    mapped.release(0, 100)
    assert mapped.view(100).all()


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.uint16])
def test_filled_rows_are_those_given_bit_for_bit(folder: Path | None, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    given = rng.integers(0, 2, (300, PAGE)).astype(dtype)
    given[100:200] = 0
    if dtype is np.float32:
        given[150] = -0.0
    filled = Region((PAGE,), dtype, folder)
    filled.grow(300)
    filled.fill(given)
    assert filled.view(300).tobytes() == given.tobytes()


def test_zeros_are_not_filled_in() -> None:
    filled = Region((PAGE,), np.uint8)
    filled.grow(400)
    filled.fill(np.zeros((400, PAGE), np.uint8))
    assert filled.resident_bytes == 0


def test_a_file_has_no_name_and_no_holes(tmp_path: Path) -> None:
    mapped = Region((PAGE,), np.uint8, tmp_path)
    mapped.grow(1_000)
    assert list(tmp_path.iterdir()) == []
    (held,) = (link for link in Path("/proc/self/fd").iterdir() if _lies_in(link, tmp_path))
    stat = held.stat()
    assert stat.st_size >= 1_000 * PAGE
    assert stat.st_blocks * 512 >= 1_000 * PAGE
    view = mapped.view(1_000)
    del mapped
    view[999] = 1  # the mapping outlives the region, and its file with it
    del view
    assert not any(_lies_in(link, tmp_path) for link in Path("/proc/self/fd").iterdir())


def _lies_in(link: Path, folder: Path) -> bool:
    try:
        return str(link.readlink()).startswith(str(folder))
    except OSError:
        return False
