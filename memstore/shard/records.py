"""Records: the Arrow columns of a shard's rows, on a heap that only grows, and lookup by value.

The heap holds every record ever put, batch by batch; `where_N` says which heap line is a row's
own now. Dead lines stay until the store is opened after most in its files were dead
(`shard.record_files`). One thread puts records; readers wait for nothing but a column that is made
ready for its first `lookup`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from memstore.errors import CorruptFile
from memstore.memory import Array, Slots
from memstore.shard.inverted import InvertedColumn

MAX_CHUNKS = 8
"""Batches a heap may have before the youngest are joined; `take` visits those that lines lie in."""

MAX_BATCH_BYTES = 1 << 30
"""Batches larger than this are joined no more: Arrow's offsets end at 2 GiB."""

SAVED_BYTES = 1 << 28
"""About how much of the heap is laid out at a time when it is saved."""


class RecordHeap:
    """The records of one shard."""

    def __init__(self, schema: pa.Schema, lookup: Sequence[str]) -> None:
        self.schema = schema
        self.where_N = np.full(0, -1, np.int64)
        self.version = 0
        self._heap: tuple[tuple[pa.RecordBatch, ...], tuple[int, ...]] = ((), (0,))
        """The batches and the line each begins at. A reader takes it after the lines it reads."""
        self._inverted = {column: InvertedColumn(schema.field(column).type) for column in lookup}

    @property
    def lines(self) -> int:
        return self._heap[1][-1]

    @property
    def bytes(self) -> int:
        return int(sum(chunk.nbytes for chunk in self._heap[0])) + self.where_N.nbytes

    def put(self, rows_B: Slots, records: pa.Table) -> None:
        """Attaches record i to row i; what the row had before is dead.

        Of a row that comes twice the last record counts.
        """
        if not len(rows_B):
            return
        size = int(rows_B.max()) + 1
        if size > len(self.where_N):
            grown = np.full(max(size, 2 * len(self.where_N)), -1, np.int64)
            grown[: len(self.where_N)] = self.where_N
            self.where_N = grown
        chunks, first = list(self._heap[0]), self.lines
        line = first
        # Texts of more than 2 GiB stay several batches: their offsets are 32 bits wide.
        for batch in records.combine_chunks().to_batches():
            rows = rows_B[line - first :][: batch.num_rows]
            for column, inverted in self._inverted.items():
                inverted.add(batch.column(column), rows, line)
            chunks.append(batch)
            line += batch.num_rows
        self._heap = _joined(chunks)
        self.where_N[rows_B] = np.arange(first, first + len(rows_B))
        self.version += 1

    def lines_of(self, rows_B: Slots) -> Slots:
        """The heap lines of rows, −1 where a row has none: what `put_back` takes."""
        lines_B = np.full(len(rows_B), -1, np.int64)
        inside_B = rows_B < len(self.where_N)
        lines_B[inside_B] = self.where_N[rows_B[inside_B]]
        return lines_B

    def put_back(self, rows_B: Slots, lines_B: Slots) -> None:
        """Gives rows the records back that they had."""
        inside_B = rows_B < len(self.where_N)
        self.where_N[rows_B[inside_B]] = lines_B[inside_B]
        self.version += 1

    def take(self, rows_B: Slots, columns: Sequence[str], list_limit: int | None) -> pa.Table:
        """Reads columns of rows; each list is cut to its first `list_limit` items."""
        lines_B = self.where_N[rows_B]
        return take(*self._heap, lines_B, self.schema, columns, list_limit)

    def lookup(
        self,
        column: str,
        values: pa.Array,
        limit: int,
        alive_N: npt.NDArray[np.bool_],
        first_Q: Slots | None = None,
    ) -> tuple[list[Slots], npt.NDArray[np.bool_]]:
        """For each value, the rows alive that hold it now, rising, at most `limit` of them.

        first_Q: for each value, the first row that counts.
        """
        return self._inverted[column].find(values, limit, self.where_N, alive_N, first_Q)

    def heap(self, rows: int) -> tuple[tuple[pa.RecordBatch, ...], Slots]:
        """The heap as it is now, and the line in it of each of the first `rows` rows.

        A row that never had a record has line −1.
        """
        where_N, known = np.full(rows, -1, np.int64), self.where_N[:rows]
        where_N[: len(known)] = known
        return self._heap[0], where_N

    def still(self) -> RecordHeap:
        """The heap as it is now, for `save`; what is put later is not in it."""
        copy = RecordHeap(self.schema, ())
        copy.where_N, copy.version, copy._heap = self.where_N.copy(), self.version, self._heap
        return copy

    def save(self, rows_B: Slots) -> pa.Table:
        """The records of `rows_B` in that order.

        Read block by block, since Arrow lays out at most 2 GiB of text in one batch.
        """
        a_line = max((b.nbytes / b.num_rows for b in self._heap[0] if b.num_rows), default=0.0)
        block = max(1, int(SAVED_BYTES / max(a_line, 1.0)))
        starts = range(0, max(len(rows_B), 1), block)
        parts = (
            self.take(rows_B[start : start + block], self.schema.names, None) for start in starts
        )
        return pa.concat_tables(parts)


