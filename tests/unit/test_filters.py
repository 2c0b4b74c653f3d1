"""Filters: what each comparison passes, their canonical form, and what is refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import (
    NO_SLOT,
    And,
    Compare,
    EncodingConfig,
    Filter,
    In,
    IndexConfig,
    Memory,
    MemoryConfig,
    Not,
    Or,
    SearchOptions,
    field,
)
from memstore.errors import InvalidArgument, NotFinite, WrongType
from memstore.filters import MAX_DEPTH, MAX_SIZE, from_dict
from memstore.index import exact
from memstore.index.two_tier import TwoTierIndex
from memstore.shard import filters as shard_filters

COLUMNS: dict[str, tuple[str, list]] = {
    "flag": ("bool", [False, True, True, False]),
    "small": ("int32", [-1, 0, 1, 2]),
    "large": ("int64", [-(2**63), 0, 2**53 + 1, 2**63 - 1]),
    "half": ("float32", [0.1, -0.0, float("nan"), 1.5]),
    "double": ("float64", [0.1, -0.0, float("nan"), float("inf")]),
    "text": ("string", ["", "a", "a\0", "é"]),
    "marks": ("list<int64>", [[], [1], [2, 1], [3, 3]]),
    "tags": ("list<string>", [["", "a"], [], ["b"], ["a", "b"]]),
}

# column, comparison, value or values, the rows that pass.
TABLE: list[tuple[str, str, Any, list[int]]] = [
    ("flag", "==", True, [1, 2]),
    ("flag", "!=", True, [0, 3]),
    ("flag", "in", [True, False], [0, 1, 2, 3]),
    ("small", "==", 1, [2]),
    ("small", "==", 1.0, [2]),
    ("small", "==", np.int32(1), [2]),
    ("small", "!=", 1, [0, 1, 3]),
    ("small", "<", 1, [0, 1]),
    ("small", "<=", 1, [0, 1, 2]),
    ("small", ">", 1, [3]),
    ("small", ">=", 1, [2, 3]),
    ("small", "in", [2, -1, 9], [0, 3]),
    ("large", "==", 2**53 + 1, [2]),
    ("large", "==", 2**53, []),
    ("large", "!=", 2**63 - 1, [0, 1, 2]),
    ("large", "<", 0, [0]),
    ("large", "<=", -(2**63), [0]),
    ("large", ">", 2**53, [2, 3]),
    ("large", ">=", 2**63 - 1, [3]),
    ("large", "in", [0, 2**53], [1]),
    ("half", "==", 0.1, [0]),
    ("half", "==", 0, [1]),
    ("half", "==", -0.0, [1]),
    ("half", "!=", 0.1, [1, 2, 3]),
    ("half", "<", 0.1, [1]),
    ("half", "<=", 0.1, [0, 1]),
    ("half", ">", 0.1, [3]),
    ("half", ">=", 0.1, [0, 3]),
    ("half", "in", [0.1, 0], [0, 1]),
    ("double", "==", 0.1, [0]),
    ("double", "!=", 0, [0, 2, 3]),
    ("double", "<", 1, [0, 1]),
    ("double", "<=", 0, [1]),
    ("double", ">", 1e300, [3]),
    ("double", ">=", 0, [0, 1, 3]),
    ("double", "in", [0.0, 7.0], [1]),
    ("text", "==", "a", [1]),
    ("text", "!=", "a", [0, 2, 3]),
    ("text", "<", "a\0", [0, 1]),
    ("text", "<=", "a\0", [0, 1, 2]),
    ("text", ">", "z", [3]),
    ("text", ">=", "a", [1, 2, 3]),
    ("text", "in", ["", "é", "z"], [0, 3]),
    ("marks", "==", 1, [1, 2]),
    ("marks", "==", 4, []),
    ("marks", "in", [2, 3], [2, 3]),
    ("tags", "==", "a", [0, 3]),
    ("tags", "in", ["", "b"], [0, 2, 3]),
]


def leaf(column: str, op: str, value: Any) -> Filter:
    return In(column, value) if op == "in" else Compare(column, op, value)  # type: ignore[arg-type]


def passing(memory: Memory, tree: Filter) -> list[int]:
    options = SearchOptions(exact=True, filter=tree)
    found = memory.search(np.zeros((1, memory.config.dim)), 2_000, options)
    assert found.scored_Q.tolist() == found.counts_Q.tolist()
    return found.slots_QK[0, : found.counts_Q[0]].tolist()


@pytest.fixture(scope="module", params=[1, 3], ids=["1 shard", "3 shards"])
def typed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with memstore.open(tmp_path_factory.mktemp("typed")) as store:
        kinds = {name: kind for name, (kind, _) in COLUMNS.items()}
        config = MemoryConfig(dim=1, index="none", records=kinds, shards=request.param)
        memory = store.create("m", config)
        for i in range(4):  # in four batches, so that the heap has several
            memory.append(
                np.ones((1, 1)), records={name: [rows[i]] for name, (_, rows) in COLUMNS.items()}
            )
        yield memory


@pytest.mark.parametrize(("column", "op", "value", "rows"), TABLE)
def test_each_comparison_of_each_type(
    typed: Memory, column: str, op: str, value: Any, rows: list[int]
) -> None:
    tree = leaf(column, op, value)
    assert passing(typed, tree) == rows
    assert passing(typed, ~tree) == [row for row in range(4) if row not in rows]
    assert passing(typed, from_dict(json.loads(json.dumps(tree.to_dict())))) == rows


def test_filters_join(typed: Memory) -> None:
    assert passing(typed, (field("small") > -1) & (field("flag") == True)) == [1, 2]  # noqa: E712
    assert passing(typed, (field("small") == -1) | (field("tags") == "b")) == [0, 2, 3]
    assert passing(typed, ~((field("small") == -1) | (field("tags") == "b"))) == [1]
    assert passing(typed, And((field("small") == 0, field("small") == 1))) == []


def test_order_and_grouping_make_no_difference() -> None:
    a, b, c = field("a") == 1, field("b") < "x", field("c").is_in([3, 1, 2, 1])
    assert (a & b) & c == c & (b & a) == And((a, c, b, a))
    assert hash(a | b) == hash(b | a)
    assert len({a & b, b & a, a | b, a}) == 3
    assert c == In("c", (1, 2, 3)) != In("c", (1, 2))
    assert ~~a == a
    assert a != Compare("a", "==", True)
    assert a.canonical == '{"op":"==","column":"a","value":1}'
    assert from_dict((a & ~(b | c)).to_dict()) == a & ~(b | c)
    assert hash(SearchOptions(filter=a & b)) == hash(SearchOptions(filter=b & a))


LEAF = {"op": "==", "column": "a", "value": 1}
BAD_TREES: list[tuple[type[Exception], Any]] = [
    (InvalidArgument, {}),
    (InvalidArgument, {"op": "xor", "filters": [LEAF]}),
    (InvalidArgument, {"op": [], "filters": [LEAF]}),
    (InvalidArgument, LEAF | {"extra": 1}),
    (InvalidArgument, {"op": "==", "column": "a"}),
    (InvalidArgument, {"op": "and", "filters": []}),
    (InvalidArgument, {"op": "in", "column": "a", "values": []}),
    (WrongType, LEAF | {"column": 7}),
    (WrongType, LEAF | {"value": None}),
    (WrongType, LEAF | {"value": [1]}),
    (WrongType, LEAF | {"value": b"a"}),
    (WrongType, LEAF | {"value": 2**63}),
    (NotFinite, LEAF | {"value": float("nan")}),
    (NotFinite, LEAF | {"value": float("inf")}),
    (WrongType, {"op": "in", "column": "a", "values": "ab"}),
    (WrongType, {"op": "in", "column": "a", "values": 1}),
    (WrongType, {"op": "in", "column": "a", "values": [1, "a"]}),
    (WrongType, {"op": "in", "column": "a", "values": [1, True]}),
    (WrongType, {"op": "and", "filters": LEAF}),
    (WrongType, {"op": "or", "filters": [LEAF, 7]}),
    (WrongType, {"op": "not", "filter": None}),
    (WrongType, [LEAF]),
    (InvalidArgument, {"op": "in", "column": "a", "values": list(range(MAX_SIZE))}),
    (InvalidArgument, {"op": "or", "filters": [LEAF] * (MAX_SIZE + 1)}),
]


@pytest.mark.parametrize(("error", "values"), BAD_TREES, ids=lambda case: str(case)[:50])
def test_a_bad_tree_is_refused(error: type[Exception], values: Any) -> None:
    with pytest.raises(error):
        from_dict(values)


def test_a_deep_tree_is_refused() -> None:
    values: dict[str, Any] = LEAF
    for _ in range(5_000):
        values = {"op": "not", "filter": values}
    with pytest.raises(InvalidArgument, match="too deep"):
        from_dict(values)
    tree: Filter = field("a") == 1
    for _ in range(MAX_DEPTH - 1):
        tree = Not(tree)
    with pytest.raises(InvalidArgument, match="too deep"):
        Not(tree)


def test_a_tree_of_something_else_is_refused() -> None:
    with pytest.raises(WrongType):
        And((field("a"),))  # type: ignore[arg-type]
    with pytest.raises(WrongType):
        Not(field("a"))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        Or(())
    with pytest.raises(WrongType, match="neither true nor false"):
        bool(field("a") == 1)


# Few survivors among many rows.

MANY, TWO = 200_000, [777, 150_001]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["none", "exact", "clustered"])
def test_two_rows_of_many_are_found(tmp_path: Path, kind: Any, shards: int) -> None:
    rng = np.random.default_rng(0)
    mark = np.zeros(MANY, np.int64)
    mark[TWO] = 1
    with memstore.open(tmp_path) as store:
        index = IndexConfig(kind=kind, clusters=64 if kind == "clustered" else None)
        config = MemoryConfig(dim=8, shards=shards, records={"mark": "int64"}, index=index)
        memory = store.create("m", config)
        memory.append(rng.normal(size=(MANY, 8)), records={"mark": mark})
        queries = rng.normal(size=(3, 8)).astype(np.float32)
        options = SearchOptions(exact=kind == "none", filter=field("mark") == 1)

        def found(k: int = 5) -> list[list[int]]:
            result = memory.search(queries, k, options)
            return [sorted(row[row != NO_SLOT].tolist()) for row in result.slots_QK]

        assert found() == [TWO] * 3
        assert memory.search(queries, 5, options).scored_Q.tolist() == [2] * 3
        memory.write([5], records={"mark": [1]})
        assert found() == [[5, *TWO]] * 3
        memory.write([TWO[0]], records={"mark": [0]})
        assert found() == [[5, TWO[1]]] * 3
        memory.erase([TWO[1]])
        assert found() == [[5]] * 3
        [new] = memory.append(queries[:1], records={"mark": [1]})
        assert found() == [[5, new]] * 3


def test_two_facts_of_many_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with memstore.open(tmp_path) as store:
        store.create("parts", MemoryConfig(dim=4, index="none")).append(rng.normal(size=(500, 4)))
        encoding = EncodingConfig(key={"a": "parts", "b": "parts"})
        config = MemoryConfig(
            dim=4, records={"a": "int64", "b": "int64"}, encoding=encoding, shards=3
        )
        facts = store.create("facts", config)
        a, b = np.repeat(np.arange(100), 200), np.tile(np.arange(200), 100)
        facts.append(records={"a": a, "b": b})
        tree = (field("a") == 3) & field("b").is_in([7, 9])
        found = facts.search(np.ones((1, 4)), 5, SearchOptions(filter=tree))
        assert sorted(found.slots_QK[0, :2].tolist()) == [607, 609]
        assert found.counts_Q.tolist() == [2]


def test_rows_that_pass_far_from_the_query_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All rows that pass lie in lists that a narrow probe never visits.
    monkeypatch.setattr(TwoTierIndex, "scans", lambda *_: False)
    rng = np.random.default_rng(0)
    sign = np.repeat([1, -1], 500)
    keys = sign[:, None] * np.array([10.0, 0.0]) + rng.normal(size=(1_000, 2))
    with memstore.open(tmp_path) as store:
        index = IndexConfig(clusters=8, probe=1)
        config = MemoryConfig(dim=2, records={"sign": "int64"}, index=index)
        memory = store.create("m", config)
        memory.append(keys, records={"sign": sign})
        memory.reindex()
        query, far = np.array([[1.0, 0.0]], np.float32), field("sign") == -1
        found = memory.search(query, 5, SearchOptions(probe=1, filter=far))
        expected = memory.search(query, 5, SearchOptions(exact=True, filter=far))
        assert found.slots_QK.tolist() == expected.slots_QK.tolist()
        # The list has none of them: after its centroids all that pass are compared.
        assert found.scored_Q.tolist() == [8 + 500]


def test_the_filtered_lists_keep_their_recall(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(50_000, 16)).astype(np.float32)
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=16, records={"n": "int64"}))
        memory.append(keys, records={"n": rng.integers(0, 10, 50_000)})
        memory.reindex()
        queries, half = keys[:64], SearchOptions(filter=field("n") < 5)
        found = memory.search(queries, 10, half)
        assert (found.scored_Q < 5_000).all()
        true = memory.search(queries, 10, SearchOptions(exact=True, filter=field("n") < 5))
        hits = [np.isin(a, b).mean() for a, b in zip(found.slots_QK, true.slots_QK, strict=True)]
        assert np.mean(hits) > 0.8
        passes = memory.gather(found.slots_QK.ravel(), vectors=False, columns=["n"]).records
        assert passes is not None
        assert max(passes["n"].to_pylist()) < 5


def test_an_answer_is_kept_until_a_record_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[Filter] = []
    evaluate = shard_filters.passing

    def counted(tree: Filter, *rest: Any) -> Any:
        evaluated.append(tree)
        return evaluate(tree, *rest)

    monkeypatch.setattr(shard_filters, "passing", counted)
    with memstore.open(tmp_path) as store:
        config = MemoryConfig(dim=1, index="none", records={"n": "int64"})
        memory = store.create("m", config)
        memory.append(np.ones((4, 1)), records={"n": [0, 1, 2, 3]})
        assert passing(memory, field("n") > 1) == [2, 3]
        memory.update([0], np.ones((1, 1)))
        memory.write([0], np.ones((1, 1)))
        assert passing(memory, field("n") > 1) == [2, 3]
        assert len(evaluated) == 1
        for change in (
            lambda: memory.write([0], records={"n": [9]}),
            lambda: memory.erase([3]),
            lambda: memory.append(np.ones((1, 1)), records={"n": [9]}),
        ):
            change()
            passing(memory, field("n") > 1)
        assert passing(memory, field("n") > 1) == [0, 2, 4]
        assert len(evaluated) == 4
        for n in range(2 * shard_filters.MAX_KEPT):
            passing(memory, field("n") == n)
        assert passing(memory, field("n") > 1) == [0, 2, 4]
        assert len(evaluated) == 5 + 2 * shard_filters.MAX_KEPT


@pytest.mark.parametrize("kept", [0, 3])
def test_a_record_rewritten_amid_a_search_is_tested_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    with memstore.open(tmp_path) as store:
        records = {"n": "int64", "tags": "list<string>"}
        memory = store.create("m", MemoryConfig(dim=1, index="none", records=records))
        memory.append(np.ones((4, 1)), records={"n": [0] * 4, "tags": [["a"]] * 4})
        propose = exact.propose

        def write_first(*arguments: Any) -> Any:
            found = propose(*arguments)
            monkeypatch.undo()
            slots = np.arange(kept, 4)
            memory.write(slots, records={"n": slots * 0 + 1, "tags": [["a"], *[[]] * (3 - kept)]})
            return found

        monkeypatch.setattr(exact, "propose", write_first)
        tree = (field("n") == 0) & (field("tags") == "a")
        assert passing_slots(memory, tree) == list(range(kept))


def passing_slots(memory: Memory, tree: Filter) -> list[int]:
    found = memory.search(np.zeros((1, 1)), 9, SearchOptions(exact=True, filter=tree))
    return found.slots_QK[0, : found.counts_Q[0]].tolist()


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["exact", "clustered"])
def test_filters_and_cursors_beside_mutations(tmp_path: Path, kind: Any, shards: int) -> None:
    rng = np.random.default_rng(0)
    done, failures, rounds = threading.Event(), [], [0, 0]
    closed: set[int] = set()
    with memstore.open(tmp_path) as store:
        index = IndexConfig(kind=kind, fresh_limit=64, clusters=8)
        config = MemoryConfig(
            dim=4, shards=shards, index=index, records={"open": "bool", "n": "int64"}, lookup=("n",)
        )
        memory = store.create("m", config)
        steady = memory.append(
            rng.normal(size=(300, 4)), records={"open": [True] * 300, "n": [0] * 300}
        )

        def search() -> None:
            queries = np.ones((4, 4), np.float32)
            while not done.is_set():
                before = set(closed)
                tree = field("open") == True  # noqa: E712
                found = memory.search(queries, 10, SearchOptions(filter=tree))
                assert not before & set(found.slots_QK.ravel().tolist())
                assert (found.counts_Q > 0).all()
                rounds[0] += 1

        def enumerate_slots() -> None:
            while not done.is_set():
                seen: list[int] = []
                cursor = None
                while cursor is None or cursor[0] != NO_SLOT:
                    found = memory.lookup("n", [0], 37, cursor)
                    seen += found.slots.tolist()
                    cursor = found.cursor
                assert seen == sorted(set(seen))
                assert set(steady.tolist()) <= set(seen)
                rounds[1] += 1

        def guarded(work: Any) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        readers = [threading.Thread(target=guarded, args=(w,)) for w in (search, enumerate_slots)]
        for reader in readers:
            reader.start()
        for _ in range(60):
            slots = memory.append(
                rng.normal(size=(20, 4)), records={"open": [True] * 20, "n": [0] * 20}
            )
            memory.write(slots[:8], records={"open": [False] * 8, "n": [1] * 8})
            memory.erase(slots[8:12])
            closed |= set(slots[:12].tolist())
        done.set()
        for reader in readers:
            reader.join()
        assert failures == []
        assert min(rounds) > 0
