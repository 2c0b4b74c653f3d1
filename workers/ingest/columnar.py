"""Parquet and Arrow files: columns named subject, relation and object, or the first three.

A piece is some row groups of a Parquet file, some batches of an Arrow file, or an Arrow stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workers.ingest.blocks import FIELDS, Block, Rejects, block
from workers.ingest.errors import SourceError

ROWS = 8_192
"""Decoded at a time: how long their texts are is seen only then."""


def cuts(path: Path, form: str, block_bytes: int) -> list[tuple[int, int]]:
    """The pieces, from row group to row group, or batch to batch; raises `SourceError`."""
    try:
        if form == "parquet":
            metadata = pq.ParquetFile(path).metadata
            count = metadata.num_row_groups
            size = sum(metadata.row_group(i).total_byte_size for i in range(count))
        else:
            with pa.memory_map(str(path)) as file:
                count, size = pa.ipc.open_file(file).num_record_batches, file.size()
    except (pa.ArrowInvalid, OSError) as error:
        if form == "arrow" and _is_stream(path):
            return [(0, 0)]
        raise _unreadable(path, form, error) from error
    step = max(1, count * block_bytes // max(size, 1))
    return [(first, min(first + step, count)) for first in range(0, count, step)]


def chunks(
    path: Path, form: str, columns: tuple[str, ...], start: int, end: int, block_bytes: int
) -> Iterator[pa.Table]:
    """Three columns of a piece, about `block_bytes` at a time; raises `SourceError`."""
    try:
        if form == "parquet":
            # What is read ahead is a page, not a row group.
            with pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
                names = chosen(path, file.schema_arrow, columns)
                groups = list(range(start, end))
                yield from _gathered(
                    file.iter_batches(ROWS, groups, names, use_threads=False), names, block_bytes
                )
            return
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_stream(source) if end == 0 else pa.ipc.open_file(source)
            names = chosen(path, reader.schema, columns)
            batches = reader if end == 0 else map(reader.get_batch, range(start, end))
            yield from _gathered(batches, names, block_bytes)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, form, error) from error


def parse(table: pa.Table, separator: str) -> Block:
    """Takes the rows of a chunk whose fields are there."""
    return block(table.columns, len(table), Rejects(), lambda row: row + 1, separator)


def chosen(path: Path, schema: pa.Schema, columns: tuple[str, ...]) -> list[str]:
    """The names of the three columns; raises `SourceError` where they are not there."""
    there = schema.names
    if not columns:
        by_name = (*FIELDS[:2], "objects" if "objects" in there else "object")
        columns = by_name if set(by_name) <= set(there) else tuple(there[:3])
    if len(columns) != 3 or not set(columns) <= set(there):
        wanted = f"the columns {list(columns)}" if len(columns) == 3 else "three columns"
        raise SourceError(path, None, f"columns {there}", wanted, "name them by `columns`")
    return list(columns)


def _gathered(
    batches: Iterable[pa.RecordBatch], names: list[str], block_bytes: int
) -> Iterator[pa.Table]:
    held, size = list[pa.RecordBatch](), 0
    for batch in batches:
        batch = batch.select(names)
        # A batch of a file may be of any length; slices of it share its bytes.
        rows = max(1, batch.num_rows * block_bytes // max(batch.nbytes, 1))
        for first in range(0, batch.num_rows, rows):
            part = batch.slice(first, rows)
            held.append(part)
            size += part.nbytes
            if size >= block_bytes:
                yield pa.Table.from_batches(held)
                held, size = [], 0
    if held:
        yield pa.Table.from_batches(held)


def _is_stream(path: Path) -> bool:
    try:
        with pa.memory_map(str(path)) as file:
            pa.ipc.open_stream(file)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _unreadable(path: Path, form: str, error: Exception) -> SourceError:
    text = str(error).splitlines()[0]
    return SourceError(path, None, text, f"a whole {form} file", "make or fetch it anew")
