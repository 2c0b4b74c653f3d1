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


def _inner_product(typing: Any, query_D: Any, keys_ND: Any, row: Any) -> Any:
    if query_D.layout != "C" or keys_ND.layout != "C" or query_D.dtype != keys_ND.dtype:
        return None
    number, half = query_D.dtype, LANES // 2

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real, whole_number = context.get_value_type(number), context.get_value_type(types.intp)
        lanes, count = ir.VectorType(real, LANES), ir.Constant(whole_number, LANES)
        query = context.make_array(signature.args[0])(context, builder, arguments[0])
        table = context.make_array(signature.args[1])(context, builder, arguments[1])
        width = builder.extract_value(query.shape, 0)
        key = builder.gep(table.data, [builder.mul(arguments[2], width)])
        nothing = ir.Constant(lanes, [0.0] * LANES)
        sums = cgutils.alloca_once_value(builder, nothing)  # type: ignore[no-untyped-call]

        def load(data: Any, place: Any) -> Any:
            address = builder.bitcast(builder.gep(data, [place]), lanes.as_pointer())
            return builder.load(address, align=number.bitwidth // 8)

        def add(product: Any) -> None:
            builder.store(builder.fadd(builder.load(sums), product), sums)

        rest = builder.srem(width, count)
        whole = builder.sub(width, rest)
        with cgutils.for_range_slice(builder, count.type(0), whole, count) as (place, _):
            add(builder.fmul(load(query.data, place), load(key, place)))
        with cgutils.for_range(builder, rest) as loop:
            place = builder.add(whole, loop.index)
            factors = (builder.load(builder.gep(data, [place])) for data in (query.data, key))
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
so a score depends on the two vectors alone. Spelt out for LLVM, which does not see that sums in
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
