"""Whatever a caller or a disk does wrong is a typed error, and the data is as it was."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import (
    NO_SLOT,
    EncodingConfig,
    Filter,
    IndexConfig,
    Memory,
    MemoryConfig,
    OptimizerConfig,
    RequestId,
    SearchOptions,
    Store,
    field,
    files,
)
from memstore.config import DType, OptimizerKind
from memstore.errors import (
    CorruptFile,
    InvalidArgument,
    MemoryExists,
    MemoryInUse,
    MemstoreError,
    NotAStore,
    NotFinite,
    StorageFull,
    StoreClosed,
    StoreLocked,
    UnknownMemory,
    UnknownSlot,
    Unsupported,
    UnsupportedVersion,
    WrongShape,
    WrongType,
)
from memstore.manifest import FORMAT
from memstore.shard import blocks
from memstore.shard.rows import RowView
from tests.congruence.oracle import fingerprint, live_slots

ROWS, ERASED = 40, 2
EXACT = SearchOptions(exact=True)
SEVEN = field("number") == 7
RECORDS = {"number": "int64", "small": "int32", "name": "string", "tags": "list<string>"}
MANIFEST = "memstore.json"


def keys(rows: int = 1, width: int = 3, dtype: Any = np.float32, fill: float = 1) -> Any:
    return np.full((rows, width), fill, dtype)


def values(rows: int = 1, width: int = 2) -> Any:
    return keys(rows, width)


def records(rows: int = 1, **columns: Any) -> dict[str, Any]:
    held: dict[str, Any] = {
        "number": [7] * rows,
        "small": [7] * rows,
        "name": ["seven"] * rows,
        "tags": [["a", "b"]] * rows,
    }
    return held | columns


def fill(store: Store, shards: int = 1) -> None:
    """Makes a memory with everything, and facts over two memories of parts."""
    rng = np.random.default_rng(0)
    index = IndexConfig(clusters=2, codec="flat", fresh_limit=5, maintenance="inline")
    config = MemoryConfig(
        dim=3,
        value_dim=2,
        shards=shards,
        records=RECORDS,
        lookup=tuple(RECORDS),
        index=index,
        optimizer=OptimizerConfig(kind="adagrad"),
    )
    memory = store.create("m", config)
    for rows in (ROWS - 6, 6):
        memory.append(rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2)), records(rows))
    memory.update(np.arange(5), keys(5), values(5))
    memory.erase(np.array([ERASED]), request_id=RequestId("somebody", 1))
    part = MemoryConfig(dim=3, index="none")
    for name in ("entities", "relations"):
        store.create(name, part).append(rng.normal(size=(4, 3)))
    facts = MemoryConfig(
        dim=3,
        shards=shards,
        records={"subject": "int64", "relation": "int64", "objects": "list<int64>"},
        lookup=("subject",),
        index="exact",
        encoding=EncodingConfig(
            key={"subject": "entities", "relation": "relations"}, value={"objects": "entities"}
        ),
    )
    store.create("facts", facts).append(records=fact(6))
    store.memory("entities").write(np.array([0]), keys(fill=9))


def fact(rows: int = 1, **columns: Any) -> dict[str, Any]:
    held: dict[str, Any] = {
        "subject": [0] * rows,
        "relation": [1] * rows,
        "objects": [[2, 3]] * rows,
    }
    return held | columns


def fingerprints(store: Store) -> dict[str, Any]:
    return {name: fingerprint(store.memory(name)) for name in store.list()}


class Shared:
    """One store for all calls that should change nothing; made anew after one that did."""

    def __init__(self, shards: int, paths: pytest.TempPathFactory) -> None:
        self.shards, self.paths = shards, paths
        self.make()

    def make(self) -> None:
        self.store = memstore.open(self.paths.mktemp("shared"))
        fill(self.store, self.shards)
        self.first = fingerprints(self.store)

    def as_first(self) -> Store:
        if fingerprints(self.store) != self.first:
            self.store.close()
            self.make()
        return self.store


@pytest.fixture(scope="module", params=[1, 3], ids=["1 shard", "3 shards"])
def sharing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    one = Shared(request.param, tmp_path_factory)
    yield one
    one.store.close()


@pytest.fixture
def shared(sharing: Shared) -> Store:
    return sharing.as_first()


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


def assert_refused(store: Store, name: str, error: type[MemstoreError], call: Call) -> None:
    before = fingerprints(store)
    with pytest.raises(error):
        call(store.memory(name))
    assert fingerprints(store) == before


# Records may be left out of a `write`: that is no mistake.
BAD_CALLS = [
    *cases(MATRIX_VERBS, WRONG_MATRICES),
    *cases(SLOT_VERBS, WRONG_SLOTS),
    *(c for c in cases(RECORD_VERBS, WRONG_RECORDS) if c.id != "write: missing"),
    *marked(ODD_CALLS),
]


@pytest.mark.parametrize(("error", "call"), BAD_CALLS)
def test_a_bad_call_changes_nothing(shared: Store, error: type[MemstoreError], call: Call) -> None:
    assert_refused(shared, "m", error, call)


@pytest.mark.parametrize(("error", "call"), marked(ENCODED_CALLS))
def test_a_bad_call_of_an_encoded_memory_changes_nothing(
    shared: Store, error: type[MemstoreError], call: Call
) -> None:
    assert_refused(shared, "facts", error, call)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        pytest.param(Unsupported, lambda m: m.search(keys(), 1), id="search without an index"),
        pytest.param(InvalidArgument, lambda m: m.append(keys(), values()), id="append values"),
        pytest.param(InvalidArgument, lambda m: m.write([0], None, values()), id="write values"),
        pytest.param(InvalidArgument, lambda m: m.update([0], None, values()), id="update values"),
        pytest.param(InvalidArgument, lambda m: m.append(keys(), records=records()), id="records"),
        pytest.param(InvalidArgument, lambda m: m.lookup("name", ["a"], 1), id="lookup"),
    ],
)
def test_a_memory_refuses_what_it_was_not_made_for(
    shared: Store, error: type[MemstoreError], call: Call
) -> None:
    assert_refused(shared, "entities", error, call)


def test_an_error_says_what_was_got_and_expected(shared: Store) -> None:
    with pytest.raises(WrongShape, match=r"keys .*got \(1, 5\), expected \(rows, 3\)"):
        shared.memory("m").append(keys(width=5), values(), records())
    with pytest.raises(UnknownSlot, match=r"got 2 unknown or erased: 40, 2, expected"):
        shared.memory("m").erase([40, 2])


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(records(3), id="python"),
        pytest.param(pa.table(records(3)), id="table"),
        pytest.param(pa.RecordBatch.from_pydict(records(3)), id="batch"),
        pytest.param(pa.concat_tables([pa.table(records(1))] * 3), id="chunks"),
        pytest.param(pa.table(records(9)).slice(4, 3), id="slice"),
        pytest.param(
            pa.table(records(3, tags=[["x"], ["a", None], ["a"]])).slice(0, 1), id="null outside"
        ),
    ],
)
def test_records_come_in_any_form(tmp_path: Path, rows: Any) -> None:
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=3, records=RECORDS, lookup=tuple(RECORDS)))
        count = len(rows["name"])
        memory.append(keys(count), records=rows)
        held = memory.gather(np.arange(count), columns=list(RECORDS)).records
        plain = rows if isinstance(rows, dict) else rows.to_pydict()
        assert held is not None
        assert held.to_pydict() == {name: plain[name] for name in RECORDS}
        assert memory.lookup("name", ["seven"], 99).counts_Q.tolist() == [count]


def test_a_lookup_may_ask_for_all(shared: Store) -> None:
    assert shared.memory("m").lookup("number", [7], MOST).counts_Q.tolist() == [ROWS - 1]


# Numbers at the edge of what a dtype holds.


def test_a_step_out_of_float32_is_refused(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        config = MemoryConfig(dim=3, index="none", optimizer=OptimizerConfig(kind="sgd"))
        memory = store.create("m", config)
        memory.append(keys())
        before = fingerprint(memory)
        with pytest.raises(NotFinite):
            memory.update([0, 0], keys(2, fill=3e38), lr=1.0)
        assert fingerprint(memory) == before


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_decay_past_zero_is_refused(tmp_path: Path, kind: Any) -> None:
    with memstore.open(tmp_path) as store:
        optimizer = OptimizerConfig(kind=kind, weight_decay=0.5)
        memory = store.create("m", MemoryConfig(dim=3, index="none", optimizer=optimizer))
        memory.append(keys())
        before = fingerprint(memory)
        with pytest.raises(InvalidArgument, match=r"lr ≤ 2"):
            memory.update([0], keys(1), lr=2.5)
        assert fingerprint(memory) == before
        memory.update([0], keys(1), lr=2.0)


@pytest.mark.parametrize("dtype", get_args(DType))
@pytest.mark.parametrize("kind", get_args(OptimizerKind))
@pytest.mark.parametrize("size", [1e-45, 1e-25, 1e13])
def test_rows_stay_finite_at_the_edges(tmp_path: Path, kind: Any, dtype: Any, size: float) -> None:
    with memstore.open(tmp_path) as store:
        optimizer = OptimizerConfig(kind=kind, eps=1e-20, clip_norm=1e14, max_norm=1e15)
        memory = store.create("m", MemoryConfig(dim=3, dtype=dtype, optimizer=optimizer))
        memory.append(keys())
        for fill in (size, 0.0, -size, 1e-30):
            memory.update([0, 0], keys(2, fill=fill), lr=0.1)
        found = memory.search(keys(1), 1)
        assert np.isfinite(found.scores_QK).all()


SEARCH_HUGE = """
import numpy as np
from memstore import IndexConfig, MemoryConfig, SearchOptions
kind, dtype, size = sys.argv[2], sys.argv[3], float(sys.argv[4])
with memstore.open(path) as store:
    index = IndexConfig(kind=kind, fresh_limit=8, codec="flat")
    memory = store.create("m", MemoryConfig(dim=3, dtype=dtype, index=index))
    memory.append(np.full((20, 3), size))
    options = SearchOptions(exact=kind == "none")
    queries = [[1, 1, 1], [-1, -1, -1], [0, 0, 0], [1, -1, 0]]
    print(memory.search(np.array(queries), 5, options).counts_Q)
