"""Copies of fresh rows that are brought up to date in part, against copies made anew."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memstore.index import fresh as module
from memstore.index.fresh import Fresh, Notes, copied, joined, without
from memstore.kernels.half import wide
from memstore.memory import NO_SLOT, Array, Slots

ROWS, WIDTH = 2_000, 8
STEPS = ["write", "erase", "move", "seal", "unseal", "search", "late search"]

some_rows = st.lists(st.integers(0, ROWS - 1), max_size=40).map(lambda r: np.array(r, np.int64))


@given(first=some_rows, other=some_rows)
def test_rows_are_joined_and_taken_away_as_sets_are(first: Slots, other: Slots) -> None:
    rising = np.unique(first)
    assert joined(rising, other).tolist() == sorted({*first.tolist(), *other.tolist()})
    assert without(rising, np.unique(other)).tolist() == sorted({*first.tolist()} - {*other})


def products_by_row(copies: Fresh, queries: Array) -> dict[int, list[float]]:
    near_FQ, _ = copies.products(queries)
    numbers_FQ = near_FQ
    if near_FQ.dtype == np.int16:
        numbers_FQ = (near_FQ.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert len(copies.rows_F) == len(near_FQ)
    standing = copies.rows_F != NO_SLOT
    rows = copies.rows_F[standing].tolist()
    assert len(rows) == len(set(rows))
    return dict(zip(rows, wide(numbers_FQ[standing]).tolist(), strict=True))


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["write", "erase", "move", "seal", "search"]), st.integers(1, 90)
        ),
        max_size=40,
    ),
)
def test_copies_in_part_are_those_made_anew(seed: int, steps: list[tuple[str, int]]) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    queries = rng.normal(size=(3, WIDTH)).astype(np.float32)
    notes, fresh_F = Notes(), np.arange(0, 1_200, 3)
    copies: Fresh | None = None
    older = [fresh_F]
    for version, (step, count) in enumerate([*steps, ("search", 1)]):
        rows = rng.choice(ROWS, count, replace=False)
        older.append(fresh_F)
        if step == "write":
            notes.add(rows)
            keys[rows] = rng.normal(size=(count, WIDTH))
            fresh_F = joined(fresh_F, rows)
        elif step == "erase":
            notes.add(rows)
            fresh_F = without(fresh_F, rows)
        elif step == "move":
            notes.add(rows)
            keys[rows] += np.float32(0.5)
        elif step == "seal":
            # Sealing notes nothing: it changes no row.
            fresh_F = fresh_F[count:].copy()
        elif step == "unseal":
            # Nor does a job that brings rows back.
            fresh_F = joined(fresh_F, rows)
        else:
            # A reader may be late: it took its version some mutations ago.
            seen_F = older[-min(count, len(older))] if step == "late search" else fresh_F
            copies = copied(copies, notes, seen_F, version, lambda r: keys[r])
            assert len(copies.chunks) <= module.MOST_CHUNKS
            anew = copied(None, notes, seen_F, version, lambda r: keys[r])
            found, expected = products_by_row(copies, queries), products_by_row(anew, queries)
            assert sorted(found) == sorted(expected) == seen_F.tolist()
            for row, numbers in expected.items():
                np.testing.assert_allclose(found[row], numbers, rtol=0.05, atol=0.2)


def test_a_small_write_reads_few_rows() -> None:
    notes, fresh_F, reads = Notes(), np.arange(1_000), []
    keys = np.ones((ROWS, WIDTH), np.float32)

    def read(rows: Slots) -> Array:
        reads.append(len(rows))
        return keys[rows]

    copies = copied(None, notes, fresh_F, 0, read)
    for step in range(30):
        rows = np.arange(1_000 + step * 5, 1_005 + step * 5)
        notes.add(rows)
        fresh_F = joined(fresh_F, rows)
        copies = copied(copies, notes, fresh_F, step, read)
    assert reads[0] == 1_000
    assert max(reads[1:]) < 200
    assert len(copies.chunks) > 1
