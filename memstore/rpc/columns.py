"""Rows as Arrow columns: what a batch of `Load` and `Export` holds, and how it becomes arrays.

    schema = schema_of(config)                    key, value, the record columns
    data = to_batch(table_of(keys, values, records, config))
    keys, values, records = parts_of(from_batch(data, schema), config)

Columns go by their place, not by their name, so a record column may be called `key`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from memstore.config import MemoryConfig
from memstore.dtypes import BFLOAT16, storage
from memstore.errors import InvalidArgument, MemstoreError, WrongType
from memstore.memory import Array, Rows
from memstore.rpc import arrow

KEY, VALUE, SLOT, GENERATION = "key", "value", "slot", "generation"

Parts = tuple[Array | None, Array | None, pa.Table | None]
"""Keys, values and records, as a verb takes them."""


def schema_of(config: MemoryConfig) -> pa.Schema:
    """The columns of a batch that is loaded."""
    vectors = [] if config.encoding is not None else vector_fields(config)
    return pa.schema([*vectors, *config.schema])


def vector_fields(config: MemoryConfig) -> list[pa.Field]:
    """The columns of keys and values."""
    widths = {KEY: config.dim} | ({} if config.value_dim is None else {VALUE: config.value_dim})
    return [pa.field(name, _kind(config, width)) for name, width in widths.items()]


def _kind(config: MemoryConfig, width: int) -> pa.DataType:
    dtype = storage(config.dtype)
    if dtype == BFLOAT16:
        return pa.binary(dtype.itemsize * width)
    return pa.list_(pa.from_numpy_dtype(dtype), width)


def to_column(rows_BX: Array) -> pa.Array:
    """Rows of a memory's dtype as an Arrow array over the same bytes."""
    rows_BX = np.ascontiguousarray(rows_BX)
    count, width = rows_BX.shape
    if rows_BX.dtype == BFLOAT16:
        data = pa.py_buffer(rows_BX.view(np.uint8))
        return pa.Array.from_buffers(pa.binary(2 * width), count, [None, data])
    return pa.FixedSizeListArray.from_arrays(pa.array(rows_BX.reshape(-1)), width)


def from_column(column: pa.Array) -> Array:
    """The array over the bytes of a column that `to_column` could have made."""
    if isinstance(column, pa.FixedSizeBinaryArray):
        width = column.type.byte_width // BFLOAT16.itemsize
        flat = np.frombuffer(column.buffers()[1], BFLOAT16)
        first = column.offset * width
        return flat[first : first + len(column) * width].reshape(len(column), width)
    numbers: Array = column.flatten().to_numpy()
    return numbers.reshape(len(column), column.type.list_size)


def table_of(
    keys_BD: Array | None,
    values_BV: Array | None,
    records: pa.Table | None,
    before: Sequence[tuple[str, pa.Array]] = (),
) -> pa.Table:
    """A table of these columns, in the order of a batch."""
    columns = [*before]
    for name, rows_BX in ((KEY, keys_BD), (VALUE, values_BV)):
        if rows_BX is not None:
            columns.append((name, to_column(rows_BX)))
    if records is not None:
        columns.extend(zip(records.schema.names, records.columns, strict=True))
    return pa.table([column for _, column in columns], names=[name for name, _ in columns])


def exported(rows: Rows) -> pa.Table:
    """The columns of a batch that is exported."""
    before = [(SLOT, pa.array(rows.slots_B)), (GENERATION, pa.array(rows.generations_B))]
    return table_of(rows.keys_BD, rows.values_BV, rows.records, before)


def to_batch(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_batch(data: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """Reads a batch, over its own bytes; raises `WrongType` where it is none.

    schema: the columns that it must have, which are looked at before anything is read; None takes
    those of a server.
    """
    try:
        source = pa.py_buffer(data)
        with pa.ipc.open_stream(source) as reader:
            if schema is not None and not _alike(reader.schema, schema):
                raise WrongType(
                    "a batch has the wrong columns",
                    got=_told(reader.schema),
                    expected=_told(schema),
                )
            if any(map(arrow.is_compressed, pa.ipc.MessageReader.open_stream(source))):
                raise WrongType(
                    "a batch is compressed: nobody knows how much it is before it is unpacked",
                    expected="an Arrow IPC stream without compression",
                )
            table = reader.read_all()
        table.validate(full=True)
    except MemstoreError:
        raise
    except arrow.UNREADABLE as error:
        raise WrongType(
            "a batch is no Arrow IPC stream", got=f"{len(data)} bytes: {error}"
        ) from error
    return table.combine_chunks()


def whole_batch(table: pa.Table) -> pa.RecordBatch:
    """A table as one batch, if an empty one."""
    arrays = [_whole(column) for column in table.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


def parts_of(table: pa.Table, config: MemoryConfig) -> Parts:
    """What a table of the columns of `schema_of` holds; raises `InvalidArgument` on nulls."""
    names = [] if config.encoding is not None else [f.name for f in vector_fields(config)]
    vectors: list[Array | None] = []
    for place, name in enumerate(names):
        column = _whole(table.column(place))
        lists = pa.types.is_fixed_size_list(column.type)
        if column.null_count or (lists and column.flatten().null_count):
            raise InvalidArgument(f"column {name!r} holds nulls", expected="none")
        vectors.append(from_column(column))
    keys_BD, values_BV = (*vectors, None, None)[:2]
    columns = table.columns[len(names) :]
    records = pa.table(columns, names=config.schema.names) if columns else None
    return keys_BD, values_BV, records


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        return pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    return whole


def _alike(got: pa.Schema, expected: pa.Schema) -> bool:
    """Whether columns have the same names and types, in order; whether null may be, data says."""
    return [(f.name, _bare(f.type)) for f in got] == [(f.name, _bare(f.type)) for f in expected]


def _bare(kind: pa.DataType) -> pa.DataType:
    """A type without the name of its items, which Arrow takes for a part of it."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_bare(kind.value_type), kind.list_size)
    return pa.list_(_bare(kind.value_type)) if pa.types.is_list(kind) else kind


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name[:64]} {str(field.type)[:64]}" for field in schema)[:500]
