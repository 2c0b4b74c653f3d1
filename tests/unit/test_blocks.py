"""Blocks of arrays in files, and cuts of arrays that go on being written."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from memstore.errors import CorruptFile
from memstore.memory import Array
from memstore.shard import blocks
from memstore.shard.blocks import BLOCK_ROWS, Directory
from memstore.shard.cut import AT_A_TIME, Changed, Cut

ROWS = 5 * BLOCK_ROWS + 100


def table(rows: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "keys": rng.standard_normal((rows, 4), np.float32),
        "narrow": rng.standard_normal((rows, 2)).astype(ml_dtypes.bfloat16),
        "alive": rng.random(rows) < 0.5,
        "steps": rng.integers(0, 9, rows),
    }


def save(folder: Path, number: int, before: Directory, arrays: dict[str, Array]) -> Directory:
    """Saves all blocks in which arrays are not what is stored."""

    def changed() -> Iterator[tuple[str, int, Array]]:
        for name, array in arrays.items():
            old = np.zeros_like(array)
            if name in before:
                rows = min(before[name].rows, len(array))
                part = np.zeros_like(array, shape=before[name].shape)
                blocks.read(folder, before[name], name, part)
                old[:rows] = part[:rows]
            for block in range(blocks.blocks(len(array))):
                of = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
                ends = before[name].rows if name in before else len(array), len(array)
                resized = ends[0] != ends[1] and of.stop > min(ends)
                if resized or old[of].tobytes() != array[of].tobytes():
                    yield name, block, array[of]

    shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    return blocks.write(folder, number, before, shapes, changed())[0]


def check(folder: Path, directory: Directory, arrays: dict[str, Array]) -> None:
    directory = blocks.from_bytes(blocks.to_bytes(directory))
    assert list(directory) == list(arrays)
    for name, array in arrays.items():
        out = np.zeros_like(array)
        blocks.read(folder, directory[name], name, out)
        assert out.tobytes() == array.tobytes()


def test_what_changed_is_written_and_all_of_it_is_read(tmp_path: Path) -> None:
    arrays = table(ROWS)
    first = save(tmp_path, 1, {}, arrays)
    check(tmp_path, first, arrays)
    arrays["keys"][BLOCK_ROWS] = 7
    second = save(tmp_path, 2, first, arrays)
    check(tmp_path, second, arrays)
    assert (tmp_path / blocks.name_of(2)).stat().st_size == BLOCK_ROWS * 16
    assert blocks.wanted(second) == {blocks.name_of(1), blocks.name_of(2)}


@pytest.mark.parametrize("rows", [0, 1, ROWS - 200, ROWS + 1, ROWS + 5 * BLOCK_ROWS])
def test_arrays_of_another_length(tmp_path: Path, rows: int) -> None:
    first = save(tmp_path, 1, {}, table(ROWS))
    arrays = table(rows, seed=1)
    check(tmp_path, save(tmp_path, 2, first, arrays), arrays)


def test_zeros_and_new_arrays_take_no_room(tmp_path: Path) -> None:
    arrays = table(ROWS)
    first = save(tmp_path, 1, {}, arrays)
    arrays["state"] = np.zeros((ROWS, 4))
    second = save(tmp_path, 2, first, arrays)
    assert not (tmp_path / blocks.name_of(2)).stat().st_size
    arrays["state"][ROWS - 1] = 1
    arrays["steps"][:] = 0
    third = save(tmp_path, 3, second, arrays)
    check(tmp_path, third, arrays)
    assert (tmp_path / blocks.name_of(3)).stat().st_size == 100 * 4 * 8


def test_a_file_of_which_little_is_wanted_is_emptied(tmp_path: Path) -> None:
    arrays = table(ROWS)
    first = save(tmp_path, 1, {}, arrays)
    assert not dict(blocks.wasteful(tmp_path, first))
    arrays["keys"] += 1
    second = save(tmp_path, 2, first, arrays)
    poor = dict(blocks.wasteful(tmp_path, second))
    assert set(poor) == {"narrow", "alive", "steps"}
    again = [
        (name, block, arrays[name][block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS])
        for name, blocks_K in poor.items()
        for block in blocks_K.tolist()
    ]
    shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    third, _ = blocks.write(tmp_path, 3, second, shapes, again)
    assert blocks.wanted(third) == {blocks.name_of(2), blocks.name_of(3)}
    check(tmp_path, third, arrays)


@pytest.mark.parametrize("harm", ["flip", "cut", "missing"])
def test_a_bad_block_is_named(tmp_path: Path, harm: str) -> None:
    arrays = table(ROWS)
    directory = save(tmp_path, 1, {}, arrays)
    path = tmp_path / blocks.name_of(1)
    data = bytearray(path.read_bytes())
    at = BLOCK_ROWS * 16 + 5
    data[at] ^= 16
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(data if harm == "flip" else data[:at])
    where = "cannot be read" if harm == "missing" else f"at byte {BLOCK_ROWS * 16}"
    with pytest.raises(CorruptFile, match=where):
        blocks.read(tmp_path, directory["keys"], "keys", np.zeros_like(arrays["keys"]))


class Failing:
    """Rows that end in an error."""

    def __iter__(self) -> Iterator[tuple[str, int, Array]]:
        yield "keys", 0, np.ones((5, 2), np.float32)
        raise OSError(28, "No space left on device")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    shapes = {"keys": (np.dtype(np.float32), (5, 2))}
    with pytest.raises(OSError, match="No space"):
        blocks.write(tmp_path, 1, {}, shapes, Failing())
    assert not list(tmp_path.iterdir())


def test_changed_blocks() -> None:
    changed = Changed()
    changed.add(np.array([0, 5 * BLOCK_ROWS + 3]))
    changed.add(np.array([], np.int64))
    taken_K = changed.take(7)
    assert np.flatnonzero(taken_K).tolist() == [0, 5]
    assert not changed.take(7).any()
    changed.put_back(taken_K)
    assert changed.take(6).tolist() == taken_K[:6].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_is_of_one_moment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = table((2 * AT_A_TIME + 3) * BLOCK_ROWS + 50)
    rows = len(arrays["keys"])
    wanted_K = rng.random(blocks.blocks(rows)) < 0.8
    cut = Cut(lambda: arrays, wanted_K)
    then = {name: array.copy() for name, array in arrays.items()}

    def write() -> None:
        some = rng.integers(0, len(arrays["keys"]), rng.integers(1, 3_000))
        cut.before(some)
        for name, array in table(len(some), seed=int(rng.integers(99))).items():
            arrays[name][some] = array

    seen = []
    write()
    for block, copies in cut.blocks(contextlib.nullcontext()):
        seen.append(block)
        for name, copy in copies.items():
            expected = then[name][block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
            assert copy.tobytes() == expected.tobytes()
        write()
        if block == seen[0]:  # The table grows, and has state that it had not.
            more = table(rows + 999, seed=5)
            arrays |= {name: np.concatenate([a, more[name][rows:]]) for name, a in arrays.items()}
            arrays["state"] = np.ones(rows + 999)
    assert seen == np.flatnonzero(wanted_K).tolist()


def test_a_cut_beside_a_writer_that_never_stops() -> None:
    arrays = {"a": np.zeros(40 * BLOCK_ROWS, np.int64), "b": np.zeros(40 * BLOCK_ROWS, np.int64)}
    writers, stop = threading.Lock(), threading.Event()
    cuts: list[Cut] = []

    def write() -> None:
        rng = np.random.default_rng(0)
        for number in range(1, 1_000_000):
            if stop.is_set():
                return
            rows = rng.integers(0, len(arrays["a"]), 500)
            with writers:
                for cut in cuts:
                    cut.before(rows)
                arrays["a"][rows] = number
                arrays["b"][rows] = number

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            with writers:
                cuts[:] = [Cut(lambda: arrays, np.ones(40, bool))]
                then = arrays["a"].copy()
            for block, copies in cuts[0].blocks(writers):
                of = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
                np.testing.assert_array_equal(copies["a"], then[of])
                np.testing.assert_array_equal(copies["b"], then[of])
    finally:
        stop.set()
        thread.join()