"""


# In a process of its own, which faiss may abort.
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        ("float32", "1e18"),
        pytest.param("float32", "3e38"),
        pytest.param("float64", "1e200"),
        ("float16", "6e4"),
        ("bfloat16", "1e14"),
    ],
)
@pytest.mark.parametrize("kind", ["none", "exact", "clustered", "graph", "auto"])
def test_huge_rows_are_found_or_refused(tmp_path: Path, kind: str, dtype: str, size: str) -> None:
    code = f"try:\n{textwrap.indent(SEARCH_HUGE, '    ')}"
    code += "except memstore.errors.NotFinite:\n    print('refused')"
    assert python(code, tmp_path, 0, kind, dtype, size) in ("[5 5 5 5]", "refused")


@pytest.mark.parametrize("kind", ["none", "exact", "clustered", "graph", "auto"])
@pytest.mark.parametrize("shards", [1, 3])
def test_nothing_to_find(tmp_path: Path, kind: Any, shards: int) -> None:
    with memstore.open(tmp_path) as store:
        index = IndexConfig(kind=kind, fresh_limit=1)
        memory = store.create("m", MemoryConfig(dim=3, shards=shards, index=index))
        options = SearchOptions(exact=kind == "none")
        for _ in ("empty", "all erased", "erased and reindexed"):
            result = memory.search(keys(2), 4, options)
            assert result.slots_QK.tolist() == [[NO_SLOT] * 4] * 2
            assert result.scores_QK.tolist() == [[-np.inf] * 4] * 2
            assert result.counts_Q.tolist() == [0, 0]
            memory.erase(memory.append(keys(9)))
            memory.reindex()
        assert memory.search(keys(0), 4, options).slots_QK.shape == (0, 4)


# Configurations and names.


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        pytest.param(MemoryConfig, {}),
        (MemoryConfig, {"dim": 0}),
        (MemoryConfig, {"dim": -1}),
        (MemoryConfig, {"dim": 2.0}),
        (MemoryConfig, {"dim": True}),
        pytest.param(MemoryConfig, {"dim": None}),
        (MemoryConfig, {"dim": "3"}),
        (MemoryConfig, {"dim": 3, "dimension": 3}),
        (MemoryConfig, {"dim": 3, "value_dim": 0}),
        (MemoryConfig, {"dim": 3, "shards": 0}),
        pytest.param(MemoryConfig, {"dim": 3, "shards": None}),
        (MemoryConfig, {"dim": 3, "dtype": "float8"}),
        (MemoryConfig, {"dim": 3, "dtype": "float32", "optimizer": {"master": True}}),
        (OptimizerConfig, {"master": 1.5}),
        (OptimizerConfig, {"seed": -1}),
        (OptimizerConfig, {"seed": 2**63}),
        (MemoryConfig, {"dim": 3, "index": "flat"}),
        (MemoryConfig, {"dim": 3, "index": 7}),
        (MemoryConfig, {"dim": 3, "index": {"kind": "exact", "lists": 4}}),
        (MemoryConfig, {"dim": 3, "optimizer": "adamax"}),
        (MemoryConfig, {"dim": 3, "records": {"a": "uint8"}}),
        (MemoryConfig, {"dim": 3, "records": {"a": "int64"}, "lookup": ["b"]}),
        (MemoryConfig, {"dim": 3, "records": {"a": "float32"}, "lookup": ["a"]}),
        (MemoryConfig, {"dim": 3, "encoding": {"key": {}}}),
        pytest.param(MemoryConfig, {"dim": 3, "encoding": {"value": {"a": "b"}}}),
        (MemoryConfig, {"dim": 3, "encoding": {"key": {"a": "b"}}}),
        (
            MemoryConfig,
            {"dim": 3, "records": {"a": "string"}, "encoding": {"key": {"a": "b"}}},
        ),
        (
            MemoryConfig,
            {"dim": 3, "value_dim": 2, "records": {"a": "int64"}, "encoding": {"key": {"a": "b"}}},
        ),
        (IndexConfig, {"kind": "tree"}),
        (IndexConfig, {"clusters": 0}),
        (IndexConfig, {"probe": 0}),
        (IndexConfig, {"recall_target": 0}),
        (IndexConfig, {"recall_target": 1.1}),
        (IndexConfig, {"recall_target": float("nan")}),
        (IndexConfig, {"recall_target": 0.9, "probe": 3}),
        (IndexConfig, {"fresh_limit": 0}),
        pytest.param(IndexConfig, {"fresh_limit": None}),
        (IndexConfig, {"maintenance": "never"}),
        (IndexConfig, {"maintenance": None}),
        (IndexConfig, {"patience_s": -1}),
        (IndexConfig, {"patience_s": float("inf")}),
        (IndexConfig, {"patience_s": float("nan")}),
        (IndexConfig, {"drift_limit": 0.0}),
        (IndexConfig, {"drift_limit": -0.3}),
        (IndexConfig, {"drift_limit": 101}),
        (IndexConfig, {"drift_limit": float("nan")}),
        (IndexConfig, {"drift_limit": "0.3"}),
        (IndexConfig, {"drift_limit": True}),
        (IndexConfig, {"codec": "pq"}),
        (OptimizerConfig, {"kind": "adamax"}),
        (OptimizerConfig, {"lr": -1.0}),
        (OptimizerConfig, {"lr": float("nan")}),
        pytest.param(OptimizerConfig, {"lr": float("inf")}),
        (OptimizerConfig, {"lr": "1"}),
        pytest.param(OptimizerConfig, {"lr": None}),
        (OptimizerConfig, {"eps": -1.0}),
        pytest.param(OptimizerConfig, {"eps": float("inf")}),
        (OptimizerConfig, {"eps": 0.0}),
        (OptimizerConfig, {"eps": 1e300}),
        (OptimizerConfig, {"betas": None}),
        (OptimizerConfig, {"betas": 0.9}),
        (OptimizerConfig, {"betas": "09"}),
        (OptimizerConfig, {"betas": [0.9]}),
        (OptimizerConfig, {"betas": [0.9, 0.99, 0.999]}),
        (OptimizerConfig, {"betas": [0.9, 1.0]}),
        (OptimizerConfig, {"betas": [-0.1, 0.9]}),
        (OptimizerConfig, {"betas": [0.9, "0.999"]}),
        (OptimizerConfig, {"betas": [float("nan"), 0.999]}),
        (OptimizerConfig, {"betas": [0.999, 0.9]}),
        (OptimizerConfig, {"weight_decay": -0.1}),
        (OptimizerConfig, {"weight_decay": 1.1}),
        (OptimizerConfig, {"weight_decay": float("nan")}),
        (OptimizerConfig, {"weight_decay": True}),
        pytest.param(OptimizerConfig, {"weight_decay": None}),
        (OptimizerConfig, {"clip_norm": -1.0}),
        (OptimizerConfig, {"clip_norm": float("inf")}),
        (OptimizerConfig, {"clip_norm": 1e-30}),
        (OptimizerConfig, {"clip_norm": False}),
        (OptimizerConfig, {"max_norm": -1.0}),
        (OptimizerConfig, {"max_norm": float("nan")}),
        (OptimizerConfig, {"max_norm": "1"}),
        (OptimizerConfig, {"momentum": 0.9}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_bad_configuration_is_refused(cls: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        cls.from_dict(wrong)


def test_an_optimizer_survives_json() -> None:
    config = OptimizerConfig(kind="adamw", betas=(0.5, 0.9), clip_norm=1.0, weight_decay=0.1)
    assert OptimizerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(OptimizerConfig.from_dict(config.to_dict()))


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "a b", "a/b", "../a", ".", "..", ".a", "-a", "é", "a\n", "a" * 65),
        None,
        pytest.param(7),
    ],
)
def test_a_bad_name_is_refused(tmp_path: Path, name: Any) -> None:
    with memstore.open(tmp_path) as store:
        try:
            with pytest.raises(InvalidArgument):
                store.create(name, MemoryConfig(dim=3))
        finally:
            for made in store.list():
                store.drop(made)


def facts_over(part: str, dim: int = 3, dtype: Any = "float32") -> MemoryConfig:
    encoding = EncodingConfig(key={"part": part})
    return MemoryConfig(dim=dim, dtype=dtype, records={"part": "int64"}, encoding=encoding)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (MemoryExists, lambda s: s.create("m", MemoryConfig(dim=3))),
        (InvalidArgument, lambda s: s.create("n", {"dim": 3})),
        (UnknownMemory, lambda s: s.memory("n")),
        (UnknownMemory, lambda s: s.drop("n")),
        (MemoryInUse, lambda s: s.drop("entities")),
        (MemoryInUse, lambda s: s.drop("relations")),
        (UnknownMemory, lambda s: s.create("n", facts_over("nowhere"))),
        (UnknownMemory, lambda s: s.create("n", facts_over("n"))),
        (InvalidArgument, lambda s: s.create("n", facts_over("facts"))),
        (InvalidArgument, lambda s: s.create("n", facts_over("entities", dim=4))),
        (InvalidArgument, lambda s: s.create("n", facts_over("entities", dtype="float64"))),
    ],
)
def test_a_bad_call_of_the_store_changes_nothing(
    shared: Store, error: type[MemstoreError], call: Callable[[Store], Any]
) -> None:
    before = fingerprints(shared)
    with pytest.raises(error):
        call(shared)
    assert fingerprints(shared) == before


# The life of a store.


def test_a_closed_store_refuses_every_call(tmp_path: Path) -> None:
    store = memstore.open(tmp_path)
    fill(store)
    store.close()
    store.close()
    calls: list[Callable[[], Any]] = [
        store.list,
        lambda: store.memory("m"),
        lambda: store.drop("m"),
        lambda: store.create("n", MemoryConfig(dim=3)),
    ]
    for call in calls:
        with pytest.raises(StoreClosed):
            call()


def test_a_closed_store_makes_no_checkpoint(tmp_path: Path) -> None:
    store = memstore.open(tmp_path)
    fill(store)
    before = fingerprints(store)
    store.close()
    with pytest.raises(StoreClosed):
        store.checkpoint()
    with memstore.open(tmp_path) as again:
        assert fingerprints(again) == before


def test_a_memory_of_a_closed_store_takes_no_mutation(tmp_path: Path) -> None:
    store = memstore.open(tmp_path)
    memory = store.create("m", MemoryConfig(dim=3))
    store.close()
    with pytest.raises(StoreClosed):
        memory.append(keys())


def test_a_dropped_memory_takes_no_mutation(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=3))
        store.drop("m")
        with pytest.raises(UnknownMemory):
            memory.append(keys())


def test_a_name_is_free_again_after_its_memory_was_dropped(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        store.create("m", MemoryConfig(dim=3)).append(keys(2))
        store.checkpoint()
        store.drop("m")
        assert store.list() == []
        store.create("m", MemoryConfig(dim=4)).append(keys(2, 4))
        before = fingerprints(store)
    with memstore.open(tmp_path) as store:
        assert fingerprints(store) == before


def test_dropping_in_order_leaves_nothing(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        fill(store)
        store.checkpoint()
        for name in ("facts", "entities", "relations", "m"):
            store.drop(name)
    with memstore.open(tmp_path) as store:
        assert store.list() == []
    assert list((tmp_path / "memories").rglob("*")) == []


def test_reopening_keeps_the_drift(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        fill(store)
        store.memory("relations").write([3], keys())  # no fact has it
        store.memory("facts").refresh()
        store.checkpoint()
        store.memory("relations").write([3], keys(fill=2))
        store.checkpoint()
        assert store.memory("facts").refresh().encoded == 0
        assert store.memory("facts").describe().drift == 0.0
    with memstore.open(tmp_path) as store:
        assert store.memory("facts").describe().drift == 0.0


def test_facts_of_an_erased_part_are_refreshed_around(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        fill(store)
        store.memory("relations").erase([1])  # every fact's relation
        store.memory("entities").write([0], keys(fill=5))  # every fact's subject
        store.memory("facts").refresh()


def test_a_second_open_is_refused(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        fill(store)
        before = fingerprints(store)
        with pytest.raises(StoreLocked, match=str(os.getpid())) as caught:
            memstore.open(tmp_path)
        assert caught.value.retryable
        assert python(OPEN, tmp_path) == "StoreLocked"
        assert fingerprints(store) == before
    assert python(OPEN, tmp_path) == "opened"


OPEN = """
try:
    memstore.open(path).close()
    print("opened")
