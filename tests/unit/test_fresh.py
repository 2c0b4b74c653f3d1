"""The queue of fresh rows against a plain dictionary of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memstore.index import fresh as module
from memstore.index.fresh import Fresh, Queue
from memstore.kernels import near
from memstore.memory import NO_SLOT, Array, Slots

ROWS, WIDTH = 2_000, 8
STEPS = ["write", "erase", "move", "seal", "cluster", "look"]


def products_by_row(fresh: Fresh, queries: Array, now: Array) -> dict[int, list[float]]:
    near_FQ, slack_Q = fresh.products(queries, lambda rows: now[rows])
    numbers_FQ = near_FQ
    if near_FQ.dtype == np.int16:
        numbers_FQ = (near_FQ.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    standing = fresh.standing_F != NO_SLOT
    assert len(near_FQ) == len(standing) == fresh.places
    assert slack_Q.shape == (len(queries),)
    rows = fresh.standing_F[standing].tolist()
    assert len(rows) == len(set(rows)) == fresh.count
    return dict(zip(rows, numbers_FQ[standing].tolist(), strict=True))


def check(fresh: Fresh, keys: dict[int, Array], queries: Array, now: Array) -> None:
    """That the part holds these rows, and products with these keys of them."""
    assert fresh.rows_F.tolist() == sorted(keys)
    _, slack_Q = fresh.products(queries, lambda rows: now[rows])
    for row, found_Q in products_by_row(fresh, queries, now).items():
        assert (np.abs(found_Q - queries @ keys[row]) <= slack_Q).all()


@pytest.mark.parametrize("laid_out", [65_536, 64])
@pytest.mark.parametrize("asked", [1, 3])
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 90)), max_size=40),
)
def test_each_part_of_the_queue_holds_the_rows_of_its_time(
    laid_out: int, asked: int, seed: int, steps: list[tuple[str, int]]
) -> None:
    rng = np.random.default_rng(seed)
    now = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    queries = rng.normal(size=(asked, WIDTH)).astype(np.float32)
    queue, fresh = Queue(lambda rows: now[rows]), Fresh()
    model: dict[int, Array] = {}
    looked: list[tuple[Fresh, dict[int, Array]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ROWS", 32)
        patch.setattr(module, "STEP", 8)
        patch.setattr(module, "IDLE", 32)
        patch.setattr(module, "MOST_LAID_OUT", laid_out)
        for step, count in steps:
            # Few enough that they meet again.
            rows = rng.choice(ROWS // 10, count, replace=False)
            if step == "write":
                now[rows] = rng.normal(size=(count, WIDTH))
                fresh = queue.joined(fresh, rows)
                model |= {row: now[row].copy() for row in rows.tolist()}
            elif step == "erase":
                fresh = queue.without(fresh, rows)
                model = {row: key for row, key in model.items() if row not in rows}
            elif step == "move":
                # As in an update, a row may come twice.
                rows = np.concatenate([rows, rows[: count // 2]])
                now[rows] += np.float32(0.5)
                fresh = queue.moved(fresh, rows)
                model |= {row: now[row].copy() for row in rows.tolist() if row in model}
            elif step == "seal":
                rows, behind = fresh.oldest(count)
                fresh = fresh.since(behind)
                model = {row: key for row, key in model.items() if row not in rows}
            elif step == "cluster":
                fresh = queue.anew(fresh, rows)
                model = {row: now[row].copy() for row in rows.tolist()}
            else:
                looked.append((fresh, dict(model)))
            assert fresh.count == len(model)
            assert fresh.places <= 2 * max(len(model), 90) + 6 * 90
        if laid_out > ROWS:
            for older, keys in [*looked, (fresh, model)]:
                check(older, keys, queries, now)
        else:
            # What is not copied is read as it is now.
            check(fresh, {row: now[row] for row in model}, queries, now)


def test_a_small_write_reads_few_rows() -> None:
    reads = []
    keys = np.ones((ROWS, WIDTH), np.float32)

    def read(rows: Slots) -> Array:
        reads.append(len(rows))
        return keys[rows]

    queue = Queue(read)
    fresh = queue.joined(Fresh(), np.arange(1_000))
    for step in range(30):
        fresh = queue.joined(fresh, np.arange(1_000 + step * 5, 1_005 + step * 5))
        fresh.products(keys[:3], read)
    assert max(reads[:2]) == 1_000
    assert max(reads[2:]) == 5
    assert fresh.count == 1_150


def test_rows_written_over_and_over_do_not_fill_the_queue() -> None:
    keys = np.ones((ROWS, WIDTH), np.float32)
    queue, fresh = Queue(lambda rows: keys[rows]), Fresh()
    for _ in range(1_000):
        fresh = queue.joined(fresh, np.arange(64))
    assert fresh.rows_F.tolist() == list(range(64))
    assert fresh.places < 5_000


def test_a_write_that_fails_takes_no_row_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE", 8)
    keys = np.ones((ROWS, WIDTH), np.float32)

    def read(rows: Slots) -> Array:
        if ROWS - 1 in rows:
            raise MemoryError
        return keys[rows]

    queue = Queue(read)
    fresh = queue.joined(queue.joined(Fresh(), np.arange(10)), np.arange(10))
    # So much is idle that the next write lays all of it down again.
    with pytest.raises(MemoryError):
        queue.joined(fresh, np.array([ROWS - 1]))
    fresh = queue.joined(fresh, np.array([20]))
    assert fresh.rows_F.tolist() == [*range(10), 20]


@pytest.mark.skipif(near.halving_units() is None, reason="no bfloat16, or no torch")
def test_copies_are_half_as_wide_where_the_processor_multiplies_those() -> None:
    keys = np.ones((ROWS, WIDTH), np.float32)
    fresh = Queue(lambda rows: keys[rows]).joined(Fresh(), np.arange(5))
    copies = fresh.chunks[0].copies_PD
    assert copies is not None
    assert copies.dtype == np.int16
