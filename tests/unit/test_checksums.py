"""CRCs of two pieces joined, beside zlib's of both."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from memstore.checksums import crc_of_both


@pytest.mark.parametrize("first", [0, 1, 7, 4_096])
@pytest.mark.parametrize("second", [0, 1, 5, 1_023, 524_288])
def test_the_crc_of_both_is_that_of_one_behind_the_other(first: int, second: int) -> None:
    rng = np.random.default_rng(first + second)
    a, b = rng.bytes(first), rng.bytes(second)
    assert crc_of_both(zlib.crc32(a), zlib.crc32(b), second) == zlib.crc32(a + b)
