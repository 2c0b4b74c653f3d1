"""Scans inverted lists for the rows whose codes score highest.

A list is read once for all queries of a batch that visit it, and of its codes only those of rows
that may be proposed. The codes are where faiss has them: a list is its address and its size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray  # type: ignore[attr-defined]
from numba.core import types
from numba.extending import intrinsic, overload

from memstore.kernels.codes import code_product
from memstore.kernels.compiling import compiled
from memstore.kernels.fetch import AHEAD, LINE_BYTES, fetch, fetch_row
from memstore.kernels.score import inner_product
from memstore.kernels.select import push
from memstore.memory import NO_SLOT, Array, Slots

Bits = npt.NDArray[np.uint8]

MOST_ASKED = 128
"""Rows of the next list that are asked for at most while a list is scanned."""


@compiled()
def scan(
    queries_QD: Array,
    scale_Q: Array,
    base_Q: Array,
    codes_C: Slots,
    rows_C: Slots,
    sizes_C: Slots,
    none_0D: Array,
    bits: Bits,
    lists_QP: Slots,
    count: int,
    part: int,
    parts: int,
) -> tuple[Slots, Array, Slots]:
    """For each query the `count` rows of highest score in its lists, int64 `[Q, count]`, in no
    order, `NO_SLOT` padded, their scores, and how many codes were compared, int64 `[Q]`. Equal
    scores go to the smaller row.

    A score is scale · product(query, code) + base. codes_C, rows_C, sizes_C: the addresses of the
    codes `[R, D]` and of the rows int64 `[R]` of each list, and how many there are.  none_0D: an
    array of the dtype of codes.  bits: a bit a row, the lowest first, set where it may be found;
    none for all.  lists_QP: distinct for each query; −1 is none.  part: of so many equal parts of
    the pairs of a query and a list, in the order of the lists; only what those lists have is found.
    """
    queries, width = queries_QD.shape
    found_QC = np.full((queries, count), NO_SLOT, np.int64)
    scores_QC = np.full((queries, count), -np.inf, np.float32)
    size_Q, tiers = np.zeros(queries, np.int64), np.empty(count, np.uint8)
    compared_Q = np.zeros(queries, np.int64)
    ends_C, lists_B, asked_B = _by_list(lists_QP, len(sizes_C))
    first, stop = len(lists_B) * part // parts, len(lists_B) * (part + 1) // parts
    largest = np.int64(0)
    for which in lists_B[first:stop]:
        largest = max(largest, sizes_C[which])
    at_R = np.arange(largest)
    while first < stop:
        which = lists_B[first]
        last = min(ends_C[which], stop)
        codes_RD = carray(pointer(codes_C[which]), (sizes_C[which], width), none_0D.dtype)
        rows_R = carray(pointer(rows_C[which]), (sizes_C[which],), np.int64)
        passing = _passing(rows_R, bits, at_R) if len(bits) else len(rows_R)
        if last < stop:
            after = lists_B[last]
            next_RD = carray(pointer(codes_C[after]), (sizes_C[after], width), none_0D.dtype)
            next_R = carray(pointer(rows_C[after]), (sizes_C[after],), np.int64)
            for r in range(0, min(len(next_R), MOST_ASKED), LINE_BYTES // 8):
                fetch(next_R, r)
            for r in range(min(len(next_R), AHEAD)):
                fetch_row(next_RD, r)
        for pair in range(first, last):
            q = asked_B[pair]
            query_D, scale, size = queries_QD[q], scale_Q[q], size_Q[q]
            found, scores = found_QC[q], scores_QC[q]
            floor = scores[0] if size == count else np.float32(-np.inf)
            for r in range(passing):
                if pair == first and r + AHEAD < passing:
                    fetch_row(codes_RD, at_R[r + AHEAD])
                score = np.float32(product(query_D, codes_RD, at_R[r])) * scale
                if score >= floor:
                    size = push(found, scores, tiers, size, rows_R[at_R[r]], score, 0)
                    floor = scores[0] if size == count else floor
            size_Q[q] = size
            compared_Q[q] += passing
        first = last
    for q in range(queries):
        scores_QC[q] += base_Q[q]
    return found_QC, scores_QC, compared_Q


@compiled()
def met(rows_C: Slots, sizes_C: Slots, bits: Bits) -> Slots:
    """Rows in each list whose bit is set; rows beyond the bits have none.

    rows_C, sizes_C: as for `scan`.
    """
    met_C = np.zeros(len(sizes_C), np.int64)
    for c in range(len(sizes_C)):
        for row in carray(pointer(rows_C[c]), (sizes_C[c],), np.int64):
            if row >> 3 < len(bits):
                met_C[c] += (bits[row >> 3] >> (row & 7)) & 1
    return met_C


@compiled()
def _passing(rows_R: Slots, bits: Bits, at_R: Slots) -> int:
    """Leaves in at_R which of some rows have their bit set, and returns how many."""
    passing = 0
    for r in range(len(rows_R)):
        row = rows_R[r]
        # No branch: which rows pass, nobody can foretell.
        at_R[passing] = r
        passing += (bits[row >> 3] >> (row & 7)) & 1
    return passing


@compiled()
def _by_list(lists_QP: Slots, lists: int) -> tuple[Slots, Slots, Slots]:
    """Where the pairs of each list end, in the order of the lists; and each pair's list and
    query."""
    ends_C = np.zeros(lists, np.int64)
    for q in range(lists_QP.shape[0]):
        for p in range(lists_QP.shape[1]):
            if lists_QP[q, p] >= 0:
                ends_C[lists_QP[q, p]] += 1
    before = 0
    for c in range(lists):
        before, ends_C[c] = before + ends_C[c], before
    lists_B, asked_B = np.empty(before, np.int64), np.empty(before, np.int64)
    for q in range(lists_QP.shape[0]):
        for p in range(lists_QP.shape[1]):
            which = lists_QP[q, p]
            if which >= 0:
                lists_B[ends_C[which]], asked_B[ends_C[which]] = which, q
                ends_C[which] += 1
    return ends_C, lists_B, asked_B


def product(query_D: Any, codes_RD: Any, row: Any) -> Any:
    """The inner product of a query with a code: of whole numbers, or of numbers that are floats."""
    raise NotImplementedError("only in kernels")


def _whole(query_D: Any, codes_RD: Any, row: Any) -> Any:
    return code_product(query_D, codes_RD, row)


def _real(query_D: Any, codes_RD: Any, row: Any) -> Any:
    return inner_product(query_D, codes_RD, row)


@overload(product)
def _product(query_D: Any, codes_RD: Any, row: Any) -> Any:
    return _whole if query_D.dtype == types.int16 else _real


def _address(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


pointer: Any = intrinsic(_address)
"""`pointer(address)` is an address, int64, as `carray` takes it."""