except memstore.MemstoreError as error:
    print(type(error).__name__)
"""

DIE = """
import os, signal
memory = memstore.open(path).memory("m")
memory.erase([0])
os.kill(os.getpid(), signal.SIGKILL)
"""


def python(code: str, path: Path, status: int = 0, *arguments: str) -> str:
    head = "import memstore, sys; path = sys.argv[1]\n"
    command = [sys.executable, "-W", "error", "-c", head + code, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout.strip()


def test_a_killed_owner_leaves_what_it_had_done(tmp_path: Path) -> None:
    for name in ("killed", "closed"):
        with memstore.open(tmp_path / name) as store:
            fill(store)
    with memstore.open(tmp_path / "closed") as store:
        store.memory("m").erase([0])
    python(DIE, tmp_path / "killed", -signal.SIGKILL)
    with memstore.open(tmp_path / "killed") as killed, memstore.open(tmp_path / "closed") as closed:
        assert fingerprints(killed) == fingerprints(closed)


def foreign_folder(path: Path) -> Path:
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    return path


def foreign_file(path: Path) -> Path:
    path.write_text("mine")
    return path


def below_a_file(path: Path) -> Path:
    return foreign_file(path) / "store"


@pytest.mark.parametrize(
    "make",
    [
        foreign_folder,
        foreign_file,
        pytest.param(below_a_file),
    ],
)
def test_what_is_no_store_is_left_alone(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "x")
    before = contents(tmp_path)
    with pytest.raises(NotAStore):
        memstore.open(path)
    assert contents(tmp_path) == before


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "LOCK").touch()
    with memstore.open(tmp_path) as store:
        assert store.list() == []


def test_a_store_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "LOCK").touch()
    (tmp_path / f"{MANIFEST}.new").write_text('{"crc32": 1')
    with memstore.open(tmp_path) as store:
        assert store.list() == []


# Damaged files.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A closed store with every kind of file, and what it held."""
    path = tmp_path_factory.mktemp("saved") / "store"
    with memstore.open(path) as store:
        fill(store)
        store.memory("m").append(keys(3), values(3), records(3))
        before = fingerprints(store)
    return path, before


