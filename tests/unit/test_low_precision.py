"""Memories of float16 and bfloat16: what goes in, what comes out, and that their rows learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import memstore
from memstore import EncodingConfig, MemoryConfig, OptimizerConfig, SearchOptions, files
from memstore.dtypes import BFLOAT16
from memstore.errors import CorruptFile, NotFinite
from memstore.kernels.half import wide
from memstore.memory import Array
from memstore.torch import RowOptimizer, SparseReader
from tests.congruence.oracle import fingerprint, inner_products
from tests.unit.test_half import EDGES

NAMES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])

DEFAULTS: dict[str, Any] = {"dim": 3, "index": "exact"}


def make(path: Path, **given: Any) -> tuple[memstore.Store, memstore.Memory]:
    store = memstore.open(path)
    return store, store.create("m", MemoryConfig(**DEFAULTS | given))


STEPS = 10_000


@NAMES
@pytest.mark.parametrize("master", [False, True])
def test_the_first_update_leaves_what_blends_made_of_other_rows(
    tmp_path: Path, dtype: Any, master: bool
) -> None:
    optimizer = OptimizerConfig(kind="adam", master=master)
    store, memory = make(tmp_path, dtype=dtype, optimizer=optimizer)
    with store:
        slots = memory.append(np.ones((2, 3), np.float32))
        small = np.full((1, 3), 1e-4, np.float32)
        for _ in range(4):
            memory.blend(slots[:1], [1.0], np.zeros((1, 3), np.float32), small)
        table = memory.shards[0].rows  # type: ignore[attr-defined]
        name = "key_master" if master else "key_drawn"
        before = table.state[name][0].copy()
        memory.update(slots[1:], np.ones((1, 3), np.float32))
        assert np.array_equal(table.state[name][0], before)
        assert np.any(before)


@NAMES
def test_a_write_is_all_that_counts_of_a_row_with_a_master(tmp_path: Path, dtype: Any) -> None:
    store, memory = make(tmp_path, dtype=dtype, optimizer=OptimizerConfig(kind="sgd", master=True))
    with store:
        one, small = np.ones((2, 3), np.float32), np.full((2, 3), 2e-4, np.float32)
        slots = memory.append(one)
        for _ in range(2):
            memory.blend(slots[:1], [1.0], np.zeros((1, 3), np.float32), small[:1])
        memory.write(slots, one)
        for _ in range(20):
            memory.blend(slots, [1.0, 1.0], np.zeros((2, 3), np.float32), small)
        keys_BD = memory.gather(slots).keys_BD
        assert keys_BD is not None
        assert keys_BD[0].tolist() == keys_BD[1].tolist() != [1.0] * 3


@NAMES
@pytest.mark.parametrize("master", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "adagrad"])
def test_ten_thousand_steps_of_a_ten_thousandth_arrive(
    tmp_path: Path, dtype: Any, kind: Any, master: bool
) -> None:
    # Adagrad divides by √t: its learning rate is what takes it as far, 2·√10⁴·lr = 1.
    lr = 1e-4 if kind == "sgd" else 0.005
    optimizer = OptimizerConfig(kind=kind, lr=lr, master=master, seed=5)
    store, memory = make(tmp_path, dim=64, dtype=dtype, optimizer=optimizer)
    with store:
        slots = memory.append(np.ones((1, 64), np.float32))
        grads = np.full((1, 64), -1.0, np.float32)
        for _ in range(STEPS):
            memory.update(slots, grads)
        keys_BD = memory.gather(slots).keys_BD
        assert keys_BD is not None
        row = wide(keys_BD[0])
        store.drop("m")
    goal = 1 + lr * (STEPS if kind == "sgd" else (1 / np.sqrt(np.arange(1, STEPS + 1))).sum())
    assert goal == pytest.approx(2.0, abs=0.01)
    gap = 2**-10 if dtype == "float16" else 2**-7  # between neighbours from 1 to 2
    if master:
        assert np.abs(row - goal).max() <= gap
    else:
        # At most a walk of STEPS draws: the variance of one is below gap · step.
        deviation = np.sqrt(gap * (goal - 1))
        assert np.abs(row - goal).max() < 5 * deviation
        assert abs(row.mean() - goal) < 5 * deviation / np.sqrt(64)
        assert len(set(row.tolist())) > 1


@NAMES
def test_blends_far_below_what_a_row_can_tell_apart_arrive(tmp_path: Path, dtype: Any) -> None:
    store, memory = make(tmp_path, dim=64, dtype=dtype)
    with store:
        slots = memory.append(np.ones((1, 64), np.float32))
        zero, add = np.zeros((1, 64), np.float32), np.ones((1, 64), np.float32)
        for _ in range(2_000):
            memory.blend(slots, [2e-4], zero, add)
        keys_BD = memory.gather(slots).keys_BD
        assert keys_BD is not None
        store.drop("m")
    gap = 2**-10 if dtype == "float16" else 2**-7
    assert abs(wide(keys_BD).mean() - 1.4) < 5 * np.sqrt(gap * 0.4 / 64)


@NAMES
def test_rounding_depends_on_seed_slot_and_count_alone(tmp_path: Path, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(2, 50, 7)).astype(np.float32)
    grads = rng.normal(scale=1e-3, size=(50, 7)).astype(np.float32)

    def run(folder: str, shards: int, order: Array, seed: int, calls: int) -> bytes:
        optimizer = OptimizerConfig(kind="sgd", lr=1.0, seed=seed)
        given = {"dim": 7, "value_dim": 7, "shards": shards, "dtype": dtype}
        store, memory = make(tmp_path / folder, optimizer=optimizer, **given)
        with store:
            memory.append(keys, values)
            for _ in range(3):
                for part in np.array_split(order, calls):
                    memory.update(part, grads[part], grads[part])
            rows = memory.gather(np.arange(50))
            assert rows.keys_BD is not None
            assert rows.values_BV is not None
            store.drop("m")
        return rows.keys_BD.tobytes() + rows.values_BV.tobytes()

    first = run("a", 1, np.arange(50), 3, 1)
    assert run("b", 1, np.arange(50), 3, 1) == first
    assert run("c", 4, rng.permutation(50), 3, 1) == first
    assert run("d", 3, rng.permutation(50), 3, 5) == first
    assert run("e", 1, np.arange(50), 4, 1) != first


@NAMES
def test_keys_and_values_are_rounded_apart(tmp_path: Path, dtype: Any) -> None:
    store, memory = make(tmp_path, dim=40, value_dim=40, dtype=dtype, optimizer="sgd")
    with store:
        ones = np.ones((8, 40), np.float32)
        slots = memory.append(ones, ones)
        memory.update(slots, ones * 1e-3, ones * 1e-3, lr=1.0)
        rows = memory.gather(slots)
        assert rows.keys_BD is not None
        assert rows.values_BV is not None
        assert (rows.keys_BD != rows.values_BV).any()


@NAMES
@pytest.mark.parametrize("master", [False, True])
def test_reopening_goes_on_bit_for_bit(tmp_path: Path, dtype: Any, master: bool) -> None:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(30, 5)).astype(np.float32)
    grads = rng.normal(scale=1e-3, size=(30, 5)).astype(np.float32)
    found = []
    for reopens in (False, True):
        folder = tmp_path / str(reopens)
        optimizer = OptimizerConfig(kind="adam", master=master)
        given: dict[str, Any] = {"dim": 5, "shards": 2, "dtype": dtype, "optimizer": optimizer}
        store, memory = make(folder, **given)
        memory.append(keys)
        memory.update(np.arange(30), grads)
        if reopens:
            store.close()
            store = memstore.open(folder)
            memory = store.memory("m")
        memory.update(np.arange(30), grads)
        rows = memory.gather(np.arange(30))
        assert rows.keys_BD is not None
        assert rows.keys_BD.dtype == np.dtype(dtype)
        result = memory.search(keys[:4], 7)
        found.append((rows.keys_BD.tobytes(), result.slots_QK.tolist(), result.scores_QK.tolist()))
        store.close()
    assert found[0] == found[1]


@NAMES
def test_a_checkpoint_of_another_dtype_is_refused(tmp_path: Path, dtype: Any) -> None:
    store, memory = make(tmp_path, dtype=dtype)
    memory.append(np.ones((2, 3), np.float32))
    store.close()
    manifest = files.read_json(tmp_path / "memstore.json")
    other = "bfloat16" if dtype == "float16" else "float16"
    manifest["memories"]["m"]["config"]["dtype"] = other
    files.replace_json(tmp_path / "memstore.json", manifest)
    with pytest.raises(CorruptFile, match="keys in .* have another dtype.*" + other):
        memstore.open(tmp_path)


@NAMES
def test_rows_come_back_rounded_to_the_nearest(tmp_path: Path, dtype: Any) -> None:
    store, memory = make(tmp_path, dim=len(EDGES), value_dim=len(EDGES), dtype=dtype)
    with store:
        twin = EDGES[None].astype(dtype)
        for given in (EDGES[None], twin):
            slots = memory.append(given, given)
            rows = memory.gather(slots)
            assert rows.keys_BD is not None
            assert rows.values_BV is not None
            assert rows.keys_BD.dtype == rows.values_BV.dtype == np.dtype(dtype)
            assert rows.keys_BD.tobytes() == rows.values_BV.tobytes() == twin.tobytes()
        memory.write(slots, -EDGES[None])
        rows = memory.gather(slots)
        assert rows.keys_BD is not None
        assert rows.keys_BD.tobytes() == (-EDGES[None]).astype(dtype).tobytes()


@NAMES
@pytest.mark.parametrize("index", ["exact", "none"])
def test_exact_search_is_the_kernel_on_the_widened_rows(
    tmp_path: Path, dtype: Any, index: Any
) -> None:
    rng = np.random.default_rng(0)
    keys = (rng.normal(size=(3_000, 37)) * rng.lognormal(0, 3, (3_000, 1))).clip(-6e4, 6e4)
    queries = rng.normal(size=(20, 37)).astype(np.float32)
    store, memory = make(tmp_path, dim=37, dtype=dtype, shards=3, index=index)
    with store:
        memory.append(keys.astype(np.float32))
        found = memory.search(queries, 10, SearchOptions(exact=True))
    scores_QN = inner_products(queries, keys.astype(np.float32).astype(dtype).astype(np.float32))
    order_QN = np.lexsort((np.broadcast_to(np.arange(3_000), scores_QN.shape), -scores_QN))[:, :10]
    assert found.scores_QK.dtype == np.float32
    assert found.slots_QK.tolist() == order_QN.tolist()
    assert found.scores_QK.tolist() == np.take_along_axis(scores_QN, order_QN, 1).tolist()


@NAMES
@pytest.mark.parametrize("codec", ["pq4", "sq8", "fp16", "flat"])
def test_a_clustered_index_finds_them(tmp_path: Path, dtype: Any, codec: Any) -> None:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(6_000, 16)).astype(np.float32)
    index = {"kind": "clustered", "codec": codec, "fresh_limit": 1_000, "recall_target": 0.95}
    store, memory = make(tmp_path, dim=16, dtype=dtype, index=index)
    with store:
        for part in np.array_split(keys, 10):
            memory.append(part)
        memory.reindex()
        memory.append(keys[:500] * 2)
        queries = rng.normal(size=(50, 16)).astype(np.float32)
        found = memory.search(queries, 10)
        exact = memory.search(queries, 10, SearchOptions(exact=True))
        rows = memory.gather(found.slots_QK.ravel())
        assert rows.keys_BD is not None
    assert (found.scores_QK >= exact.scores_QK[:, -1:]).mean() > 0.9
    scores_QK = np.stack(
        [
            inner_products(query[None], keys_KD)[0]
            for query, keys_KD in zip(queries, wide(rows.keys_BD).reshape(50, 10, 16), strict=True)
        ]
    )
    assert found.scores_QK.tolist() == scores_QK.tolist()


@NAMES
def test_a_step_stops_at_the_largest_number(tmp_path: Path, dtype: Any) -> None:
    store, memory = make(tmp_path, dtype=dtype, optimizer="sgd")
    with store:
        slots = memory.append(np.full((1, 3), 60_000, np.float32))
        for _ in range(3):
            memory.update(slots, np.array([[-1e14, 1e14, 0]], np.float32), lr=1.0)
        keys_BD = memory.gather(slots).keys_BD
        assert keys_BD is not None
        row = wide(keys_BD)[0].tolist()
    if dtype == "float16":
        assert row == [65_504, -65_504, 60_000]
    else:
        assert np.isfinite(row).all()
        assert row[2] == np.float32(60_000).astype(BFLOAT16)


@NAMES
@pytest.mark.parametrize("master", [False, True])
def test_a_reader_trains_on_them_as_on_float32(tmp_path: Path, dtype: Any, master: bool) -> None:
    # Each query is to read the value of its own row: values begin at zero.
    rng = np.random.default_rng(0)
    keys, goals = (
        rng.normal(size=(20, 8)).astype(np.float32),
        torch.from_numpy(rng.normal(size=(20, 4))),
    )

    def losses(folder: str, **given: Any) -> list[float]:
        store, memory = make(tmp_path / folder, dim=8, value_dim=4, **given)
        with store:
            memory.append(keys, np.zeros((20, 4), np.float32))
            reader = SparseReader(memory, k=4)
            assert reader.rows is not None
            steps = RowOptimizer([reader.rows])
            found = []
            for _ in range(100):
                reading = reader(torch.from_numpy(3 * keys))
                assert reading.output_QV.dtype == torch.float32
                loss = (reading.output_QV - goals.float()).square().mean()
                loss.backward()
                steps.step()
                found.append(loss.item())
        return found

    optimizer = {"kind": "adagrad", "lr": 0.05}
    single = losses("single", optimizer=optimizer)
    low = losses("low", dtype=dtype, optimizer=optimizer | {"master": master})
    assert single[-1] < 0.5 * single[0]
    assert low[-1] < 1.1 * single[-1]


def rows_of(value: float, dtype: Any = np.float32) -> Array:
    return np.full((2, 3), value, dtype)


@pytest.mark.parametrize(
    "wrong",
    [
        rows_of(65_536.0),
        rows_of(-1e9),
        rows_of(1e300, np.float64),
        rows_of(70_000, np.int64),
        rows_of(np.inf, np.float16),
        rows_of(np.nan, np.float16),
        rows_of(1e10, BFLOAT16),
        rows_of(np.nan, BFLOAT16),
        [[1.0, 2.0, 3.0], [1e5, 0.0, 0.0]],
    ],
)
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, wrong: Any) -> None:
    store, memory = make(tmp_path, value_dim=3, dtype="float16")
    with store:
        memory.append(rows_of(1.0), rows_of(2.0))
        before = fingerprint(memory)
        for call in (
            lambda: memory.append(wrong, rows_of(1.0)),
            lambda: memory.append(rows_of(1.0), wrong),
            lambda: memory.write([0, 1], wrong),
            lambda: memory.write([0, 1], rows_of(1.0), wrong),
        ):
            with pytest.raises(NotFinite, match="magnitude ≤ 65504"):
                call()
        assert fingerprint(memory) == before


@NAMES
@pytest.mark.parametrize("wrong", [rows_of(np.inf, BFLOAT16), rows_of(1e16), rows_of(-np.inf)])
def test_what_is_not_finite_is_refused(tmp_path: Path, dtype: Any, wrong: Any) -> None:
    store, memory = make(tmp_path, dtype=dtype)
    with store:
        memory.append(rows_of(1.0))
        before = fingerprint(memory)
        for call in (
            lambda: memory.append(wrong),
            lambda: memory.update([0, 1], wrong),
            lambda: memory.search(wrong, 1),
        ):
            with pytest.raises(NotFinite):
                call()
        assert fingerprint(memory) == before


def test_queries_and_gradients_may_be_larger_than_a_float16(tmp_path: Path) -> None:
    store, memory = make(tmp_path, dtype="float16", optimizer="sgd")
    with store:
        memory.append(rows_of(0.5))
        assert memory.search(rows_of(1e6), 1).scores_QK.tolist() == [[1.5e6], [1.5e6]]
        memory.update([0, 1], rows_of(1e6), lr=1e-6)
        keys_BD = memory.gather([0]).keys_BD
        assert keys_BD is not None
        np.testing.assert_allclose(wide(keys_BD), -0.5, atol=1e-3)


def test_a_blend_past_the_largest_float16_is_refused(tmp_path: Path) -> None:
    store, memory = make(tmp_path, dtype="float16")
    with store:
        memory.append(rows_of(60_000.0))
        before = fingerprint(memory)
        with pytest.raises(NotFinite, match="≤ 65504"):
            memory.blend([0], [1.0], rows_of(0.0)[:1], rows_of(6_000.0)[:1])
        assert fingerprint(memory) == before


def test_a_sum_of_parts_past_the_largest_float16_is_refused(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        part = store.create("parts", MemoryConfig(dim=3, dtype="float16", index="none"))
        facts = store.create(
            "facts",
            MemoryConfig(
                dim=3,
                dtype="float16",
                records={"a": "int64", "b": "int64"},
                encoding=EncodingConfig(key={"a": "parts", "b": "parts"}),
            ),
        )
        part.append(rows_of(40_000.0))
        with pytest.raises(NotFinite):
            facts.append(records={"a": [0], "b": [1]})
        part.write([1], rows_of(20_000.0)[:1])
        facts.append(records={"a": [0], "b": [1]})
        # What parts were trained to since is kept as far as it goes.
        part.write([1], rows_of(40_000.0)[:1])
        assert facts.refresh().encoded == 1
        keys_BD = facts.gather([0]).keys_BD
        assert keys_BD is not None
        assert keys_BD.tolist() == [[65_504.0] * 3]
