"""Files of arrays, read by several threads at once."""

import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from memstore import files

THREADS, READS = 4, 200


@pytest.fixture
def hurried() -> Iterator[None]:
    """Collects garbage all the time, and lets another thread go on whenever it does."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()

    def hand_over(*about: object) -> None:
        time.sleep(0)

    sys.setswitchinterval(1e-6)
    gc.callbacks.append(hand_over)
    gc.set_threshold(5)
    yield
    gc.set_threshold(*threshold)
    gc.callbacks.remove(hand_over)
    sys.setswitchinterval(interval)


def test_threads_read_arrays_at_the_same_time(tmp_path: Path, hurried: None) -> None:
    """Python's parser, by which numpy reads the head of a file, is not made for that."""
    one, several = tmp_path / "one.npy", tmp_path / "several.npz"
    arrays = {name: np.arange(5) + at for at, name in enumerate("abc")}
    np.save(one, np.arange(7))
    files.make(several, lambda file: files.arrays_to(file, arrays))

    def read(depth: int) -> None:
        if depth:
            read(depth - 1)
            return
        for _ in range(READS):
            assert files.array_of(one).tolist() == [*range(7)]
            assert files.array_at(one).tolist() == [*range(7)]
            got = files.arrays_of(several)
            assert all(np.array_equal(got[name], array) for name, array in arrays.items())

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read, range(0, 4 * THREADS, 4)))