@pytest.fixture
def copy(saved: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "store"))


DATA = [
    "blocks.bin",
    "rows.arrow",
    "records.arrow",
    "lines.npy",
    "encoded.npz",
    "requests.npz",
    MANIFEST,
]
INDEX = ["codebook.faiss", "segment-0.faiss", "segment-1.faiss", "tiers.npz"]


def contents(folder: Path) -> dict[str, bytes]:
    every = (path for path in folder.rglob("*") if path.is_file() and path.name != "LOCK")
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


def found(store: Path, name: str) -> list[Path]:
    return sorted(path for path in store.rglob("*") if plain(path.name) == name)


def plain(name: str) -> str:
    """The name of a file without the number of the checkpoint that wrote it."""
    return re.sub(r"-\d{8}", "", name)


def cut_to(share: float) -> Callable[[bytes], bytes | None]:
    return lambda data: data[: int(share * len(data))]


def flip(share: float, bit: int) -> Callable[[bytes], bytes | None]:
    def damage(data: bytes) -> bytes:
        at = min(int(share * len(data)), len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "emptied": cut_to(0.0),
    "cut at a quarter": cut_to(0.25),
    "cut by half": cut_to(0.5),
    "last byte lost": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\0",
    "first bit flipped": flip(0.0, 0),
    "a bit flipped within": flip(0.5, 3),
    "last bit flipped": flip(1.0, 7),
    "zeroed": lambda data: bytes(len(data)),
    "missing": lambda data: None,
}


