"""Inverted column: from a record value to the rows that hold it.

A few sorted segments; each batch of records makes one when it is first asked for, and segments
of like size are merged, so a value costs a binary search in O(log records) segments.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memstore.memory import Slots
from memstore.shard.values import Numbers, Texts, Values


@dataclass(frozen=True)
class _Segment:
    """Items sorted by (value, row): item i says that heap line `lines[i]` of row `rows[i]` held
    `values[i]`."""

    values: Values
    rows: Slots
    lines: Slots

    @classmethod
    def sorted(cls, values: Values, rows: Slots, lines: Slots) -> _Segment:
        order = np.argsort(rows, kind="stable")
        order = order[values.take(order).order()]
        return cls(values.take(order), rows[order], lines[order])


class InvertedColumn:
    """Finds rows by the value, or by an item of the list, in one column."""

    def __init__(self, kind: pa.DataType) -> None:
        self._is_list = pa.types.is_list(kind)
        item = kind.value_type if self._is_list else kind
        self._values: type[Values] = Texts if pa.types.is_string(item) else Numbers
        self._pending: list[tuple[pa.Array, Slots, int]] = []
        self._segments: tuple[_Segment, ...] = ()
        self._sorting = threading.Lock()

    def add(self, column: pa.Array, rows_B: Slots, first_line: int) -> None:
        """Notes that heap line `first_line + i`, holding column[i], is of row rows_B[i]."""
        self._pending.append((column, rows_B.copy(), first_line))

    def find(
        self,
        values: pa.Array,
        limit: int,
        where_N: npt.NDArray[np.int64],
        alive_N: npt.NDArray[np.bool_],
        first_Q: Slots | None = None,
    ) -> tuple[list[Slots], npt.NDArray[np.bool_]]:
        """For each value the rows, rising, at most `limit`, and whether there are more.

        Only rows alive whose line in `where_N` is the one that held the value count, and with
        `first_Q` only those from that row on.
        """
        segments = self._settled()
        limit = min(limit, sum(len(segment.rows) for segment in segments))
        asked_Q = self._values(values)
        ranges = [segment.values.ranges(asked_Q) for segment in segments]
        if first_Q is not None:
            pairs = zip(segments, ranges, strict=True)
            ranges = [(_lower(s.rows, low, high, first_Q), high) for s, (low, high) in pairs]
        found: list[Slots] = [np.empty(0, np.int64)] * len(asked_Q)
        more_Q = np.zeros(len(asked_Q), bool)
        todo_Q = np.arange(len(asked_Q))
        cap = limit + 1
        while len(todo_Q):
            # Dead items take room under the cap; who came out short for that asks again.
            short_Q = self._find_capped(
                todo_Q, segments, ranges, cap, limit, where_N, alive_N, found, more_Q
            )
            todo_Q, cap = todo_Q[short_Q], cap * 4
        return found, more_Q

    def _find_capped(
        self,
        todo_Q: Slots,
        segments: Sequence[_Segment],
        ranges: list[tuple[Slots, Slots]],
        cap: int,
        limit: int,
        where_N: npt.NDArray[np.int64],
        alive_N: npt.NDArray[np.bool_],
        found: list[Slots],
        more_Q: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.bool_]:
        cut_Q = np.zeros(len(todo_Q), bool)
        askers, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        # Behind the last item of a cut segment rows are unseen: nothing above this row is sure.
        horizon_Q = np.full(len(todo_Q), np.iinfo(np.int64).max)
        # Rows that were put since this call began are not there for it.
        known = min(len(where_N), len(alive_N))
        for segment, (low, high) in zip(segments, ranges, strict=True):
            starts = low[todo_Q]
            counts = np.minimum(high[todo_Q] - starts, cap)
            cut = high[todo_Q] - starts > cap
            cut_Q |= cut
            last = segment.rows[(starts + counts - 1)[cut]]
            horizon_Q[cut] = np.minimum(horizon_Q[cut], last)
            asker = np.repeat(np.arange(len(todo_Q)), counts)
            ends = np.cumsum(counts)
            items = np.arange(len(asker)) + np.repeat(starts - (ends - counts), counts)
            row, line = segment.rows[items], segment.lines[items]
            keep = row < known
            keep[keep] = (where_N[row[keep]] == line[keep]) & alive_N[row[keep]]
            askers.append(asker[keep])
            rows.append(row[keep])
        asker, row = np.concatenate(askers), np.concatenate(rows)
        sure = row <= horizon_Q[asker]
        asker, row = asker[sure], row[sure]
        order = np.lexsort((row, asker))
        asker, row = asker[order], row[order]
        distinct = np.ones(len(row), bool)
        distinct[1:] = (row[1:] != row[:-1]) | (asker[1:] != asker[:-1])
        asker, row = asker[distinct], row[distinct]
        counts = np.bincount(asker, minlength=len(todo_Q))
        begins = np.cumsum(counts) - counts
        ends = begins + np.minimum(counts, limit)
        for i, begin, end in zip(todo_Q.tolist(), begins.tolist(), ends.tolist(), strict=True):
            found[i] = row[begin:end]
        more_Q[todo_Q] = counts > limit
        return cut_Q & (counts <= limit)

    def _settled(self) -> tuple[_Segment, ...]:
        """All that was added before, sorted."""
        with self._sorting:
            segments = list(self._segments)
            while self._pending:
                column, rows_B, first_line = self._pending[0]
                lines_B = np.arange(first_line, first_line + len(rows_B))
                if self._is_list:
                    offsets = column.offsets.to_numpy()
                    counts = np.diff(offsets)
                    column = column.values[int(offsets[0]) : int(offsets[-1])]
                    rows_B, lines_B = np.repeat(rows_B, counts), np.repeat(lines_B, counts)
                segments.append(_Segment.sorted(self._values(column), rows_B, lines_B))
                while len(segments) > 1 and len(segments[-2].rows) <= 2 * len(segments[-1].rows):
                    a, b = segments[-2:]
                    values = self._values.joined([a.values, b.values])
                    rows, lines = (
                        np.concatenate(pair) for pair in ((a.rows, b.rows), (a.lines, b.lines))
                    )
                    segments[-2:] = [_Segment.sorted(values, rows, lines)]
                self._segments = tuple(segments)
                del self._pending[0]
            return self._segments


def _lower(rows: Slots, low_Q: Slots, high_Q: Slots, first_Q: Slots) -> Slots:
    """Where in each range of `rows`, rising within it, the rows ≥ first_Q begin."""
    low_Q, end_Q = low_Q.copy(), high_Q.copy()
    open_Q = np.flatnonzero(low_Q < end_Q)
    while len(open_Q):
        middle = (low_Q[open_Q] + end_Q[open_Q]) // 2
        before = rows[middle] < first_Q[open_Q]
        low_Q[open_Q[before]] = middle[before] + 1
        end_Q[open_Q[~before]] = middle[~before]
        open_Q = open_Q[low_Q[open_Q] < end_Q[open_Q]]
    return low_Q
