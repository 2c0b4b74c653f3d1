"""The CRC of two pieces as one, out of their CRCs: what is summed once need not be read again.

A CRC-32 is a polynomial over GF(2) modulo the one below. Bytes that follow multiply what was before
by x to the power of their bits, as `crc32_combine` of zlib has it, which Python does not offer.
Numbers are reflected: their highest bit is the constant term.
"""

from __future__ import annotations

import functools

POLYNOMIAL = 0xEDB88320
ONE, X = 1 << 31, 1 << 30


def crc_of_both(first: int, second: int, length: int) -> int:
    """The CRC-32 of two pieces, one behind the other. length: bytes of the second."""
    return _product(first, _shift(length)) ^ second


@functools.lru_cache(maxsize=256)
def _shift(length: int) -> int:
    """x to the power of so many bytes."""
    power, square, bits = ONE, X, 8 * length
    while bits:
        if bits & 1:
            power = _product(power, square)
        square, bits = _product(square, square), bits >> 1
    return power


def _product(a: int, b: int) -> int:
    product = 0
    while a:
        if a & ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return product