def take(
    batches: Sequence[pa.RecordBatch],
    starts: Sequence[int],
    lines_B: Slots,
    schema: pa.Schema,
    columns: Sequence[str],
    list_limit: int | None = None,
) -> pa.Table:
    """Reads columns of lines, in their order; each list is cut to its first `list_limit` items.

    starts: the line that each batch begins at, and the end. Raises `CorruptFile` where there is no
    such line.
    """
    if not len(lines_B):
        return pa.table({n: pa.array([], schema.field(n).type) for n in columns})
    least, most = int(lines_B.min()), int(lines_B.max())
    if not 0 <= least <= most < starts[-1]:
        raise CorruptFile("a row names a record that there is not", hint="memstore verify tells")
    first = bisect_right(starts, least) - 1
    if most < starts[first + 1]:  # As nearly always.
        local_B = lines_B - starts[first]
        taken = [_take(batches[first].column(n), local_B, list_limit) for n in columns]
        return pa.table(taken, names=list(columns))
    batch_B = np.searchsorted(starts, lines_B, side="right") - 1
    parts, order = [], []
    for b, batch in enumerate(batches):
        at = np.flatnonzero(batch_B == b)
        if len(at):
            local = lines_B[at] - starts[b]
            taken = [_take(batch.column(n), local, list_limit) for n in columns]
            parts.append(pa.table(taken, names=list(columns)))
            order.append(at)
    inverse_B = np.empty(len(lines_B), np.int64)
    inverse_B[np.concatenate(order)] = np.arange(len(lines_B))
    return pa.concat_tables(parts).take(inverse_B).combine_chunks()


def _joined(
    chunks: list[pa.RecordBatch],
) -> tuple[tuple[pa.RecordBatch, ...], tuple[int, ...]]:
    """The batches, the youngest joined where they are many; lines keep their numbers."""
    # Joining a batch only with one that is not much larger costs O(log) copies a record.
    while len(chunks) > 1:
        a, b = chunks[-2:]
        crowded = len(chunks) > MAX_CHUNKS or a.num_rows <= b.num_rows
        if not crowded or a.nbytes + b.nbytes > MAX_BATCH_BYTES:
            break
        chunks[-2:] = pa.Table.from_batches([a, b]).combine_chunks().to_batches()
    starts = [0, *np.cumsum([chunk.num_rows for chunk in chunks]).tolist()]
    return tuple(chunks), tuple(starts)


def _take(column: pa.Array, lines_B: Array, list_limit: int | None) -> pa.Array:
    if list_limit is None or not pa.types.is_list(column.type):
        return column.take(pa.array(lines_B))
    offsets = column.offsets.to_numpy()
    starts_B = offsets[lines_B].astype(np.int64)
    counts_B = np.minimum(offsets[lines_B + 1] - starts_B, list_limit)
    ends_B = np.cumsum(counts_B)
    items = np.arange(ends_B[-1] if len(ends_B) else 0)
    items += np.repeat(starts_B - (ends_B - counts_B), counts_B)
    new_offsets = np.concatenate([[0], ends_B]).astype(np.int32)
    return pa.ListArray.from_arrays(new_offsets, pc.take(column.values, pa.array(items)))
