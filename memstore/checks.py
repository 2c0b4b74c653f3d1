"""Checks arguments once, at the boundary; behind it shapes and dtypes are trusted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memstore.dtypes import FLOAT16, LOW
from memstore.errors import InvalidArgument, NotFinite, UnknownSlot, WrongShape, WrongType
from memstore.filters import Compare, Filter
from memstore.kernels.half import wide
from memstore.kernels.magnitude import magnitude
from memstore.memory import NO_SLOT, Array, Records, Slots

LARGEST = 1e15
"""Magnitude that no number given may pass: sums of 10^8 products of two such stay finite in
float32, so neither a score nor a cluster can overflow."""

LARGEST_FLOAT16 = 65_504.0
"""Nor that one, the largest float16, where rows are of it."""


def largest(dtype: npt.DTypeLike) -> float:
    """Magnitude that no number of a row may pass."""
    return LARGEST_FLOAT16 if dtype == FLOAT16 else LARGEST


def matrix(
    name: str, value: Any, *, width: int, dtype: npt.DTypeLike, rows: int | None = None
) -> Array:
    """Returns `value` as a C-contiguous `[rows, width]` array of `dtype`, finite throughout.

    What `dtype` cannot hold exactly is rounded to the nearest, ties to even.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise WrongShape(f"{name} is not a matrix", got=str(error)) from error
    if array.dtype.kind not in "fiu" and array.dtype not in LOW:
        raise WrongType(f"{name} has the wrong dtype", got=array.dtype, expected=dtype)
    if array.ndim != 2 or array.shape[1] != width or (rows is not None and len(array) != rows):
        expected = f"({'rows' if rows is None else rows}, {width})"
        raise WrongShape(f"{name} has the wrong shape", got=array.shape, expected=expected)
    most, numbers = largest(dtype), wide(array)
    if numbers.dtype.kind != "f":
        numbers = numbers.astype(np.float64)
    # NaN fails every comparison.
    if not magnitude(numbers) <= most:
        row = int(np.argmin((np.abs(numbers) <= most).all(axis=1)))
        raise NotFinite(
            f"{name} holds NaN, infinity or a number too large to score",
            got=f"it in row {row}",
            expected=f"numbers of magnitude ≤ {most:g}",
        )
    return np.ascontiguousarray(array, dtype)


def slots(value: Any, *, unique: bool = False) -> Slots:
    """Returns `value` as int64 `[B]`; with `unique` no slot may stand twice."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise WrongShape("slots are not a list", got=str(error)) from error
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


def cursor(value: Any, length: int) -> Slots:
    """Returns `value` as int64 `[length]`, each ≥ 0 or `NO_SLOT`."""
    first_Q = slots(value)
    if len(first_Q) != length:
        raise WrongShape(
            "the cursor has the wrong length",
            got=len(first_Q),
            expected=length,
            hint="a cursor goes with the values that it was given for",
        )
    if first_Q.min(initial=0) < NO_SLOT:
        raise InvalidArgument("the cursor is out of range", got=first_Q.min(), expected="≥ −1")
    return first_Q


def known(slots_B: Slots, alive_B: npt.NDArray[np.bool_], name: str) -> None:
    """Raises `UnknownSlot` unless all are alive; a read and a change are told the same."""
    if not alive_B.all():
        missing = slots_B[~alive_B]
        some = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise UnknownSlot(
            f"memory {name!r} has no such slot",
            got=f"{len(missing)} unknown or erased: {some}",
            expected="slots that were given out, and not erased",
        )


def positive(name: str, value: Any) -> int:
    """Returns `value` if it is an integer ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidArgument(f"{name} is out of range", got=repr(value), expected="an integer ≥ 1")
    return int(value)


def rate(value: Any) -> float:
    """Returns `value` if it can be a learning rate: 0 ≤ lr ≤ `LARGEST`."""
    number = isinstance(value, int | float | np.integer | np.floating)
    if not number or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise InvalidArgument("lr is out of range", got=repr(value), expected=f"0 to {LARGEST:g}")
    return float(value)


def decay(lr: float, weight_decay: float) -> None:
    """Raises `InvalidArgument` if decay would carry rows past zero, and further at each step."""
    if lr * weight_decay > 1:
        raise InvalidArgument(
            "lr is too large for the weight decay",
            got=f"lr {lr:g} with weight_decay {weight_decay:g}",
            expected=f"lr ≤ {1 / weight_decay:g}",
        )


def step(grads_BX: Array | None, lr: float) -> None:
    """Raises `NotFinite` if gradients, summed and scaled, might throw a row beyond `LARGEST`."""
    if grads_BX is None or not grads_BX.size:
        return
    reach = magnitude(grads_BX) * len(grads_BX) * max(lr, 1.0)
    if reach > LARGEST:
        raise NotFinite(
            "the step is too large",
            got=f"gradients that may sum to {reach:g} with lr {lr:g}",
            expected=f"≤ {LARGEST:g}",
            hint="clip the gradients or lower lr",
        )


def reach(magnitude: float, dtype: npt.DTypeLike) -> None:
    """Raises `NotFinite` if rows might come out larger than `largest`."""
    if magnitude > largest(dtype):
        raise NotFinite(
            "the rows would be too large to score",
            got=f"{magnitude:g}",
            expected=f"≤ {largest(dtype):g}",
        )


