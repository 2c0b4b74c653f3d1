"""Rows in files within a budget of main memory: what is there is what is looked at."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, SearchOptions
from memstore.config import LEAST_RESIDENT
from memstore.durable.resharding import reshard
from memstore.durable.verify import verify
from memstore.embedded import EmbeddedMemory
from memstore.errors import InvalidArgument
from memstore.kernels.half import wide
from memstore.kernels.pages import AWAY, PAGE, SEEN, UNSEEN, States, want
from memstore.memory import Array, Memory, Slots
from memstore.shard import residency
from memstore.shard.blocks import blocks
from memstore.shard.cut import Cut
from memstore.shard.region import Region
from memstore.shard.residency import Residency

DIM, ROWS, BUDGET = 64, 40_000, 3 << 20  # of 10 MB of rows
EXACT = SearchOptions(exact=True)


def config(**other: object) -> MemoryConfig:
    values = {"dim": DIM, "value_dim": 3, "shards": 2, "optimizer": "adagrad", "index": "exact"}
    return MemoryConfig.from_dict(values | {"storage": "mapped", "resident_bytes": BUDGET} | other)


def held(memory: Memory) -> int:
    """Bytes of main memory that its rows take."""
    return sum(shard.row_bytes for shard in memory.describe().shards)


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"index": {"kind": "clustered", "clusters": 16, "probe": 4}},
        {"updates": "logged"},
        {"dtype": "bfloat16", "optimizer": {"kind": "adam", "master": True}},
    ],
)
def test_a_budget_is_kept_and_nothing_else_changes(tmp_path: Path, other: dict[str, Any]) -> None:
    """Everything that touches rows, beside a memory that has no budget."""
    rng = np.random.default_rng(0)

    def drawn(rows: int, width: int = DIM) -> Array:
        return rng.standard_normal((rows, width), dtype=np.float32)

    with memstore.open(tmp_path / "store") as store:
        tight = store.create("tight", config(**other))
        ample = store.create("ample", config(**other, resident_bytes=None))
        most = [0]

        def both(call: str, *given: Any) -> list[Any]:
            answers = [getattr(memory, call)(*given) for memory in (tight, ample)]
            most[0] = max(most[0], held(tight))
            return answers

        for _ in range(4):
            both("append", drawn(ROWS // 4), drawn(ROWS // 4, 3))
        both("reindex")
        for _ in range(10):
            some = rng.integers(0, ROWS, 20)  # of six pages each, with their state
            both("update", some, drawn(20), drawn(20, 3))
            both("blend", some[:9], np.full(9, 0.5, np.float32), np.zeros((9, DIM)), drawn(9))
            both("write", some[10:], drawn(10), drawn(10, 3))
            queries = drawn(2)
            found, expected = both("search", queries, 10, EXACT)
            np.testing.assert_array_equal(found.slots_QK, expected.slots_QK)
            np.testing.assert_array_equal(found.scores_QK, expected.scores_QK)
            # What an index proposes comes in together, be the budget smaller or not; scores are of
            # rows as they are.
            found = tight.search(queries[:1], 2)
            keys_KD = ample.gather(found.slots_QK[0]).keys_BD
            assert keys_KD is not None
            np.testing.assert_allclose(wide(keys_KD) @ queries[0], found.scores_QK[0], rtol=1e-4)
            same(*both("gather", rng.integers(0, ROWS, 500)))
        both("allocate", 5_000)
        store.checkpoint()
        # Behind the checkpoint, in the log.
        both("write", np.arange(3_000), drawn(3_000), drawn(3_000, 3))
        assert most[0] <= BUDGET
        assert held(tight) <= BUDGET
        assert held(ample) > 2 * BUDGET
    with memstore.open(tmp_path / "store") as store:
        tight, ample = store.memory("tight"), store.memory("ample")
        assert tight.config.resident_bytes == BUDGET
        assert held(tight) <= BUDGET
        for first in range(0, ROWS, 1_000):
            same(*(memory.gather(np.arange(first, first + 1_000)) for memory in (tight, ample)))
        assert held(tight) <= BUDGET
    restore(tmp_path / "store", tmp_path / "restored")


def restore(source: Path, target: Path) -> None:
    """Into another number of shards, within the same budget."""
    reshard(source, target, {"tight": 3, "ample": 3})
    assert not list(verify(target))
    with memstore.open(target) as store:
        tight, ample = store.memory("tight"), store.memory("ample")
        assert held(tight) <= BUDGET
        for first in range(0, ROWS, 10_000):
            same(*(memory.gather(np.arange(first, first + 10_000)) for memory in (tight, ample)))


@pytest.mark.parametrize("stored", [True, False])
def test_encoded_rows_within_a_budget(tmp_path: Path, stored: bool) -> None:
    """Facts, and the entities that they are sums of."""
    found = []
    with memstore.open(tmp_path) as store:
        for name, how in (("tight", ("mapped", BUDGET)), ("ample", ("memory", None))):
            same = {"dim": DIM, "storage": how[0], "resident_bytes": how[1]}
            part = MemoryConfig.from_dict(same | {"index": "none"})
            parts = store.create(f"{name}-parts", part)
            encoding = {"key": {"a": f"{name}-parts", "b": f"{name}-parts"}, "stored": stored}
            fact = {"records": {"a": "int64", "b": "int64"}, "encoding": encoding}
            facts = store.create(name, MemoryConfig.from_dict(same | fact | {"index": "exact"}))
            rng = np.random.default_rng(3)
            parts.append(rng.standard_normal((ROWS // 2, DIM), dtype=np.float32))
            named = rng.integers(0, ROWS // 2, (2, ROWS))
            facts.append(records={"a": named[0], "b": named[1]})
            slots = rng.integers(0, ROWS // 2, 30)
            parts.update(slots, rng.standard_normal((30, DIM), dtype=np.float32), lr=0.5)
            facts.refresh()
            queries = rng.standard_normal((2, DIM), dtype=np.float32)
            found.append(facts.search(queries, 10, EXACT))
            if name == "tight":
                assert max(held(parts), held(facts)) <= BUDGET
    np.testing.assert_array_equal(found[0].slots_QK, found[1].slots_QK)
    np.testing.assert_array_equal(found[0].scores_QK, found[1].scores_QK)


def test_a_large_change_beside_a_checkpoint(tmp_path: Path) -> None:
    """What rows were is kept for the checkpoint, piece by piece."""
    with memstore.open(tmp_path) as store:
        memory = store.create("m", config(shards=1, value_dim=None))
        keys_BD = np.ones((ROWS, DIM), np.float32)
        memory.append(keys_BD)
        [shard] = cast(EmbeddedMemory, memory).shards
        with shard.writers:
            cut = Cut(shard.rows.arrays, np.ones(blocks(ROWS), bool), pieces=shard.rows.pieces)
            shard.cut = cut
        memory.write(np.arange(ROWS), 2 * keys_BD)
        assert held(memory) <= BUDGET
        for _, arrays in cut.blocks(shard.writers):
            assert (arrays["keys"] == 1).all()
        assert held(memory) <= BUDGET
        shard.cut = None


def same(one: Any, other: Any) -> None:
    for name in ("keys_BD", "values_BV", "generations_B"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_what_is_looked_at_stays(tmp_path: Path) -> None:
    """A tenth of the rows is read again and again, beside all the others once in a while."""
    region = Region((512,), np.float32, tmp_path, singly=True)
    region.grow(8_000)  # of half a page
    kept = Residency(4 << 20, lambda: 0)
    kept.watch({"keys": region}, 8_000)
    rng = np.random.default_rng(1)
    hot = rng.permutation(4_000)[:400] * 2
    for _ in range(100):
        kept.want(rng.choice(hot, 300), "keys")
        kept.want(rng.integers(0, 8_000, 60), "keys")
        region.view(8_000)[hot[:1]] += 1
    here = set(region.pages_here().tolist())
    assert len(here) * PAGE <= 4 << 20
    assert np.mean([page in here for page in hot // 2]) > 0.95
    assert len(here) > len(hot) * 1.5, "the rest of the budget is used too"


def test_pages_that_nobody_asked_for_leave_first(tmp_path: Path) -> None:
    region = Region((1_024,), np.float32, tmp_path, singly=True)
    region.grow(2_000)
    kept = Residency(4 << 20, lambda: 0)
    kept.watch({"keys": region}, 2_000)
    kept.want(np.arange(500), "keys")
    region.view(2_000)[1_000:] = 7  # 1,000 pages, and not told of
    kept.want(np.arange(500, 600), "keys", waits=True)
    here = region.pages_here()
    assert len(here) * PAGE <= 4 << 20
    assert np.isin(np.arange(500), here).all()
    assert (region.view(2_000)[1_000:] == 7).all()
    assert not region.view(2_000)[:1_000].any()


def test_what_lies_in_no_file_counts(tmp_path: Path) -> None:
    region = Region((1_024,), np.float32, tmp_path, singly=True)
    region.grow(2_000)
    kept = Residency(4 << 20, lambda: 3 << 20)
    kept.watch({"keys": region}, 2_000)
    for first in range(0, 2_000, 50):
        kept.want(np.arange(first, first + 50), "keys")
        assert len(region.pages_here()) * PAGE <= 1 << 20


def test_readers_and_a_writer_share_a_budget(tmp_path: Path) -> None:
    """Pages leave and come while others read and write them: every row is what was written."""
    with memstore.open(tmp_path) as store:
        memory = store.create("m", config(value_dim=None, optimizer="sgd", shards=1))
        whole = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
        memory.append(whole)

        def keys(slots: Slots) -> Array:
            keys_BD = memory.gather(slots).keys_BD
            assert keys_BD is not None
            return keys_BD

        over, wrong = threading.Event(), list[str]()

        def read(seed: int) -> None:
            rng = np.random.default_rng(seed)
            while not over.is_set():
                slots = rng.integers(ROWS // 2, ROWS, 400)
                if not np.array_equal(keys(slots), whole[slots]):
                    wrong.append("a row that nobody changes is another")
                found = memory.search(whole[slots[:2]] * 50, 1, EXACT).slots_QK
                if not np.array_equal(found[:, 0], slots[:2]):
                    wrong.append("a row that nobody changes is not the nearest to itself")

        readers = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
        for reader in readers:
            reader.start()
        rng = np.random.default_rng(9)
        for _ in range(100):
            slots = rng.permutation(ROWS // 2)[:500]
            grads = rng.standard_normal((500, DIM), dtype=np.float32)
            memory.update(slots, grads, lr=0.5)
            whole[slots] -= np.float32(0.5) * grads
        over.set()
        for reader in readers:
            reader.join()
        assert not wrong
        assert held(memory) <= 1.25 * BUDGET, "readers wait for no disk, so some more may be there"
        assert np.allclose(keys(np.arange(ROWS)), whole, atol=1e-5)


@pytest.mark.parametrize("row_bytes", [8, 400, 4_096, 10_000])
def test_pages_of_rows(tmp_path: Path, row_bytes: int) -> None:
    rng = np.random.default_rng(row_bytes)
    region = Region((row_bytes,), np.uint8, tmp_path, singly=True)
    region.grow(900)
    states = rng.choice(np.array([AWAY, AWAY, UNSEEN], np.uint8), -(-900 * row_bytes // PAGE))
    away, twin = states == AWAY, states.copy()
    for _ in range(5):
        rows = rng.integers(-1, 901, 40)  # some are out of range
        assert want(rows, row_bytes, states, region.address) == note(rows, row_bytes, twin)
        np.testing.assert_array_equal(states, twin)
    asked, here = np.flatnonzero(away & (states == SEEN)), region.pages_here()
    assert np.isin(here, asked).all()
    assert len(here) > len(asked) / 2, "some may not be there yet"


def note(rows_B: Slots, row_bytes: int, state_P: States) -> int:
    """The twin of `want`, which asks the system for nothing."""
    away = np.count_nonzero(state_P == AWAY)
    for row in rows_B.tolist():
        first, end = row * row_bytes // PAGE, -(-(row + 1) * row_bytes // PAGE)
        if row >= 0 and end <= len(state_P):
            state_P[first:end] = SEEN
    return int(away - np.count_nonzero(state_P == AWAY))


def test_all_that_threads_bring_in_is_counted(tmp_path: Path) -> None:
    region = Region((1_024,), np.float32, tmp_path, singly=True)
    region.grow(8_000)
    kept = Residency(1 << 30, lambda: 0)
    kept.watch({"keys": region}, 8_000)

    def read(first: int) -> None:
        for row in range(first, 8_000, 4):
            kept.want(np.array([row]), "keys")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert kept._came_bytes == 8_000 * PAGE


def test_a_budget_too_small_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    region = Region((1_024,), np.float32, tmp_path, singly=True)
    region.grow(2_000)
    kept = Residency(1 << 20, lambda: 900_000)
    kept.watch({"keys": region}, 2_000)
    for first in range(0, 2_000, 50):
        kept.want(np.arange(first, first + 50), "keys")
    assert caplog.text.count("900,000 lie in no file") == 1


def test_a_page_that_the_disk_does_not_take_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = Region((1_024,), np.float32, tmp_path, singly=True)
    region.grow(2_000)
    kept = Residency(1 << 20, lambda: 0)
    kept.watch({"keys": region}, 2_000)
    region.view(2_000)[:] = 3
    assert region._range is not None
    read, write = os.pipe()
    with os.fdopen(write, "wb") as pipe, monkeypatch.context() as patched:
        patched.setattr(region._range, "_file", pipe)  # of which no range can be written
        kept.want(np.arange(2_000), "keys", waits=True)
    os.close(read)
    assert "stay in memory" in caplog.text
    assert (region.view(2_000) == 3).all()


def test_pieces_are_a_small_part_of_the_budget(tmp_path: Path) -> None:
    region = Region((1_024,), np.float32, tmp_path, singly=True)
    region.grow(2_000)
    kept = Residency(4 << 20, lambda: 0)
    kept.watch({"keys": region}, 2_000)
    rows = np.random.default_rng(2).permutation(2_000)
    pieces = [rows[piece] for piece in kept.pieces(rows, "keys")]
    np.testing.assert_array_equal(np.concatenate(pieces), rows)
    assert max(map(len, pieces)) * PAGE <= (4 << 20) // residency.SWEPT


@pytest.mark.parametrize(
    "wrong",
    [
        {"storage": "memory"},
        {"resident_bytes": 2 * LEAST_RESIDENT - 1},
        {"resident_bytes": -1},
        {"resident_bytes": 4e6},
        {"resident_bytes": True},
    ],
)
def test_what_is_no_budget_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="resident_bytes"):
        config(**wrong)


def test_a_configuration_without_a_budget_is_what_it_was() -> None:
    """So that who knows of no budgets reads it."""
    assert "resident_bytes" not in config(resident_bytes=None).to_dict()
    assert MemoryConfig.from_dict(config().to_dict()) == config()
