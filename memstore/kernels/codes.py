"""Inner products of codes, int16 of a query with int8 of a row, in very few instructions."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK = 32
"""Widths are whole multiples of this; narrower rows are filled up with zeros."""

PAIRED = "llvm.x86.avx512.pmaddw.d.512"
"""Multiplies 32 numbers of 16 bits by 32 and adds them up in pairs."""


def _code_product(typing: Any, query_D: Any, codes_ND: Any, place: Any) -> Any:
    fits = query_D.dtype == types.int16 and codes_ND.dtype == types.int8
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

        def load(data: Any, at: Any, bits: int) -> Any:
            many = ir.VectorType(ir.IntType(bits), BLOCK)
            address = builder.bitcast(builder.gep(data, [at]), many.as_pointer())
            return builder.load(address, align=bits // 8)

        step = ir.Constant(width.type, BLOCK)
        with cgutils.for_range_slice(builder, width.type(0), width, step) as (at, _):
            left = load(query.data, at, 16)
            right = builder.sext(load(row, at, 8), short)
            if paired:
                kind = ir.FunctionType(pairs, [short, short])
                known = builder.module.globals.get(PAIRED)
                product = builder.call(
                    known or ir.Function(builder.module, kind, PAIRED), [left, right]
                )
            else:
                product = builder.mul(builder.sext(left, long), builder.sext(right, long))
            builder.store(builder.add(builder.load(sums), product), sums)

        folded, size = builder.load(sums), lanes.count // 2
        while size:
            sides = (
                ir.Constant(ir.VectorType(ir.IntType(32), size), list(range(start, start + size)))
                for start in (0, size)
            )
            low, high = (builder.shuffle_vector(folded, folded, side) for side in sides)
            folded, size = builder.add(low, high), size // 2
        return builder.extract_element(folded, ir.IntType(32)(0))

    return types.int32(query_D, codes_ND, types.intp), generate


code_product: Any = intrinsic(_code_product)
"""`code_product(query_D, codes_ND, place)` is ⟨query_D, codes_ND[place]⟩, int32, which must not
overflow; both arrays contiguous, and as wide as whole blocks."""
