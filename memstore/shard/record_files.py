"""The files of a shard's records: pieces of the heap, each a table and the row of each line of it.

A checkpoint writes the lines that came since the one before, as a piece more. The youngest pieces
are written anew with it while they are no larger, so that a line is written a logarithm of times
and there are as few pieces; all of them, once most lines on the disk are of rows that have another
record by now, or are gone. Pieces are read from the oldest on: the last line of a row is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from memstore import files
from memstore.disk import DISK, Disk
from memstore.memory import Slots
from memstore.shard.records import RecordHeap

Files = dict[str, files.Fingerprint]
"""Files of one folder by name."""


@dataclass(frozen=True)
class Piece:
    """Lines of the heap from `first` on that are in files, so many, up to those of the next."""

    first: int
    lines: int
    files: Files


@dataclass(frozen=True)
class Pieces:
    """All that are in files of a heap, up to before its line `end`."""

    parts: tuple[Piece, ...] = ()
    end: int = 0

    @property
    def files(self) -> Files:
        return {name: made for piece in self.parts for name, made in piece.files.items()}

    def wasteful(self, live: int, new: int = 0) -> bool:
        """Whether most lines would be of rows that have another record by now, or are gone.

        live: rows that are there.  new: lines that came.
        """
        return new + sum(piece.lines for piece in self.parts) > 2 * live

    def grown(
        self, folder: Path, number: int, heap: RecordHeap, live_R: Slots, disk: Disk = DISK
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
            return Pieces(kept.parts, heap.lines)
        table = heap.save(rows_R)

        def put_table(file: files.NewFile) -> None:
            sink = pa.PythonFile(file, mode="w")
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)

        def put_rows(file: files.NewFile) -> None:
            np.save(cast(Any, file), rows_R, allow_pickle=False)

        made = {
            name: files.make(folder / name, put, disk)
            for name, put in (
                (f"records-{number:08d}.arrow", put_table),
                (f"lines-{number:08d}.npy", put_rows),
            )
        }
        return Pieces((*kept.parts, Piece(kept.end, len(rows_R), made)), heap.lines)

    def _kept(self, lines_R: Slots) -> Pieces:
        """Those that stay as they are.  lines_R: of all rows that are there."""
        parts, end = self.parts, self.end
        new = int(np.count_nonzero(lines_R >= end))
        if self.wasteful(len(lines_R), new):
            return Pieces()
        while parts and parts[-1].lines <= new:
            parts, end = parts[:-1], parts[-1].first
            new = int(np.count_nonzero(lines_R >= end))
        return Pieces(parts, end)


def load(records: RecordHeap, folder: Path, made: Files) -> Pieces:
    """Fills a heap, an empty one; raises `CorruptFile` where a file is not what it was."""
    parts = []
    for names, rows_R, table in read(folder, made, mapped=False):
        parts.append(Piece(records.lines, len(rows_R), {name: made[name] for name in names}))
        records.put(rows_R, table)
    return Pieces(tuple(parts), records.lines)


def read(
    folder: Path, made: Mapping[str, files.Fingerprint], *, mapped: bool
) -> Iterator[tuple[tuple[str, str], Slots, pa.Table]]:
    """The pieces, the oldest first: their files, the row of each line, and the lines.

    mapped: the lines are read where they are asked for. Raises `CorruptFile`.
    """
    files.check_all(folder, made)
    names = list(made)
    for table_file, rows_file in zip(names[::2], names[1::2], strict=True):
        path = str(folder / table_file)
        table = pa.ipc.open_file(pa.memory_map(path) if mapped else pa.OSFile(path)).read_all()
        yield (table_file, rows_file), files.array_of(folder / rows_file), table
