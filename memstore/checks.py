"""Checks arguments once, at the boundary; behind it shapes and dtypes are trusted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memstore.errors import InvalidArgument, NotFinite, UnknownSlot, WrongShape, WrongType
from memstore.memory import Array, Records, Slots


def matrix(name: str, value: Any, *, width: int, dtype: str, rows: int | None = None) -> Array:
    """Returns `value` as a C-contiguous `[rows, width]` array of `dtype`, finite throughout."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise WrongShape(f"{name} is not a matrix", got=str(error)) from error
    if array.dtype.kind not in "fiu":
        raise WrongType(f"{name} has the wrong dtype", got=array.dtype, expected=dtype)
    if array.ndim != 2 or array.shape[1] != width or (rows is not None and len(array) != rows):
        expected = f"({'rows' if rows is None else rows}, {width})"
        raise WrongShape(f"{name} has the wrong shape", got=array.shape, expected=expected)
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype)
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        raise NotFinite(f"{name} holds NaN or infinity", got=f"it in row {row}")
    return array


def slots(value: Any, *, unique: bool = False) -> Slots:
    """Returns `value` as int64 `[B]`; with `unique` no slot may stand twice."""
    array = np.asarray(value)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise WrongType("slots have the wrong dtype", got=array.dtype, expected="int64")
    if array.ndim != 1:
        raise WrongShape("slots have the wrong shape", got=array.shape, expected="(slots,)")
    array = np.ascontiguousarray(array, np.int64)
    if unique and len(array):
        values, counts = np.unique(array, return_counts=True)
        if counts.max() > 1:
            raise InvalidArgument(
                "a slot stands twice in one call",
                got=f"slot {values[counts.argmax()]} {counts.max()} times",
                hint="which of them should win is not defined; keep one",
            )
    return array


def known(slots_B: Slots, alive_B: npt.NDArray[np.bool_], name: str) -> None:
    """Raises `UnknownSlot` unless all are alive."""
    if not alive_B.all():
        missing = slots_B[~alive_B]
        some = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise UnknownSlot(
            f"memory {name!r} has no such slot",
            got=f"{len(missing)} unknown or erased: {some}",
            hint="nothing was changed",
        )


def positive(name: str, value: Any) -> int:
    """Returns `value` if it is an integer ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidArgument(f"{name} is out of range", got=value, expected="an integer ≥ 1")
    return int(value)


def records(value: Records | None, schema: pa.Schema, rows: int) -> pa.Table | None:
    """Returns `value` as a table of exactly `schema`'s columns and `rows` rows, without nulls."""
    if value is None and not len(schema):
        return None
    if value is None:
        raise InvalidArgument("records are missing", expected=f"columns {schema.names}")
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    names = value.column_names if isinstance(value, pa.Table) else list(value)
    if set(names) != set(schema.names) or len(names) != len(schema.names):
        raise InvalidArgument("records have the wrong columns", got=names, expected=schema.names)
    try:
        columns = [_column(value[field.name], field) for field in schema]
        table = pa.table(columns, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise WrongType("records have the wrong type", got=str(error), expected=schema) from error
    if table.num_rows != rows:
        raise WrongShape("records have the wrong length", got=table.num_rows, expected=rows)
    for field, column in zip(schema, table.columns, strict=True):
        inner = pa.types.is_list(field.type) and any(c.values.null_count for c in column.chunks)
        if column.null_count or inner:
            raise InvalidArgument(f"record column {field.name!r} holds nulls", expected="none")
    return table


def _column(value: Any, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return value.cast(field.type)
    return pa.array(value, field.type)
