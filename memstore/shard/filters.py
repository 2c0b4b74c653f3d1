"""Evaluates filters against the records of a shard, a column at a time, and keeps the answers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from memstore.filters import And, Compare, Filter, In, Not, Or
from memstore.index.passing import Passing
from memstore.memory import Slots

MAX_KEPT = 16
"""Answers a shard keeps, each of at most ⅝ of a byte a row."""

_COMPARE = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def evaluate(tree: Filter, records: pa.RecordBatch | pa.Table) -> Any:
    """Which records pass, as an Arrow array of bools; columns and values are checked already."""
    if isinstance(tree, Compare | In):
        return _leaf(tree, records.column(tree.column))
    if isinstance(tree, Not):
        return pc.invert(evaluate(tree.filter, records))
    assert isinstance(tree, And | Or)
    join = pc.and_ if isinstance(tree, And) else pc.or_
    return reduce(join, (evaluate(child, records) for child in tree.filters))


def passing(
    tree: Filter,
    chunks: Sequence[pa.RecordBatch],
    where_N: Slots,
    alive_N: npt.NDArray[np.bool_],
) -> Passing:
    """The rows alive whose record passes.

    chunks: the record heap. where_N: the heap line of each row, as `RecordHeap` has it.
    """
    mask_N = alive_N.copy()
    found = [evaluate(tree, chunk).to_numpy(zero_copy_only=False) for chunk in chunks]
    if found:
        mask_N &= np.concatenate(found)[where_N]
    else:
        mask_N[:] = False
    return Passing.of(mask_N)


class KeptAnswers:
    """The last filters asked for and which rows passed, each as of one stamp of the rows."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Filter, tuple[object, Passing]] = OrderedDict()
        self._mutex = threading.Lock()

    def get(self, tree: Filter, stamp: object) -> Passing | None:
        with self._mutex:
            kept = self._answers.get(tree)
            if kept is None or kept[0] != stamp:
                return None
            self._answers.move_to_end(tree)
            return kept[1]

    def put(self, tree: Filter, stamp: object, answer: Passing) -> None:
        with self._mutex:
            self._answers[tree] = (stamp, answer)
            self._answers.move_to_end(tree)
            while len(self._answers) > MAX_KEPT:
                self._answers.popitem(last=False)


def _leaf(leaf: Compare | In, column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not pa.types.is_list(column.type):
        return _test(leaf, column)
    hits = _test(leaf, column.flatten()).to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy()
    # Hits before each item: a list holds one where the count rises between its ends.
    before = np.concatenate([[0], np.cumsum(hits)])[offsets - offsets[0]]
    return pa.array(before[1:] > before[:-1])


def _test(leaf: Compare | In, items: pa.Array) -> Any:
    if isinstance(leaf, Compare):
        return _COMPARE[leaf.op](items, pa.scalar(leaf.value, items.type))
    values = pa.array(leaf.values, items.type)
    if pa.types.is_floating(items.type):
        # A set of values tells −0.0 from 0.0, which compare equal.
        values = pa.concat_arrays([values, pc.negate(values.filter(pc.equal(values, 0.0)))])
    return pc.is_in(items, value_set=values)