def records(value: Records | None, schema: pa.Schema, rows: int | None) -> pa.Table | None:
    """Returns `value` as a table of exactly `schema`'s columns, without nulls.

    rows: how many records there must be; None takes them as they come.
    """
    if value is None and not len(schema):
        return None
    if value is None:
        raise InvalidArgument("records are missing", expected=f"columns {schema.names}")
    if not isinstance(value, pa.Table | pa.RecordBatch | Mapping):
        raise WrongType(
            "records have the wrong type",
            got=type(value).__name__,
            expected="an Arrow table, or a mapping of columns",
        )
    names = list(value) if isinstance(value, Mapping) else value.schema.names
    if set(names) != set(schema.names) or len(names) != len(schema.names):
        raise InvalidArgument("records have the wrong columns", got=names, expected=schema.names)
    columns = [column(f"record column {f.name!r}", value[f.name], f.type) for f in schema]
    lengths = {len(c) for c in columns} | ({rows} if rows is not None else set())
    if len(lengths) > 1:
        got = {name: len(c) for name, c in zip(schema.names, columns, strict=True)}
        raise WrongShape("records have the wrong length", got=got, expected=rows or "equal lengths")
    return pa.table(columns, schema=schema)


def column(name: str, value: Any, kind: pa.DataType) -> pa.Array:
    """Returns `value` as one Arrow array of `kind`, if nothing is lost by it.

    Raises `WrongType` where a number would be cut or a text taken for a list, `InvalidArgument`
    on nulls.
    """
    try:
        array = value if isinstance(value, pa.Array | pa.ChunkedArray) else _inferred(value)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if array.type != kind:
            if not _akin(array.type, kind):
                raise WrongType(f"{name} has the wrong type", got=array.type, expected=kind)
            array = array.cast(kind)
        # Sliced arrays keep the offsets and the items of their whole: lay them out anew.
        array = pa.concat_arrays([array]) if array.offset else array
    except WrongType:
        raise
    # Arrow's own errors are ValueError, TypeError and NotImplementedError.
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise WrongType(f"{name} has the wrong type", got=str(error), expected=kind) from error
    if array.null_count or (pa.types.is_list(kind) and array.flatten().null_count):
        raise InvalidArgument(f"{name} holds nulls", expected="none")
    return array


@lru_cache(maxsize=64)
def filter_columns(tree: Filter, schema: pa.Schema) -> None:
    """Raises unless the columns of a filter are there and its values are of their types.

    Raises `InvalidArgument` on an unknown column, `WrongType` on a value or comparison that does
    not fit, as texts for an int64 column or `<` for a list column.
    """
    for leaf in tree.leaves():
        if leaf.column not in schema.names:
            raise InvalidArgument(
                "no such record column to filter by",
                got=repr(leaf.column),
                expected=f"among {schema.names}",
            )
        kind = schema.field(leaf.column).type
        several = pa.types.is_list(kind)
        if isinstance(leaf, Compare):
            fits = ("==",) if several else ("==", "!=") if pa.types.is_boolean(kind) else None
            if fits is not None and leaf.op not in fits:
                raise WrongType(
                    f"column {leaf.column!r} of {kind} has no such comparison",
                    got=leaf.op,
                    expected=f"among {fits}, or In",
                    hint="~(field == value) means that no item is the value" if several else "",
                )
        given = (leaf.value,) if isinstance(leaf, Compare) else leaf.values
        values = column(
            f"filter column {leaf.column!r}", given, kind.value_type if several else kind
        )
        if pa.types.is_floating(values.type) and not np.isfinite(values.to_numpy()).all():
            raise WrongType(f"filter column {leaf.column!r} holds no such number", expected=kind)


def _inferred(value: Any) -> pa.Array:
    if isinstance(value, str | bytes):
        raise TypeError(f"{value!r} is one text, not a column of values")
    return pa.array(value)


def _akin(got: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type can be meant as values of the other."""
    if pa.types.is_null(got):
        return True
    lists = [pa.types.is_list(t) or pa.types.is_large_list(t) for t in (got, wanted)]
    if any(lists):
        return all(lists) and _akin(got.value_type, wanted.value_type)
    families = (
        lambda t: pa.types.is_integer(t) or pa.types.is_floating(t),
        lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        pa.types.is_boolean,
    )
    return any(family(got) and family(wanted) for family in families)


def vector(name: str, value: Any, *, dtype: npt.DTypeLike, rows: int) -> Array:
    """Returns `value` as `[rows]` of `dtype`, finite throughout."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise WrongShape(f"{name} is not a list", got=str(error)) from error
    if array.ndim != 1 or len(array) != rows:
        raise WrongShape(f"{name} has the wrong shape", got=array.shape, expected=f"({rows},)")
    return matrix(name, array[:, None], width=1, dtype=dtype, rows=rows)[:, 0]


def step_number(value: Any) -> int | None:
    """Returns `value` if it is None or an integer from 0 to 2^53, which a float64 holds."""
    if value is None:
        return None
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 0 <= value <= 2**53:
        raise InvalidArgument("step is out of range", got=repr(value), expected="0 to 2^53")
    return int(value)


def share(name: str, array: Array) -> Array:
    """Returns `array` if all of it lies between 0 and 1."""
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        outside = array[(array < 0) | (array > 1)].flat[0]
        raise InvalidArgument(f"{name} are out of range", got=outside, expected="0 to 1")
    return array
