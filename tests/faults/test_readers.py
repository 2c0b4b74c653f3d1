"""Readers beside a writer: every row is whole, and no read waits, not for one that fails either."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import memstore
from memstore import IndexConfig, Memory, MemoryConfig, SearchOptions
from memstore import field as record
from memstore.kernels.sequence import open_row, quiet
from memstore.kernels.whole import take_tenants
from memstore.memory import Array
from memstore.shard import optimizers, reading, rows
from memstore.shard.records import RecordHeap
from memstore.shard.region import Region
from memstore.shard.row_view import RowView
from tests.conftest import LONG

D, V, ROWS = 2_048, 512, 64
"""So wide that a row is long in work, and so few rows that readers meet it."""

PATIENCE_S = 60.0
ROUNDS = 400 if LONG else 200
HALVES = np.repeat([[1.0], [-1.0]], D // 2, axis=1).reshape(1, D).astype(np.float32)
"""A row of one number scores exactly zero against it, a row of two does not."""


@pytest.fixture(autouse=True)
def fast_switching() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def constant(numbers: Array, width: int) -> Array:
    """Rows of one number each."""
    return np.repeat(numbers[:, None], width, axis=1).astype(np.float32)


@pytest.fixture(params=["exact", "clustered"])
def memory(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Memory]:
    index = IndexConfig(kind=request.param, clusters=2, probe=2)
    config = MemoryConfig(dim=D, value_dim=V, optimizer="sgd", index=index)
    with memstore.open(tmp_path) as store:
        memory = store.create("m", config)
        numbers = np.arange(ROWS)
        memory.append(constant(numbers, D), constant(numbers, V))
        memory.reindex()
        yield memory


def write(memory: Memory, numbers: Array, some: Array) -> None:
    memory.write(some, constant(numbers, D), constant(numbers, V))


def update(memory: Memory, numbers: Array, some: Array) -> None:
    memory.update(some, constant(numbers, D), constant(numbers, V), lr=1.0)


def blend(memory: Memory, numbers: Array, some: Array) -> None:
    ones = np.ones((len(some), D), np.float32)
    memory.blend(some, np.ones(len(some)), ones, constant(numbers, D))


def torn_keys(memory: Memory) -> bool:
    read = memory.gather(np.arange(ROWS))
    assert read.keys_BD is not None
    assert read.values_BV is not None
    return bool(np.ptp(read.keys_BD, axis=1).any() or np.ptp(read.values_BV, axis=1).any())


def torn_rows(memory: Memory) -> bool:
    """Whether the key of a row and its value are of two writes."""
    read = memory.gather(np.arange(ROWS))
    assert read.keys_BD is not None
    assert read.values_BV is not None
    return torn_keys(memory) or bool((read.keys_BD[:, 0] != read.values_BV[:, 0]).any())


def torn_scores(memory: Memory) -> bool:
    return bool(memory.search(HALVES, ROWS).scores_QK.any())


def torn(memory: Memory, change: Callable[..., None], look: Callable[..., bool]) -> bool:
    """Whether a reader sees a torn row while another thread changes rows."""
    done, seen, looks = threading.Event(), threading.Event(), 0
    failures: list[BaseException] = []

    def read() -> None:
        nonlocal looks
        try:
            while not done.is_set():
                if look(memory):
                    seen.set()
                looks += 1
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        if seen.is_set() or failures:
            break
        change(memory, rng.integers(-99, 99, ROWS // 2), rng.permutation(ROWS)[: ROWS // 2])
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert looks
    return seen.is_set()


@pytest.mark.parametrize(
    ("change", "look"),
    [
        (write, torn_rows),
        (write, torn_scores),
        (update, torn_keys),
        (update, torn_scores),
        (blend, torn_keys),
        (blend, torn_scores),
    ],
)
def test_rows_are_read_whole(
    memory: Memory, change: Callable[..., None], look: Callable[..., bool]
) -> None:
    assert not torn(memory, change, look)


@pytest.mark.parametrize(("change", "look"), [(write, torn_rows), (update, torn_scores)])
def test_without_their_numbers_they_would_not_be(
    memory: Memory,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[..., None],
    look: Callable[..., bool],
) -> None:
    def tenants(view: RowView, rows_B: Array) -> Any:
        arrays = view.keys_ND, view.values_NV, view.generation_N
        return take_tenants(*arrays, quiet(ROWS), rows_B)

    def deaf(kernel: Callable[..., Any]) -> Callable[..., Any]:
        return lambda queries, keys, marks, *rest: kernel(queries, keys, quiet(ROWS), *rest)

    monkeypatch.setattr(RowView, "tenants", tenants)
    for name in ("score_rows", "best_rows"):
        monkeypatch.setattr(reading, name, deaf(getattr(reading, name)))
    end = time.monotonic() + PATIENCE_S
    while not torn(memory, change, look):
        assert time.monotonic() < end


def finished(work: Callable[[], object]) -> bool:
    """Whether the work comes to its end without anybody else's doing."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert failures == []
    return not thread.is_alive()


