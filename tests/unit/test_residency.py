"""Rows in files within a budget of main memory: what is there is what is looked at."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, SearchOptions
from memstore.config import LEAST_RESIDENT
from memstore.errors import InvalidArgument
from memstore.kernels.pages import AWAY, PAGE, SEEN, UNSEEN, States, want
from memstore.memory import Array, Memory, Slots
from memstore.shard import residency
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


def test_a_budget_is_kept_and_nothing_else_changes(tmp_path: Path) -> None:
    """Everything that touches rows, beside a memory that has no budget."""
    rng = np.random.default_rng(0)

    def drawn(rows: int, width: int = DIM) -> Array:
        return rng.standard_normal((rows, width), dtype=np.float32)

    with memstore.open(tmp_path) as store:
        tight = store.create("tight", config())
        ample = store.create("ample", config(storage="memory", resident_bytes=None))
        most = [0]

        def both(call: str, *given: Any) -> list[Any]:
            answers = [getattr(memory, call)(*given) for memory in (tight, ample)]
            most[0] = max(most[0], held(tight))
            return answers

        for _ in range(4):
            both("append", drawn(ROWS // 4), drawn(ROWS // 4, 3))
        for _ in range(20):
            some = rng.integers(0, ROWS, 20)  # of six pages each, with their state
            both("update", some, drawn(20), drawn(20, 3))
            both("blend", some[:9], np.full(9, 0.5, np.float32), np.zeros((9, DIM)), drawn(9))
            both("write", some[10:], drawn(10), drawn(10, 3))
            found, other = both("search", drawn(8), 10, EXACT)
            np.testing.assert_array_equal(found.slots_QK, other.slots_QK)
            np.testing.assert_array_equal(found.scores_QK, other.scores_QK)
            same(*both("gather", rng.integers(0, ROWS, 500)))
        store.checkpoint()
        assert most[0] <= BUDGET
        assert held(ample) > 3 * BUDGET
    with memstore.open(tmp_path) as store:
        tight, ample = store.memory("tight"), store.memory("ample")
        assert tight.config.resident_bytes == BUDGET
        assert held(tight) <= BUDGET
        for first in range(0, ROWS, 1_000):
            same(*(memory.gather(np.arange(first, first + 1_000)) for memory in (tight, ample)))
        assert held(tight) <= BUDGET


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
    kept.want(np.arange(500, 600), "keys")
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
                found = memory.search(whole[slots[:2]] * 50, 1, EXACT)
                if found.scores_QK.shape != (2, 1):
                    wrong.append(f"{found.scores_QK.shape} scores")

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
    assert np.isin(region.pages_here(), np.flatnonzero(away & (states == SEEN))).all()


def note(rows_B: Slots, row_bytes: int, state_P: States) -> int:
    """The twin of `want`, which asks the system for nothing."""
    away = np.count_nonzero(state_P == AWAY)
    for row in rows_B.tolist():
        first, end = row * row_bytes // PAGE, -(-(row + 1) * row_bytes // PAGE)
        if row >= 0 and end <= len(state_P):
            state_P[first:end] = SEEN
    return int(away - np.count_nonzero(state_P == AWAY))


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
        {"resident_bytes": LEAST_RESIDENT - 1},
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
