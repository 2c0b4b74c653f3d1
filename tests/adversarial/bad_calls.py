"""Calls that a memory refuses, each with its error: any verb with all that may be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memstore import Filter, Memory, SearchOptions, field
from memstore.errors import (
    InvalidArgument,
    MemstoreError,
    NotFinite,
    UnknownSlot,
    Unsupported,
    WrongShape,
    WrongType,
)
from tests.adversarial.stores import ERASED, EXACT, ROWS, fact, keys, records, values

SEVEN = field("number") == 7


# One entry a bad call: the verb and what is wrong, the error, the call.
Call = Callable[[Memory], Any]
MOST = np.iinfo(np.int64).max

WRONG_MATRICES: list[tuple[str, type[MemstoreError], Any]] = [
    ("rank 1", WrongShape, keys()[0]),
    ("rank 3", WrongShape, keys()[None]),
    ("rank 0", WrongShape, np.float32(1)),
    ("too wide", WrongShape, keys(width=5)),
    ("too narrow", WrongShape, keys(width=1)),
    ("no width", WrongShape, keys(width=0)),
    ("ragged", WrongShape, [[1.0, 2.0, 3.0], [1.0]]),
    ("bools", WrongType, keys(dtype=bool)),
    ("complex", WrongType, keys(dtype=complex)),
    ("text", WrongType, [["a", "b", "c"]]),
    ("objects", WrongType, np.array([[None, None, None]])),
    ("dates", WrongType, keys(dtype="datetime64[s]")),
    ("NaN", NotFinite, keys(fill=np.nan)),
    ("infinity", NotFinite, keys(fill=np.inf)),
    ("−infinity", NotFinite, keys(fill=-np.inf)),
    ("float32 overflow", NotFinite, keys(dtype=np.float64, fill=1e300)),
]
MATRIX_VERBS: list[tuple[str, Callable[[Memory, Any], Any]]] = [
    ("append", lambda m, x: m.append(x, values(), records())),
    ("append values", lambda m, x: m.append(keys(), _as_values(x), records())),
    ("write", lambda m, x: m.write([0], x)),
    ("write values", lambda m, x: m.write([0], keys(), _as_values(x))),
    ("update", lambda m, x: m.update([0], x)),
    ("update values", lambda m, x: m.update([0], keys(), _as_values(x))),
    ("search", lambda m, x: m.search(x, 1)),
    ("search exactly", lambda m, x: m.search(x, 1, EXACT)),
]


def _length(slots: Any) -> int:
    return len(slots) if isinstance(slots, list) else int(np.size(slots))


def _as_values(matrix: Any) -> Any:
    """The same mistake in a matrix of values, which are one narrower than keys."""
    narrowed = matrix[..., 1:] if isinstance(matrix, np.ndarray) and matrix.ndim else matrix
    return [row[:-1] for row in matrix] if isinstance(matrix, list) else narrowed


WRONG_SLOTS: list[tuple[str, type[MemstoreError], Any]] = [
    ("unknown", UnknownSlot, [ROWS]),
    ("erased", UnknownSlot, [ERASED]),
    ("negative", UnknownSlot, [-1]),
    ("one of two", UnknownSlot, [0, ROWS + 1]),
    ("huge", UnknownSlot, [MOST]),
    ("lowest", UnknownSlot, [np.iinfo(np.int64).min]),
    ("above int64", UnknownSlot, [2**63]),
    ("above uint64", WrongType, [2**70]),
    ("floats", WrongType, [0.0]),
    ("bools", WrongType, [True]),
    ("text", WrongType, ["0"]),
    ("nothing", WrongType, [None]),
    ("rank 0", WrongShape, 0),
    ("rank 2", WrongShape, [[0]]),
    ("empty of rank 2", WrongShape, np.zeros((0, 2), int)),
    ("ragged", WrongShape, [[0], [1, 2]]),
]
SLOT_VERBS: list[tuple[str, Callable[[Memory, Any], Any]]] = [
    ("write at", lambda m, s: m.write(s, keys(_length(s)))),
    ("update at", lambda m, s: m.update(s, keys(_length(s)))),
    ("erase at", lambda m, s: m.erase(s)),
    ("gather at", lambda m, s: m.gather(s)),
    ("gather records at", lambda m, s: m.gather(s, vectors=False, columns=["name"])),
]

WRONG_RECORDS: list[tuple[str, type[MemstoreError], Any]] = [
    ("missing", InvalidArgument, None),
    ("empty", InvalidArgument, {}),
    ("missing column", InvalidArgument, {n: c for n, c in records().items() if n != "name"}),
    ("extra column", InvalidArgument, records(extra=[1])),
    ("misnamed column", InvalidArgument, {n.upper(): c for n, c in records().items()}),
    ("too few", InvalidArgument, records(0)),
    ("too many", WrongShape, records(2)),
    ("uneven", InvalidArgument, records(name=["a", "b"])),
    ("null", InvalidArgument, records(name=[None])),
    ("null list", InvalidArgument, records(tags=[None])),
    ("null in a list", InvalidArgument, records(tags=[["a", None]])),
    ("NaN for an integer", WrongType, records(number=[float("nan")])),
    ("text for an integer", WrongType, records(number=["7"])),
    ("fraction for an integer", WrongType, records(number=[7.5])),
    ("int32 overflow", WrongType, records(small=[2**40])),
    ("int64 overflow", WrongType, records(number=[2**63])),
    ("huge integer", WrongType, records(number=[2**70])),
    ("integer for text", WrongType, records(name=[7])),
    ("integer for a list", WrongType, records(tags=[7])),
    ("text for a list", WrongType, records(tags=["ab"])),
    ("list of integers", WrongType, records(tags=[[1]])),
    ("surrogate", WrongType, records(name=["\ud800"])),
    ("not UTF-8", WrongType, records(name=[b"\xff"])),
    ("no column", WrongType, records(number=7)),
    ("array of rank 2", WrongType, records(number=np.zeros((1, 1), int))),
    ("arrow of another type", WrongType, records(number=pa.array([[1]]))),
    ("arrow null", InvalidArgument, records(number=pa.nulls(1, pa.int64()))),
    ("a list", InvalidArgument, [1]),
    ("a number", InvalidArgument, 1),
    ("columns twice", InvalidArgument, pa.table([[1], [1]], names=["number", "number"])),
]
RECORD_VERBS: list[tuple[str, Callable[[Memory, Any], Any]]] = [
    ("append", lambda m, r: m.append(keys(), values(), r)),
    ("write", lambda m, r: m.write([0], keys(), values(), r)),
]

ODD_CALLS: list[tuple[str, type[MemstoreError], Call]] = [
    ("append no keys", InvalidArgument, lambda m: m.append(None, values(), records())),
    ("append no values", InvalidArgument, lambda m: m.append(keys(), None, records())),
    ("append fewer values", WrongShape, lambda m: m.append(keys(2), values(1), records(2))),
    ("append fewer records", WrongShape, lambda m: m.append(keys(2), values(2), records(1))),
    ("write nothing", InvalidArgument, lambda m: m.write([0])),
    ("write fewer keys", WrongShape, lambda m: m.write([0, 1], keys(1))),
    ("write fewer values", WrongShape, lambda m: m.write([0, 1], keys(2), values(1))),
    ("write fewer records", WrongShape, lambda m: m.write([0, 1], records=records(1))),
    ("write a slot twice", InvalidArgument, lambda m: m.write([0, 1, 0], keys(3))),
    ("erase a slot twice", InvalidArgument, lambda m: m.erase([1, 0, 1])),
    ("update nothing", InvalidArgument, lambda m: m.update([0])),
    ("update fewer", WrongShape, lambda m: m.update([0, 1], keys(1))),
    ("update fewer values", WrongShape, lambda m: m.update([0, 1], keys(2), values(1))),
    ("lr NaN", InvalidArgument, lambda m: m.update([0], keys(), lr=np.nan)),
    ("lr infinite", InvalidArgument, lambda m: m.update([0], keys(), lr=np.inf)),
    ("lr negative", InvalidArgument, lambda m: m.update([0], keys(), lr=-0.1)),
    ("lr text", InvalidArgument, lambda m: m.update([0], keys(), lr="1")),  # type: ignore[arg-type]
    ("lr above float32", InvalidArgument, lambda m: m.update([0], keys(), lr=1e300)),
    ("k zero", InvalidArgument, lambda m: m.search(keys(), 0)),
    ("k negative", InvalidArgument, lambda m: m.search(keys(), -1)),
    ("k bool", InvalidArgument, lambda m: m.search(keys(), True)),
    ("k fraction", InvalidArgument, lambda m: m.search(keys(), 1.0)),  # type: ignore[arg-type]
    ("k oversized", InvalidArgument, lambda m: m.search(keys(), 2049)),
    ("k huge", InvalidArgument, lambda m: m.search(keys(), MOST)),
    ("probe zero", InvalidArgument, lambda m: m.search(keys(), 1, SearchOptions(probe=0))),
    ("probe negative", InvalidArgument, lambda m: m.search(keys(), 1, SearchOptions(probe=-1))),
    ("probe bool", InvalidArgument, lambda m: m.search(keys(), 1, SearchOptions(probe=True))),
    ("probe fraction", InvalidArgument, lambda m: _search_with(m, probe=1.5)),
    ("probe text", InvalidArgument, lambda m: _search_with(m, probe="1")),
    ("recall out of range", InvalidArgument, lambda m: _search_with(m, recall_target=1.5)),
    ("recall and probe", InvalidArgument, lambda m: _search_with(m, recall_target=0.9, probe=1)),
    ("exact and recall", InvalidArgument, lambda m: _search_with(m, recall_target=0.9, exact=True)),
    ("exact and probe", InvalidArgument, lambda m: _search_with(m, probe=1, exact=True)),
    (
        "exact and clusters",
        InvalidArgument,
        lambda m: _search_with(m, exact=True, sample_clusters=1),
    ),
    ("union a number", InvalidArgument, lambda m: _search_with(m, union=1)),
    ("clusters negative", InvalidArgument, lambda m: _search_with(m, sample_clusters=-1)),
    ("random negative", InvalidArgument, lambda m: _search_with(m, sample_random=-1)),
    ("random fraction", InvalidArgument, lambda m: _search_with(m, sample_random=0.5)),
    ("random huge", InvalidArgument, lambda m: _search_with(m, sample_random=2**63)),
    ("seed negative", InvalidArgument, lambda m: _search_with(m, sample_random=1, seed=-1)),
    ("seed text", InvalidArgument, lambda m: _search_with(m, sample_random=1, seed="1")),
    ("gather no such column", InvalidArgument, lambda m: m.gather([0], columns=["extra"])),
    ("gather limit zero", InvalidArgument, lambda m: m.gather([0], list_limit=0)),
    ("gather limit bool", InvalidArgument, lambda m: m.gather([0], list_limit=True)),
    ("lookup no such column", InvalidArgument, lambda m: m.lookup("extra", [1], 1)),
    ("lookup limit zero", InvalidArgument, lambda m: m.lookup("number", [1], 0)),
    ("lookup limit negative", InvalidArgument, lambda m: m.lookup("number", [1], -1)),
    ("lookup limit bool", InvalidArgument, lambda m: m.lookup("number", [1], True)),
    ("lookup text", WrongType, lambda m: m.lookup("number", ["7"], 1)),
    ("lookup fraction", WrongType, lambda m: m.lookup("number", [7.5], 1)),
    ("lookup integer", WrongType, lambda m: m.lookup("name", [7], 1)),
    ("lookup int32 overflow", WrongType, lambda m: m.lookup("small", [2**40], 1)),
    ("lookup huge", WrongType, lambda m: m.lookup("number", [2**70], 1)),
    ("lookup null", InvalidArgument, lambda m: m.lookup("name", [None], 1)),
    ("lookup lists", WrongType, lambda m: m.lookup("tags", [["a"]], 1)),
    ("lookup arrow lists", WrongType, lambda m: m.lookup("number", pa.array([[1]]), 1)),
    ("lookup a number", WrongType, lambda m: m.lookup("number", 7, 1)),  # type: ignore[arg-type]
    ("lookup surrogate", WrongType, lambda m: m.lookup("name", ["\ud800"], 1)),
    ("cursor short", WrongShape, lambda m: m.lookup("number", [7, 8], 1, [0])),
    ("cursor of fractions", WrongType, lambda m: m.lookup("number", [7], 1, np.array([0.5]))),
    ("cursor negative", InvalidArgument, lambda m: m.lookup("number", [7], 1, [-2])),
    ("cursor scalar", WrongShape, lambda m: m.lookup("number", [7], 1, np.int64(3))),  # type: ignore[arg-type]
    ("filter a dict", WrongType, lambda m: _search_with(m, filter={"op": "=="})),
    ("filter no such column", InvalidArgument, lambda m: _filtered(m, field("extra") == 1)),
    ("filter text", WrongType, lambda m: _filtered(m, field("number") == "7")),
    ("filter bool", WrongType, lambda m: _filtered(m, field("number") == True)),  # noqa: E712
    ("filter fraction", WrongType, lambda m: _filtered(m, field("number") == 7.5)),
    ("filter int32 overflow", WrongType, lambda m: _filtered(m, field("small") < 2**40)),
    ("filter integer", WrongType, lambda m: _filtered(m, field("name") == 7)),
    ("filter surrogate", WrongType, lambda m: _filtered(m, field("name") == "\ud800")),
    ("filter In text", WrongType, lambda m: _filtered(m, field("number").is_in(["7"]))),
    ("filter list by <", WrongType, lambda m: _filtered(m, field("tags") < "a")),
    ("filter list by !=", WrongType, lambda m: _filtered(m, field("tags") != "a")),
    ("filter deep inside", WrongType, lambda m: _filtered(m, ~(field("number") == "7") & SEVEN)),
    ("filter by an operator", WrongType, lambda m: _filtered(m, SEVEN and SEVEN)),
    ("refresh a plain memory", Unsupported, lambda m: m.refresh()),
]

ENCODED_CALLS: list[tuple[str, type[MemstoreError], Call]] = [
    ("append keys", InvalidArgument, lambda m: m.append(keys(), records=fact())),
    ("append values", InvalidArgument, lambda m: m.append(None, values(), fact())),
    ("append nothing", InvalidArgument, lambda m: m.append()),
    ("append unknown subject", UnknownSlot, lambda m: m.append(records=fact(subject=[4]))),
    ("append negative subject", UnknownSlot, lambda m: m.append(records=fact(subject=[-1]))),
    ("append unknown relation", UnknownSlot, lambda m: m.append(records=fact(relation=[9]))),
    ("append unknown object", UnknownSlot, lambda m: m.append(records=fact(objects=[[0, 4]]))),
    ("append uneven", InvalidArgument, lambda m: m.append(records=fact(relation=[1, 1]))),
    ("append a null", InvalidArgument, lambda m: m.append(records=fact(objects=[[None]]))),
    ("append a number", InvalidArgument, lambda m: m.append(records=7)),
    ("write keys", InvalidArgument, lambda m: m.write([0], keys(), records=fact())),
    ("write nothing", InvalidArgument, lambda m: m.write([0])),
    ("write unknown slot", UnknownSlot, lambda m: m.write([6], records=fact())),
    ("write unknown subject", UnknownSlot, lambda m: m.write([0], records=fact(subject=[4]))),
    ("write unknown object", UnknownSlot, lambda m: m.write([0], records=fact(objects=[[4]]))),
    ("update", Unsupported, lambda m: m.update([0], keys())),
    ("erase unknown", UnknownSlot, lambda m: m.erase([6])),
    ("gather unknown", UnknownSlot, lambda m: m.gather([6])),
    ("lookup undeclared", InvalidArgument, lambda m: m.lookup("relation", [1], 1)),
    ("refresh zero", InvalidArgument, lambda m: m.refresh(0)),
    ("refresh bool", InvalidArgument, lambda m: m.refresh(True)),
    ("search too wide", WrongShape, lambda m: m.search(keys(width=4), 1)),
]


def _filtered(memory: Memory, tree: Filter) -> Any:
    return memory.search(keys(), 1, SearchOptions(filter=tree))


def _search_with(memory: Memory, **options: Any) -> Any:
    return memory.search(keys(), 1, SearchOptions(**options))


def cases(verbs: list, wrongs: list) -> list:
    """Every verb with every wrong argument."""
    every = [
        (f"{verb}: {wrong}", error, lambda m, call=call, bad=bad: call(m, bad))
        for verb, call in verbs
        for wrong, error, bad in wrongs
    ]
    return marked(every)


def marked(every: list) -> list:
    return [
        pytest.param(
            error,
            call,
            id=name,
        )
        for name, error, call in every
    ]


# Records may be left out of a `write`: that is no mistake.
BAD_CALLS = [
    *cases(MATRIX_VERBS, WRONG_MATRICES),
    *cases(SLOT_VERBS, WRONG_SLOTS),
    *(c for c in cases(RECORD_VERBS, WRONG_RECORDS) if c.id != "write: missing"),
    *marked(ODD_CALLS),
]
