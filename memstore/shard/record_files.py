"""The files of a shard's records: pieces of the heap, each a table and the row of each line of it.

A checkpoint writes the lines that came since the one before, as a piece more, and with it anew the
youngest pieces as long as they are not twice as large: so there is a logarithm of pieces, and a
line that stays its row's own is written as often. All are written anew once most lines on the disk
are of rows that have another record by now, or are gone. Pieces are read from the oldest on: the
last line of a row is its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from memstore import files
from memstore.disk import Disk
from memstore.errors import CorruptFile
from memstore.files import Files
from memstore.memory import Slots
from memstore.shard.records import MAX_BATCH_BYTES, RecordHeap

TABLE, ROWS = "records-{:08d}.arrow", "lines-{:08d}.npy"
"""The two files of a piece, by the number of the checkpoint that wrote it."""


@dataclass(frozen=True)
class Piece:
    """Lines of the heap in files.

    first: the line it begins at; the next piece begins where it ends.  lines: how many of those
    were written, the others being dead then.
    """

    first: int
    lines: int
    files: Files


@dataclass(frozen=True)
class Pieces:
    """All that are in files of a heap, the oldest first, up to before its line `end`."""

    pieces: tuple[Piece, ...] = ()
    end: int = 0

    @property
    def files(self) -> Files:
        return {name: made for piece in self.pieces for name, made in piece.files.items()}

    def wasteful(self, live: int, new: int = 0) -> bool:
        """Whether most lines would be of rows that have another record by now, or are gone.

        live: rows that are there.  new: lines that came.
        """
        return new + sum(piece.lines for piece in self.pieces) > 2 * live

    def grown(
        self, folder: Path, number: int, heap: RecordHeap, live_R: Slots, disk: Disk
    ) -> Pieces:
        """Writes what the heap has and these have not; returns those that there are then.

        number: of the checkpoint.  live_R: the rows that are there.
        """
        if not heap.schema.names:
            return self
        lines_R = heap.where_N[live_R]
        kept = self._kept(lines_R)
        rows_R = live_R[lines_R >= kept.end]
        if not len(rows_R):
            return Pieces(kept.pieces, heap.lines)
        table, rows = TABLE.format(number), ROWS.format(number)
        write_table = functools.partial(_write_table, heap.save(rows_R))
        made = {
            table: files.make(folder / table, write_table, disk),
            rows: files.make(folder / rows, functools.partial(_write_rows, rows_R), disk),
        }
        return Pieces((*kept.pieces, Piece(kept.end, len(rows_R), made)), heap.lines)

    def _kept(self, lines_R: Slots) -> Pieces:
        """Those that stay as they are.  lines_R: of all rows that are there."""
        pieces, end = self.pieces, self.end
        new = int(np.count_nonzero(lines_R >= end))
        if self.wasteful(len(lines_R), new):
            return Pieces()
        while pieces and pieces[-1].lines <= 2 * new:
            pieces, end = pieces[:-1], pieces[-1].first
            new = int(np.count_nonzero(lines_R >= end))
        return Pieces(pieces, end)


def load(records: RecordHeap, folder: Path, made: Files) -> Pieces:
    """Fills a heap, an empty one; raises `CorruptFile` where a file is not what it was.

    Pieces are put together into as few batches as may be, for who reads lines at random.
    """
    pieces, end = list[Piece](), 0
    rows, tables = list[Slots](), list[pa.Table]()
    for of_piece, rows_R, table in read(folder, made, mapped=False):
        pieces.append(Piece(end, len(rows_R), of_piece))
        end += len(rows_R)
        if sum(each.nbytes for each in (*tables, table)) > MAX_BATCH_BYTES and tables:
            records.put(np.concatenate(rows), pa.concat_tables(tables))
            rows, tables = [], []
        rows.append(rows_R)
        tables.append(table)
    if tables:
        records.put(np.concatenate(rows), pa.concat_tables(tables))
    return Pieces(tuple(pieces), end)


def read(
    folder: Path, made: Files, *, mapped: bool = True
) -> Iterator[tuple[Files, Slots, pa.Table]]:
    """The pieces, the oldest first: their files, the row of each line, and the lines.

    mapped: lines are read where they are asked for. Raises `CorruptFile`.
    """
    files.check_all(folder, made)
    numbers = sorted(int(digits) for name in made for digits in re.findall(r"\d+", name)[:1])
    for number in dict.fromkeys(numbers):
        table, rows = TABLE.format(number), ROWS.format(number)
        if not {table, rows} <= made.keys():
            raise CorruptFile(
                f"{folder} has lines of records whose rows are not named, or the other way round",
                got=sorted(made),
                expected=f"{table} and {rows}",
            )
        with (pa.memory_map if mapped else pa.OSFile)(str(folder / table)) as source:
            lines = pa.ipc.open_file(source).read_all()
        yield {name: made[name] for name in (table, rows)}, files.array_of(folder / rows), lines


def _write_table(table: pa.Table, file: files.NewFile) -> None:
    sink = pa.PythonFile(file, mode="w")
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _write_rows(rows_R: Slots, file: files.NewFile) -> None:
    np.save(cast(Any, file), rows_R, allow_pickle=False)
