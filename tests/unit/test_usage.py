"""Sparse writes, usage, allocation, generations, eviction: against plain loops, and bad input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memstore
from memstore import Memory, MemoryConfig, MemstoreError, SearchOptions, UsageConfig
from memstore.errors import InvalidArgument, NotFinite, UnknownSlot, Unsupported, WrongShape
from memstore.kernels.blend import blend_rows
from memstore.kernels.sequence import quiet

D, ROWS = 3, 12


@pytest.fixture(params=[1, 3])
def stored(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Memory]]:
    """Makes memories whose stores are closed when the test is over."""
    stores: list[memstore.Store] = []

    def create(**config: Any) -> Memory:
        stores.append(memstore.open(tmp_path / str(len(stores))))
        config = {"dim": D, "dtype": "float64", "shards": request.param} | config
        memory = stores[-1].create("m", MemoryConfig(**config))
        records = {"n": list(range(ROWS))} if "records" in config else None
        memory.append(np.arange(ROWS * D, dtype=float).reshape(ROWS, D), None, records)
        return memory

    yield create
    for store in stores:
        store.close()


def keys(memory: Memory, *slots: int) -> np.ndarray:
    keys_BD = memory.gather(slots).keys_BD
    assert keys_BD is not None
    return keys_BD


def blended(table: np.ndarray, rows: Any, weights: Any, erase: Any, add: Any) -> np.ndarray:
    """The plain twin of the kernel."""
    table = table.copy()
    for row, w, e, a in zip(rows, weights, erase, add, strict=True):
        table[row] = table[row] * (1 - w * e) + w * a
    return table


@given(st.data(), st.sampled_from([np.float32, np.float64]))
def test_the_kernel_is_its_twin(data: st.DataObject, dtype: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count = data.draw(st.integers(0, 9))
    table = rng.standard_normal((5, D)).astype(dtype)
    rows = rng.integers(0, 5, count)
    weights, erase = rng.random(count).astype(dtype), rng.random((count, D)).astype(dtype)
    add = rng.standard_normal((count, D)).astype(dtype)
    expected = blended(table.astype(np.float64), rows, weights, erase, add)
    moved = blend_rows(table, quiet(len(table)), None, rows, weights, erase, add)
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-6)
    assert moved.shape == (count,)
    assert (moved >= 0).all()


def test_blend_writes_in_order_and_is_found_at_once(stored: Callable[..., Memory]) -> None:
    memory = stored()
    before = keys(memory, *range(ROWS))
    slots, weights = [7, 2, 7], [0.5, 1.0, 0.25]
    erase = np.ones((3, D))
    add = np.array([[9.0, 0, 0], [1e3, 0, 0], [0, 8, 0]])
    assert memory.blend(slots, weights, erase, add).applied == 3
    expected = blended(before, slots, weights, erase, add)
    np.testing.assert_allclose(keys(memory, *range(ROWS)), expected, rtol=1e-12)
    assert memory.search(np.array([[1.0, 0, 0]]), 1).slots_QK.tolist() == [[2]]


def test_the_longest_unused_is_allocated_first(stored: Callable[..., Memory]) -> None:
    memory = stored()
    memory.touch(range(ROWS), 5)
    memory.touch([3, 8], 1)  # earlier than what is known: no news
    memory.touch([0, 1, 2], 9)
    memory.search(np.ones((1, D)), 3)  # a read is no use
    memory.gather([4])
    assert memory.allocate(3, step=10).tolist() == [3, 4, 5]
    assert memory.allocate(2, step=10).tolist() == [6, 7]
    assert memory.gather([3, 2]).generations_B.tolist() == [1, 0]
    assert not keys(memory, 3).any()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.floats(0, 2)), max_size=20))
def test_discounted_usage_is_the_sum_of_the_decayed_weights(uses: list) -> None:
    from memstore.shard.usage import Usage

    usage, discount = Usage(UsageConfig(kind="discounted", discount=0.5)), 0.5
    usage.grow(5)
    for row, step, weight in uses:
        usage.touch(np.array([row]), step, np.array([weight]))
    now = 6
    plain = np.zeros(5)
    for row, step, weight in uses:
        plain[row] += discount ** (now - step) * weight
    kept = np.exp(usage.priority_N + now * np.log(discount))
    np.testing.assert_allclose(kept, plain, rtol=1e-9, atol=1e-12)


@given(st.data(), st.sampled_from(["last_step", "discounted"]))
def test_the_least_used_are_those_of_a_sort(data: st.DataObject, kind: Any) -> None:
    from memstore.shard.usage import Usage

    usage, alive = Usage(UsageConfig(kind=kind, discount=0.5)), np.zeros(0, bool)
    for step in range(data.draw(st.integers(1, 12))):
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        alive = np.concatenate([alive, rng.random(rng.integers(0, 9)) < 0.8])
        usage.grow(len(alive))
        live = np.flatnonzero(alive)
        if len(live):
            used = rng.choice(live, int(rng.integers(0, 6)))
            usage.touch(used, int(rng.integers(0, step + 1)), rng.random(len(used)))
            usage.renew(rng.permutation(live)[: rng.integers(0, 3)])
            alive[rng.choice(live, int(rng.integers(0, 2)))] = False
        if rng.random() < 0.7:
            count, live = int(rng.integers(0, 12)), np.flatnonzero(alive)
            sort = live[np.lexsort((live, usage.priority_N[live]))][:count]
            assert usage.least(alive, count).tolist() == sort.tolist()


def test_discounted_usage_chooses_whom_to_replace(stored: Callable[..., Memory]) -> None:
    memory = stored(usage=UsageConfig(kind="discounted", discount=0.5))
    memory.touch(range(ROWS), 0, np.ones(ROWS))
    memory.touch([4], 0, [3.0])  # 4 at step 0 is as much as 1 at step 2
    memory.touch([5], 3, [0.1])
    assert memory.allocate(ROWS - 2, step=9).tolist() == [0, 1, 2, 3, *range(6, ROWS)]


def test_another_tenant_is_left_alone(stored: Callable[..., Memory]) -> None:
    memory = stored(optimizer="sgd")
    memory.touch(range(1, ROWS), 1)
    (slot,) = memory.allocate(1, step=2)
    assert slot == 0
    before = keys(memory, 0, 1)
    grads = np.ones((3, D))
    applied = memory.update([0, 1, 0], grads, lr=1.0, generations=[0, 0, 0])
    assert (applied.applied, applied.skipped) == (1, 2)
    np.testing.assert_array_equal(keys(memory, 0, 1), before - [[0.0], [1.0]])
    one = np.ones((1, D))
    assert memory.blend([0], [1.0], one, one, generations=[0]).skipped == 1
    assert memory.blend([0], [1.0], one, one, generations=[1]).applied == 1
    np.testing.assert_array_equal(keys(memory, 0), one)


def test_a_new_tenant_has_its_own_record_and_no_optimizer_state(
    stored: Callable[..., Memory],
) -> None:
    memory = stored(records={"n": "int64"}, lookup=("n",), optimizer="adagrad")
    memory.update([0], np.ones((1, D)), lr=1.0)
    memory.touch(range(1, ROWS), 1)
    assert memory.allocate(1, step=1, records={"n": [77]}).tolist() == [0]
    assert memory.lookup("n", [0, 77], 5).padded(1).tolist() == [[-1], [0]]
    memory.update([0], np.ones((1, D)), lr=1.0)
    np.testing.assert_allclose(keys(memory, 0), -np.ones((1, D)))  # a first step of Adagrad is lr


def test_a_full_memory_erases_the_least_used(stored: Callable[..., Memory]) -> None:
    memory = stored(capacity=ROWS)
    memory.touch([slot for slot in range(ROWS) if slot not in (2, 9)], 1)
    new = memory.append(np.full((2, D), 100.0), step=2)
    assert new.tolist() == [ROWS, ROWS + 1]
    assert memory.describe().rows == ROWS
    with pytest.raises(UnknownSlot):
        memory.gather([2])
    everything = memory.search(np.ones((1, D)), ROWS + 2, SearchOptions(exact=True))
    assert set(everything.slots_QK[0].tolist()) - {-1} == set(range(ROWS + 2)) - {2, 9}


def test_usage_and_generations_survive(tmp_path: Path) -> None:
    for kind in ("last_step", "discounted"):
        folder = tmp_path / kind
        with memstore.open(folder) as store:
            memory = store.create("m", MemoryConfig(dim=D, shards=2, usage=kind))
            memory.append(np.ones((5, D)), step=4)
            memory.touch([1, 2], 7)
            memory.allocate(1, step=6)
        with memstore.open(folder) as store:
            memory = store.memory("m")
            assert memory.gather(range(5)).generations_B.tolist() == [1, 0, 0, 0, 0]
            assert memory.allocate(2, step=8).tolist() == [3, 4]


ONE = np.ones((1, D))
BAD: list[tuple[str, type[MemstoreError], Callable[[Any], Any]]] = [
    ("weight above 1", InvalidArgument, lambda m: m.blend([0], [1.5], ONE, ONE)),
    ("weight below 0", InvalidArgument, lambda m: m.blend([0], [-0.1], ONE, ONE)),
    ("erase above 1", InvalidArgument, lambda m: m.blend([0], [1.0], 2 * ONE, ONE)),
    ("add NaN", NotFinite, lambda m: m.blend([0], [1.0], ONE, ONE * np.nan)),
    ("two weights", WrongShape, lambda m: m.blend([0], [1.0, 1.0], ONE, ONE)),
    ("matrix of weights", WrongShape, lambda m: m.blend([0], [[1.0]], ONE, ONE)),
    ("add too wide", WrongShape, lambda m: m.blend([0], [1.0], ONE, np.ones((1, D + 1)))),
    ("blend unknown", UnknownSlot, lambda m: m.blend([0, ROWS], [1, 1], *np.ones((2, 2, D)))),
    ("generations too few", WrongShape, lambda m: m.blend([0], [1.0], ONE, ONE, generations=[])),
    ("update generations", WrongShape, lambda m: m.update([0], ONE, generations=[0, 0])),
    ("touch unknown", UnknownSlot, lambda m: m.touch([0, ROWS], 1)),
    ("touch negative", InvalidArgument, lambda m: m.touch([0], -1)),
    ("touch fraction", InvalidArgument, lambda m: m.touch([0], 1.5)),
    ("touch none", InvalidArgument, lambda m: m.touch([0], None)),
    ("touch beyond", InvalidArgument, lambda m: m.touch([0], 2**53 + 1)),
    ("touch weights", InvalidArgument, lambda m: m.touch([0], 1, [1.0])),
    ("allocate none", InvalidArgument, lambda m: m.allocate(0)),
    ("allocate too many", InvalidArgument, lambda m: m.allocate(ROWS + 1)),
    ("append over capacity", InvalidArgument, lambda m: m.append(np.ones((ROWS + 1, D)))),
]


@pytest.mark.parametrize(("error", "call"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_a_bad_call_changes_nothing(
    stored: Callable[..., Memory], error: type[MemstoreError], call: Callable[[Memory], Any]
) -> None:
    memory = stored(capacity=ROWS)
    before, versions = keys(memory, *range(ROWS)), [s.row_version for s in memory.describe().shards]
    with pytest.raises(error):
        call(memory)
    np.testing.assert_array_equal(keys(memory, *range(ROWS)), before)
    assert [shard.row_version for shard in memory.describe().shards] == versions


def test_encoded_memories_have_no_rows_to_change(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        store.create("part", MemoryConfig(dim=D, index="none")).append(np.ones((2, D)))
        encoding = memstore.EncodingConfig(key={"a": "part"})
        config = MemoryConfig(dim=D, records={"a": "int64"}, encoding=encoding)
        facts = store.create("facts", config)
        facts.append(records={"a": [0, 1]})
        for call in (lambda: facts.allocate(1), lambda: facts.blend([0], [1.0], ONE, ONE)):
            with pytest.raises(Unsupported):
                call()
        assert facts.touch([1], 3).applied == 1
