"""float16 and bfloat16 in kernels: numba has neither, so a table of them comes as integers.

The bits of a float16 come as uint16 and those of a bfloat16 as int16: the integer type tells the
compiler which of the two it is. Numbers are widened to float32, exactly, as they are read, and
narrowed as they are stored: to the nearest, ties to even, or to one of the two neighbours by
chance, the nearer the likelier, so that what is stored is right on average (Gupta et al. 2015,
arXiv 1502.02551, section 3). Beyond the largest number of its type a number is stored as that.

The processor must convert float16 itself: on x86 every one since 2012 does (F16C).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload, register_jitable

from memstore.dtypes import BFLOAT16, FLOAT16, LOW
from memstore.kernels.compiling import compiled
from memstore.memory import Array

LARGEST_FLOAT16 = np.float32(65_504)
LARGEST_BFLOAT16 = np.float32(2.0**127 * (2 - 2.0**-7))

LEAST_NORMAL = np.float32(2.0**-14)
"""The least float16 of full precision. Those below it are whole numbers of 2⁻²⁴, and the bits of
one are that number."""

FIXED = np.float32(2.0**44)
"""Below `LEAST_NORMAL`, chance decides on what a number has of a 2⁻²⁴ in 2²⁰ parts."""


def packed(table: Array) -> Array:
    """The bits of a table as the kernels take them; a table of another dtype as it is."""
    if table.dtype == FLOAT16:
        return table.view(np.uint16)
    return table.view(np.int16) if table.dtype == BFLOAT16 else table


def wide(array: Array) -> Array:
    """The same numbers, exactly, as float32 where they are narrower; else `array` itself."""
    if array.dtype not in LOW:
        return array
    bits = packed(np.ascontiguousarray(array))
    numbers = np.empty(array.shape, np.float32)
    _widen(bits.reshape(-1), numbers.reshape(-1))
    return numbers


def narrow(array: Array, dtype: np.dtype[Any]) -> Array:
    """The nearest that a narrower dtype has, ties to even, and its largest beyond that."""
    if dtype not in LOW or array.dtype == dtype:
        return array
    kept = np.empty(array.shape, dtype)
    numbers = np.ascontiguousarray(array, np.float32)
    _narrow(numbers.reshape(-1), packed(kept).reshape(-1))
    return kept


def widened(number: Any) -> Any:
    """The element of a packed table as the number that it is: a float32, or itself."""
    raise NotImplementedError("only in kernels")


def nearest(number: Any, table: Any) -> Any:
    """What a table keeps of a number: the nearest that it can, ties to even."""
    raise NotImplementedError("only in kernels")


def by_chance(number: Any, noise: Any, table: Any) -> Any:
    """What a table keeps of a number, drawn by `noise`: 32 random bits as uint32."""
    raise NotImplementedError("only in kernels")


def _cast(source: Any, result: Any, steps: Any) -> Any:
    def typed(typing: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return steps(builder, arguments[0])

        return result(source), generate

    return intrinsic(typed)


from_float16 = _cast(
    types.uint16,
    types.float32,
    lambda builder, bits: builder.fpext(builder.bitcast(bits, ir.HalfType()), ir.FloatType()),
)
to_float16 = _cast(
    types.float32,
    types.uint16,
    lambda builder, number: builder.bitcast(builder.fptrunc(number, ir.HalfType()), ir.IntType(16)),
)
from_bits = _cast(
    types.uint32, types.float32, lambda builder, bits: builder.bitcast(bits, ir.FloatType())
)
to_bits = _cast(
    types.float32, types.uint32, lambda builder, number: builder.bitcast(number, ir.IntType(32))
)


def _same(number: Any) -> Any:
    return number


def _widened_float16(number: Any) -> Any:
    return from_float16(number)


def _widened_bfloat16(number: Any) -> Any:
    return from_bits(np.uint32(np.uint32(np.uint16(number)) << np.uint32(16)))


@overload(widened)
def _widened(number: Any) -> Any:
    return {types.uint16: _widened_float16, types.int16: _widened_bfloat16}.get(number, _same)


@register_jitable
def _within(number: Any, largest: Any) -> Any:
    return min(max(number, -largest), largest)


def _kept(number: Any, table: Any) -> Any:
    return number


def _nearest_float16(number: Any, table: Any) -> Any:
    return to_float16(_within(number, LARGEST_FLOAT16))


def _nearest_bfloat16(number: Any, table: Any) -> Any:
    bits = to_bits(_within(number, LARGEST_BFLOAT16))
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.int16(np.uint32(np.uint32(bits + half) >> np.uint32(16)))


@overload(nearest)
def _nearest(number: Any, table: Any) -> Any:
    chosen = {types.uint16: _nearest_float16, types.int16: _nearest_bfloat16}
    return chosen.get(table.dtype, _kept)


def _kept_by_chance(number: Any, noise: Any, table: Any) -> Any:
    return number


def _float16_by_chance(number: Any, noise: Any, table: Any) -> Any:
    bits = to_bits(_within(number, LARGEST_FLOAT16))
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    # Of 24 binary digits 11 are kept: what is added carries into them by chance.
    carried = np.uint32(np.uint32(size + (noise >> np.uint32(19))) & np.uint32(0xFFFFE000))
    normal = to_float16(from_bits(carried))
    number = from_bits(size)
    parts = np.uint32(np.int32(min(number, LEAST_NORMAL) * FIXED))
    small = np.uint32(np.uint32(parts + (noise >> np.uint32(12))) >> np.uint32(20))
    kept = np.uint32(normal) if number >= LEAST_NORMAL else small
    return np.uint16(np.uint32(kept | (np.uint32(bits & np.uint32(0x80000000)) >> np.uint32(16))))


def _bfloat16_by_chance(number: Any, noise: Any, table: Any) -> Any:
    bits = to_bits(_within(number, LARGEST_BFLOAT16))
    return np.int16(np.uint32(np.uint32(bits + (noise >> np.uint32(16))) >> np.uint32(16)))


@overload(by_chance)
def _by_chance(number: Any, noise: Any, table: Any) -> Any:
    chosen = {types.uint16: _float16_by_chance, types.int16: _bfloat16_by_chance}
    return chosen.get(table.dtype, _kept_by_chance)


@compiled()
def _widen(bits: Array, numbers: Array) -> None:
    for i in range(len(bits)):
        numbers[i] = widened(bits[i])


@compiled()
def _narrow(numbers: Array, bits: Array) -> None:
    for i in range(len(numbers)):
        bits[i] = nearest(numbers[i], bits)