PLACES: list[tuple[Any, str, str]] = [
    (optimizers, "step", "update"),
    (rows, "put_rows", "write"),
    (rows, "put_rows", "append"),
    (rows, "blend_rows", "blend"),
    (Region, "_move", "append"),
    (RecordHeap, "put", "append"),
    (memstore.index.two_tier.TwoTierIndex, "wrote", "append"),
    (memstore.index.two_tier.TwoTierIndex, "killed", "erase"),
]


@pytest.mark.parametrize(
    ("owner", "name", "verb"), PLACES, ids=[f"{name}-{verb}" for _, name, verb in PLACES]
)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", ["exact", "clustered"])
def test_no_read_waits_for_a_mutation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, verb: str,
    after: bool, kind: Any,
) -> None:  # fmt: skip
    """The writer is stopped in the middle of its work, and every read goes through."""
    entered, go_on = threading.Event(), threading.Event()
    work = getattr(owner, name)

    def stopped(*arguments: Any, **named: Any) -> Any:
        result = work(*arguments, **named) if after else None
        entered.set()
        assert go_on.wait(2 * PATIENCE_S)
        return result if after else work(*arguments, **named)

    # Without addresses to spare a table moves as it grows.
    monkeypatch.setattr("memstore.shard.region.RESERVED_ROWS", 0)
    monkeypatch.setattr("memstore.shard.region.FIRST_ROWS", 0)
    with memstore.open(tmp_path) as store:
        index = IndexConfig(kind=kind, clusters=2, probe=2, fresh_limit=50)
        config = MemoryConfig(
            dim=4, value_dim=2, index=index, records={"n": "int64"}, lookup=("n",)
        )
        memory = store.create("m", config)
        keys, values, records = np.eye(4), np.ones((4, 2)), {"n": [0, 1, 2, 3]}
        for _ in range(20):
            memory.append(keys, values, records)
        some = np.arange(4)
        many = (np.tile(keys, (2_500, 1)), np.tile(values, (2_500, 1)), {"n": [9] * 10_000})
        writes = {
            "update": lambda: memory.update(some, keys, values),
            "write": lambda: memory.write(some, keys, values, records),
            "append": lambda: memory.append(*many),
            "blend": lambda: memory.blend(some, np.ones(4), keys, keys),
            "erase": lambda: memory.erase(some),
        }

        new = SearchOptions(filter=record("n") == 9)

        def reads() -> None:
            memory.search(keys, 3, new)  # whose answer is kept
            for exact in (False, True):
                for tree in (None, record("n") == 2):
                    found = memory.search(np.eye(4), 3, SearchOptions(exact=exact, filter=tree))
                    assert found.counts_Q.tolist() == [3] * 4
            assert memory.gather(np.arange(40, 80), columns=["n"]).records is not None
            assert memory.lookup("n", [2, 3], 30).counts_Q.min() >= 19
            assert memory.describe().next_slot >= 80

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stopped)
            writer = threading.Thread(target=writes[verb], daemon=True)
            writer.start()
            assert entered.wait(PATIENCE_S)
            try:
                assert finished(reads)
                assert writer.is_alive()
            finally:
                go_on.set()
                writer.join()
        reads()
        assert memory.search(keys, 3, new).counts_Q.tolist() == [3 * (verb == "append")] * 4


def test_a_writer_that_fails_holds_no_row(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = numba.njit(lambda marks, row: open_row(marks, row))

    def failing(table_ND: Array, marks: Array, *_: Any) -> None:
        begin(marks, 3)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(rows, "blend_rows", failing)
        with pytest.raises(MemoryError):
            blend(memory, np.ones(2), np.arange(2))
    assert finished(lambda: memory.gather(np.arange(ROWS)))
    assert finished(lambda: memory.search(HALVES, 3))
    write(memory, np.array([5]), np.array([3]))
    keys_BD = memory.gather([3]).keys_BD
    assert keys_BD is not None
    assert keys_BD.tolist() == [[5.0] * D]


def test_live_rows_are_rows_while_they_come_and_go() -> None:
    count = 300_000
    alive_N = np.zeros(count, bool)
    none = np.empty((count, 0), np.float32)
    view = RowView(none, none, alive_N, np.zeros(count, np.int64), quiet(count))
    done = threading.Event()

    def flip() -> None:
        while not done.is_set():
            alive_N[:] = True
            alive_N[:] = False

    writer = threading.Thread(target=flip)
    writer.start()
    try:
        for _ in range(ROUNDS):
            rows_R = view.live_rows()
            assert rows_R.max(initial=0) < count
            assert (np.diff(rows_R) > 0).all()
    finally:
        done.set()
        writer.join()