def apply(damage: Callable[[bytes], bytes | None], path: Path) -> None:
    data = damage(path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


def test_the_tables_below_name_every_file(saved: tuple[Path, dict[str, Any]]) -> None:
    names = {plain(Path(name).name) for name in contents(saved[0]) if not name.startswith("logs")}
    assert names == {*DATA, *INDEX}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", DATA)
def test_damaged_data_is_refused(
    saved: tuple[Path, dict[str, Any]], copy: Path, name: str, damage: str
) -> None:
    for path in found(copy, name):
        whole = path.read_bytes()
        apply(DAMAGES[damage], path)
        before = contents(copy)
        expected = NotAStore if (name, damage) == (MANIFEST, "missing") else CorruptFile
        with pytest.raises(expected, match=str(copy)):
            memstore.open(copy)
        assert contents(copy) == before  # nothing was mended, nothing swept
        path.write_bytes(whole)
    with memstore.open(copy) as store:
        assert fingerprints(store) == saved[1]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", INDEX)
def test_a_damaged_index_is_built_again(
    saved: tuple[Path, dict[str, Any]],
    copy: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: str,
) -> None:
    [path] = found(copy, name)
    apply(DAMAGES[damage], path)
    with memstore.open(copy) as store:
        memory = store.memory("m")
        slots = saved[1]["m"]["slots"]
        assert live_slots(memory).tolist() == slots
        assert fingerprint(memory)["keys"] == saved[1]["m"]["keys"]
        queries = np.eye(3, dtype=np.float32)
        every = memory.search(queries, len(slots), SearchOptions(probe=1_000))
        exact = memory.search(queries, len(slots), EXACT)
        assert every.slots_QK.tolist() == exact.slots_QK.tolist()
        assert every.scores_QK.tolist() == exact.scores_QK.tolist()
    assert ["built again" in record.message for record in caplog.records] == [True]


def test_an_index_built_again_is_saved(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    found(copy, "tiers.npz")[0].unlink()
    for _ in range(3):
        memstore.open(copy).close()
    assert len(caplog.records) == 1


def test_every_flipped_bit_of_a_manifest_is_noticed(copy: Path) -> None:
    path = copy / "small.json"
    files.replace_json(path, {"format": 1, "m": [2]})
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            with pytest.raises(CorruptFile):
                files.read_json(path)


@pytest.mark.parametrize("body", ["", "7", "null", "[]", "{}", '{"crc32": 0}', '{"body": 7}'])
def test_a_foreign_manifest_is_refused(copy: Path, body: str) -> None:
    (copy / MANIFEST).write_text(body)
    with pytest.raises(CorruptFile):
        memstore.open(copy)


@pytest.mark.parametrize(
    "change",
    [{"format": wrong} for wrong in (FORMAT + 1, FORMAT - 1, 0, str(FORMAT), None)],
)
def test_another_format_is_refused(copy: Path, change: dict[str, Any]) -> None:
    manifest = files.read_json(copy / MANIFEST)
    files.replace_json(copy / MANIFEST, manifest | change)
    before = contents(copy)
    with pytest.raises(UnsupportedVersion):
        memstore.open(copy)
    assert contents(copy) == before


def test_a_torn_draft_beside_the_manifest_harms_nothing(
    saved: tuple[Path, dict[str, Any]], copy: Path
) -> None:
    (copy / f"{MANIFEST}.new").write_text('{"crc32": 1')
    shutil.copytree(next((copy / "memories/m").iterdir()), copy / "memories/m/99999999")
    for _ in range(2):
        with memstore.open(copy) as store:
            assert fingerprints(store) == saved[1]
            store.checkpoint()


@pytest.mark.parametrize("place", ["memories/notes.txt", "memories/m/notes.txt"])
def test_a_stray_file_stops_no_checkpoint(
    saved: tuple[Path, dict[str, Any]], copy: Path, place: str
) -> None:
    (copy / place).write_text("mine")
    with memstore.open(copy) as store:
        try:
            store.checkpoint()
        finally:
            (copy / place).unlink(missing_ok=True)
        assert fingerprints(store) == saved[1]


def test_a_checkpoint_that_fails_loses_nothing(
    saved: tuple[Path, dict[str, Any]], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memstore.open(copy) as store:
        store.memory("m").erase([0])
        with monkeypatch.context() as patch:
            patch.setattr(blocks, "write", _disk_full)
            with pytest.raises(StorageFull, match="full"):
                store.checkpoint()
        crashed = shutil.copytree(copy, copy.with_name("crashed"))
        after = fingerprints(store)
    with memstore.open(crashed) as store:
        assert fingerprints(store) == after
    with memstore.open(copy) as store:
        assert fingerprints(store) == after


def _disk_full(*_: Any) -> Any:
    raise OSError(28, "the disk is full")


# Readers and writers at the same time.


def test_a_checkpoint_beside_an_append_names_every_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    with memstore.open(path) as store:
        memory = store.create("m", MemoryConfig(dim=3, shards=2))
        memory.append(keys(10))
        write = blocks.write

        def append_then_write(*arguments: Any) -> Any:
            writer = threading.Thread(target=lambda: memory.append(keys(10)))
            writer.start()
            writer.join(60)
            assert not writer.is_alive()  # a checkpoint that is being written keeps nobody off
            return write(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(blocks, "write", append_then_write)
            store.checkpoint()
        crashed = shutil.copytree(path, tmp_path / "crashed")
    with memstore.open(crashed) as store:
        memory = store.memory("m")
        state = memory.describe()
        assert state.rows == state.next_slot  # none is missing, and none is to be given again
        assert live_slots(memory).tolist() == list(range(state.rows))


def test_an_exact_search_beside_an_append_that_moves_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=3, index="exact"))
        monkeypatch.setattr("memstore.shard.region.RESERVED_ROWS", 0)
        memory.append(keys(5))
        memory.erase([0])
        live_rows, appended = RowView.live_rows, []

        def append_first(view: RowView) -> Any:
            monkeypatch.undo()
            appended.append(memory.append(keys(5_000)))
            return live_rows(view)

        monkeypatch.setattr(RowView, "live_rows", append_first)
        assert memory.search(keys(), 4).counts_Q.tolist() == [4]
        assert appended


@pytest.fixture
def fast_switching() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("fast_switching")
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["exact", "clustered"])
def test_searches_beside_mutations(tmp_path: Path, kind: Any, shards: int) -> None:
    rng = np.random.default_rng(0)
    erased: set[int] = set()
    failures: list[BaseException] = []
    searches = 0
    done = threading.Event()
    with memstore.open(tmp_path) as store:
        index = IndexConfig(kind=kind, fresh_limit=64, clusters=8)
        config = MemoryConfig(
            dim=8, shards=shards, index=index, records={"n": "int64"}, lookup=("n",)
        )
        memory = store.create("m", config)
        live = memory.append(rng.normal(size=(200, 8)), records={"n": [0] * 200}).tolist()

        def search(seed: int) -> None:
            nonlocal searches
            queries = np.random.default_rng(seed).normal(size=(4, 8)).astype(np.float32)
            options = SearchOptions(exact=seed % 2 == 0)
            while not done.is_set():
                dead = set(erased)
                result = memory.search(queries, 10, options)
                slots = result.slots_QK[result.slots_QK != NO_SLOT]
                assert not dead & set(slots.tolist())
                assert np.isfinite(result.scores_QK[result.slots_QK != NO_SLOT]).all()
                assert (result.scores_QK[:, 1:] <= result.scores_QK[:, :-1]).all()
                assert result.counts_Q.min() > 0
                assert not dead & set(memory.lookup("n", [0], 5).slots.tolist())
                searches += 1

        def guarded(seed: int) -> None:
            try:
                search(seed)
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        readers = [threading.Thread(target=guarded, args=(seed,)) for seed in range(3)]
        for reader in readers:
            reader.start()
        for step in range(150):
            if failures:
                break
            slots = memory.append(rng.normal(size=(20, 8)), records={"n": [0] * 20})
            live += slots.tolist()
            some = rng.choice(live, 15, replace=False)
            memory.update(some, rng.normal(size=(15, 8)))
            memory.write(some[:5], rng.normal(size=(5, 8)))
            memory.erase(some[5:])
            erased |= set(some[5:].tolist())
            live = [slot for slot in live if slot not in erased]
            if step % 25 == 0:
                memory.reindex()
        done.set()
        for reader in readers:
            reader.join()
        assert failures == []
        assert searches > 3
        assert live_slots(memory).tolist() == live
