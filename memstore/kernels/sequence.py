"""Sequence numbers: how rows are read whole while another thread writes them, and nobody waits.

A block of rows has one number, its mark. It is odd while a row of the block is in work:

    writer   open_row   mark ← odd;  fence;  …the row…
             close_row  fence;  mark ← the next even number
    reader   mark_of    mark → m;  …the row…
             is_whole   fence;  mark = m, and even?  else the row is read again

(H. Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012, fig. 6.)
One thread writes. It holds a block for one row, some 100 ns; nothing that can raise may stand
between `open_row` and `close_row`, and `release` closes what a writer that failed left open.
The fences are real: ARM reorders loads, and so does LLVM everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

Marks = npt.NDArray[np.uint32]

BLOCK_BITS = 4
"""16 rows share a mark: a quarter of a byte a row, and the marks of a million rows stay near."""

MARK = ir.IntType(32)
MARK_BYTES = 4


def blocks(rows: int) -> int:
    """How many marks so many rows have."""
    return (rows + (1 << BLOCK_BITS) - 1) >> BLOCK_BITS


def quiet(rows: int) -> Marks:
    """The marks of rows that nobody writes."""
    return np.zeros(blocks(rows), np.uint32)


def release(marks: Marks) -> None:
    """Closes every block that a writer that failed left open."""
    marks += marks & np.uint32(1)


# Intrinsics, not functions: numba counts a reference to each array at each call, and that alone
# doubles the time of scoring a row.


def _address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    row = arguments[1]
    return builder.gep(data, [builder.lshr(row, row.type(BLOCK_BITS))])


def _open_row(typing: Any, marks: Any, row: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature, arguments)
        odd = builder.or_(builder.load_atomic(address, "monotonic", MARK_BYTES, typ=MARK), MARK(1))
        builder.store_atomic(odd, address, "monotonic", MARK_BYTES)
        builder.fence("release")
        return context.get_dummy_value()

    return types.void(marks, types.intp), generate


def _close_row(typing: Any, marks: Any, row: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature, arguments)
        odd = builder.or_(builder.load_atomic(address, "monotonic", MARK_BYTES, typ=MARK), MARK(1))
        builder.store_atomic(builder.add(odd, MARK(1)), address, "release", MARK_BYTES)
        return context.get_dummy_value()

    return types.void(marks, types.intp), generate


def _mark_of(typing: Any, marks: Any, row: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature, arguments)
        return builder.load_atomic(address, "acquire", MARK_BYTES, typ=MARK)

    return types.uint32(marks, types.intp), generate


def _is_whole(typing: Any, marks: Any, row: Any, mark: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature, arguments)
        before = arguments[2]
        builder.fence("acquire")
        now = builder.load_atomic(address, "monotonic", MARK_BYTES, typ=MARK)
        odd = builder.and_(before, MARK(1))
        whole = builder.and_(
            builder.icmp_unsigned("==", now, before), builder.icmp_unsigned("==", odd, MARK(0))
        )
        with builder.if_then(builder.not_(whole), likely=False):
            # The writer may have been put to sleep in the middle of a row: let it go on.
            kind = ir.FunctionType(ir.IntType(32), [])
            name = "sched_yield"
            give_way = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            builder.call(give_way, [])
        return whole

    return types.boolean(marks, types.intp, types.uint32), generate


open_row: Any = intrinsic(_open_row)
"""`open_row(marks, row)` tells readers that the row is in work."""
close_row: Any = intrinsic(_close_row)
"""`close_row(marks, row)` tells readers that the row is whole again."""
mark_of: Any = intrinsic(_mark_of)
"""`mark_of(marks, row)` gives the mark of the row's block, before the row is read."""
is_whole: Any = intrinsic(_is_whole)
"""`is_whole(marks, row, mark)`: what was read of the row since `mark_of` gave `mark` is whole."""
