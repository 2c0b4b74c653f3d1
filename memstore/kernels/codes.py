"""Inner products of codes, int16 of a query with 8 bits of a row, in very few instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from memstore.kernels.compiling import compiled
from memstore.memory import Array

BLOCK = 32
"""So many numbers are multiplied at once; what a row has beyond whole blocks goes one by one."""

MOST, TINY = (1 << 15) - 1, np.float32(1e-30)
"""The highest code of a query; numbers below this are taken for zero."""

PAIRED = "llvm.x86.avx512.pmaddw.d.512"
"""Multiplies 32 numbers of 16 bits by 32 and adds them up in pairs."""


def _code_product(typing: Any, query_D: Any, codes_ND: Any, place: Any) -> Any:
    fits = query_D.dtype == types.int16 and codes_ND.dtype in (types.int8, types.uint8)
    if query_D.layout != "C" or codes_ND.layout != "C" or not fits:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        short, long = (ir.VectorType(ir.IntType(bits), BLOCK) for bits in (16, 32))
        pairs = ir.VectorType(ir.IntType(32), BLOCK // 2)
        paired = "avx512bw" in context.codegen().magic_tuple()[2]
        lanes = pairs if paired else long
        query = context.make_array(signature.args[0])(context, builder, arguments[0])
        table = context.make_array(signature.args[1])(context, builder, arguments[1])
        width = builder.extract_value(query.shape, 0)
        row = builder.gep(table.data, [builder.mul(arguments[2], width)])
        nothing = ir.Constant(lanes, [0] * lanes.count)
        sums = cgutils.alloca_once_value(builder, nothing)  # type: ignore[no-untyped-call]

        def widened(code: Any, to: Any) -> Any:
            return (builder.sext if codes_ND.dtype == types.int8 else builder.zext)(code, to)

        def load(data: Any, at: Any, bits: int) -> Any:
            many = ir.VectorType(ir.IntType(bits), BLOCK)
            address = builder.bitcast(builder.gep(data, [at]), many.as_pointer())
            return builder.load(address, align=bits // 8)

        step = ir.Constant(width.type, BLOCK)
        rest = builder.srem(width, step)
        whole = builder.sub(width, rest)
        with cgutils.for_range_slice(builder, width.type(0), whole, step) as (at, _):
            left = load(query.data, at, 16)
            right = widened(load(row, at, 8), short)
            if paired:
                kind = ir.FunctionType(pairs, [short, short])
                known = builder.module.globals.get(PAIRED)
                product = builder.call(
                    known or ir.Function(builder.module, kind, PAIRED), [left, right]
                )
            else:
                product = builder.mul(builder.sext(left, long), builder.sext(right, long))
            builder.store(builder.add(builder.load(sums), product), sums)
        number = ir.IntType(32)
        single = cgutils.alloca_once_value(builder, number(0))  # type: ignore[no-untyped-call]
        with cgutils.for_range(builder, rest) as loop:
            at = builder.add(whole, loop.index)
            left = builder.sext(builder.load(builder.gep(query.data, [at])), number)
            right = widened(builder.load(builder.gep(row, [at])), number)
            builder.store(builder.add(builder.load(single), builder.mul(left, right)), single)

        folded, size = builder.load(sums), lanes.count // 2
        while size:
            sides = (
                ir.Constant(ir.VectorType(ir.IntType(32), size), list(range(start, start + size)))
                for start in (0, size)
            )
            low, high = (builder.shuffle_vector(folded, folded, side) for side in sides)
            folded, size = builder.add(low, high), size // 2
        return builder.add(builder.extract_element(folded, number(0)), builder.load(single))

    return types.int32(query_D, codes_ND, types.intp), generate


code_product: Any = intrinsic(_code_product)
"""`code_product(query_D, codes_ND, place)` is ⟨query_D, codes_ND[place]⟩, int32, which must not
overflow; both arrays contiguous, codes int8 or uint8."""


@compiled()
def encode(query_D: Array, most: int, codes_D: npt.NDArray[np.int16]) -> np.float32:
    """Fills in codes from −most to most, and returns their scale."""
    highest = np.float32(0)
    for d in range(len(query_D)):
        highest = max(highest, abs(query_D[d]))
    scale = highest / np.float32(most) if highest > TINY else np.float32(1)
    for d in range(len(query_D)):
        codes_D[d] = np.int16(np.rint(query_D[d] / scale))
    return scale


@compiled()
def encode_all(queries_QD: Array, largest: int) -> tuple[npt.NDArray[np.int16], Array]:
    """Codes of queries and their scales, for rows whose codes are at most `largest`."""
    codes_QD = np.empty(queries_QD.shape, np.int16)
    scale_Q = np.empty(len(queries_QD), np.float32)
    # In 32 bits no sum of products runs over.
    most = min(MOST, (1 << 31) // (largest * max(queries_QD.shape[1], 1)) - 1)
    for q in range(len(queries_QD)):
        scale_Q[q] = encode(queries_QD[q], most, codes_QD[q])
    return codes_QD, scale_Q
