"""Inner products with a fixed order of summation: the one kernel behind every score."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from memstore.kernels.compiling import compiled
from memstore.kernels.sequence import Marks, is_whole, mark_of
from memstore.memory import Array, Slots

LANES = 16

NARROW = (types.uint16, types.int16)
"""The bits of float16 and of bfloat16, as `kernels.half` has them."""


def _inner_product(typing: Any, query_D: Any, keys_ND: Any, row: Any) -> Any:
    number, stored, half = query_D.dtype, keys_ND.dtype, LANES // 2
    fits = stored == number or (stored in NARROW and number == types.float32)
    if query_D.layout != "C" or keys_ND.layout != "C" or not fits:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real, whole_number = context.get_value_type(number), context.get_value_type(types.intp)
        lanes, count = ir.VectorType(real, LANES), ir.Constant(whole_number, LANES)
        query = context.make_array(signature.args[0])(context, builder, arguments[0])
        table = context.make_array(signature.args[1])(context, builder, arguments[1])
        width = builder.extract_value(query.shape, 0)
        key = builder.gep(table.data, [builder.mul(arguments[2], width)])
        nothing = ir.Constant(lanes, [0.0] * LANES)
        sums = cgutils.alloca_once_value(builder, nothing)  # type: ignore[no-untyped-call]

        def load(data: Any, place: Any, dtype: Any) -> Any:
            many = ir.VectorType(context.get_value_type(dtype), LANES)
            address = builder.bitcast(builder.gep(data, [place]), many.as_pointer())
            return widen(builder.load(address, align=dtype.bitwidth // 8), dtype, many)

        def widen(bits: Any, dtype: Any, shape: Any) -> Any:
            """float16 and bfloat16, in one number or many, as float32."""
            many = isinstance(shape, ir.VectorType)

            def like(element: Any) -> Any:
                return ir.VectorType(element, LANES) if many else element

            if dtype == types.uint16:
                return builder.fpext(builder.bitcast(bits, like(ir.HalfType())), like(real))
            if dtype == types.int16:
                whole = like(ir.IntType(32))
                places = ir.Constant(whole, [16] * LANES if many else 16)
                return builder.bitcast(builder.shl(builder.zext(bits, whole), places), like(real))
            return bits

        def add(product: Any) -> None:
            builder.store(builder.fadd(builder.load(sums), product), sums)

        rest = builder.srem(width, count)
        whole = builder.sub(width, rest)
        with cgutils.for_range_slice(builder, count.type(0), whole, count) as (place, _):
            add(builder.fmul(load(query.data, place, number), load(key, place, stored)))
        with cgutils.for_range(builder, rest) as loop:
            place = builder.add(whole, loop.index)
            bits = builder.load(builder.gep(key, [place]))
            element = widen(bits, stored, context.get_value_type(stored))
            factors = builder.load(builder.gep(query.data, [place])), element
            at = builder.trunc(loop.index, ir.IntType(32))
            before = builder.load(sums)
            lane = builder.fadd(builder.extract_element(before, at), builder.fmul(*factors))
            builder.store(builder.insert_element(before, lane, at), sums)

        folded, size = builder.load(sums), half
        while size:
            sides = (
                ir.Constant(ir.VectorType(ir.IntType(32), size), list(range(start, start + size)))
                for start in (0, size)
            )
            low, high = (builder.shuffle_vector(folded, folded, side) for side in sides)
            folded, size = builder.fadd(low, high), size // 2
        return builder.extract_element(folded, ir.IntType(32)(0))

    return number(query_D, keys_ND, types.intp), generate


inner_product: Any = intrinsic(_inner_product)
"""`inner_product(query_D, keys_ND, row)` is ⟨query_D, keys_ND[row]⟩; both arrays contiguous.

Sixteen lanes are summed side by side, then folded in halves; no step may be reordered or fused,
so a score depends on the two vectors alone. The elements of a packed float16 or bfloat16 key are
taken as float32, exactly. Spelt out for LLVM, which does not see that sums in
an array are not the numbers that they are made of: that took five times as long.
"""


@compiled()
def score_again(query_D: Array, keys_ND: Array, marks: Marks, row: int) -> Array:
    """⟨query_D, keys_ND[row]⟩ of a row that was in work when it was first scored."""
    while True:
        mark = mark_of(marks, row)
        score = inner_product(query_D, keys_ND, row)
        if is_whole(marks, row, mark):
            return score  # type: ignore[no-any-return]


@compiled()
def score_rows(
    queries_QD: Array, keys_ND: Array, marks: Marks, rows_QC: Slots, scores_QC: Array
) -> None:
    """Fills scores_QC[q, c] = ⟨queries_QD[q], keys_ND[rows_QC[q, c]]⟩, −inf for a row < 0.

    Each row is read whole: marks are its sequence numbers.
    """
    for q in range(rows_QC.shape[0]):
        query_D = queries_QD[q]
        for c in range(rows_QC.shape[1]):
            row = rows_QC[q, c]
            if row < 0:
                scores_QC[q, c] = -np.inf
            else:
                mark = mark_of(marks, row)
                score = inner_product(query_D, keys_ND, row)
                # A function that loops, called each time, would cost as much as the score.
                if not is_whole(marks, row, mark):
                    score = score_again(query_D, keys_ND, marks, row)
                scores_QC[q, c] = score
