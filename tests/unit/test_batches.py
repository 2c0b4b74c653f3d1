"""What a refresh encodes at once, and how far it is with part rows of more slots than that."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.batches import FIRST, Pieces, worst
from memstore.memory import Array, Slots

NONE = np.empty(0, np.int64)
SLOTS = np.arange(3, 40, 3)


def chosen(*rows: int, other: Slots = NONE) -> dict[str, Slots]:
    return {"a": np.array(rows, np.int64), "b": other}


def gone(*travel: float, other: int = 0) -> dict[str, Array]:
    return {"a": np.array(travel), "b": np.ones(other)}


def test_a_row_of_many_slots_is_encoded_piece_by_piece() -> None:
    pieces, row, encoded = Pieces(), chosen(7), list[int]()
    for step in range(3):
        assert pieces.last(row, 5) == (FIRST if not step else encoded[-1])
        batch = pieces.cut(row, gone(1.0 + step), SLOTS, 5)
        assert (batch.ends, batch.travel["a"].tolist()) == (step == 2, [1.0])
        encoded += batch.slots.tolist()
        pieces.done(row, batch)
    assert encoded == SLOTS.tolist()
    assert pieces.last(row, 5) == FIRST


def test_others_in_between_are_no_matter() -> None:
    pieces = Pieces()
    for row in (7, 8):
        pieces.done(chosen(row), pieces.cut(chosen(row), gone(float(row)), SLOTS, 8))
    other = chosen(1, 2, other=np.array([7]))
    batch = pieces.cut(other, gone(1.0, 1.0, other=1), SLOTS[:5], 8)
    assert batch.ends
    pieces.done(other, batch)
    last = pieces.last(chosen(7), 8)
    behind = SLOTS[np.searchsorted(SLOTS, last, side="right") :]
    for row, known in ((8, SLOTS), (7, behind)):  # all slots, or those behind the last
        batch = pieces.cut(chosen(row), gone(20.0), known, 8)
        assert (batch.ends, batch.travel["a"].tolist()) == (True, [float(row)])
        assert batch.slots.tolist() == SLOTS[8:].tolist()
        pieces.done(chosen(row), batch)
        assert pieces.last(chosen(row), 8) == FIRST


@pytest.mark.parametrize("limit", [None, 100])
def test_what_is_encoded_all_at_once_is_begun_no_more(limit: int | None) -> None:
    pieces = Pieces()
    pieces.done(chosen(7), pieces.cut(chosen(7), gone(1.0), SLOTS, 5))
    both = chosen(7, 9)
    assert pieces.last(both, limit) == FIRST
    batch = pieces.cut(both, gone(2.0, 3.0), SLOTS, limit)
    assert (batch.ends, batch.travel["a"].tolist()) == (True, [2.0, 3.0])
    assert batch.slots.tolist() == SLOTS.tolist()
    pieces.done(both, batch)
    assert pieces.last(chosen(7), 5) == FIRST


def test_slots_that_went_away_end_a_row() -> None:
    pieces = Pieces()
    pieces.done(chosen(7), pieces.cut(chosen(7), gone(1.0), SLOTS, 5))
    batch = pieces.cut(chosen(7), gone(2.0), SLOTS[:5], 5)
    assert (batch.ends, len(batch.slots), batch.travel["a"].tolist()) == (True, 0, [1.0])


def test_nothing_is_one_batch() -> None:
    batch = Pieces().cut(chosen(), gone(), NONE, 5)
    assert (batch.ends, len(batch.slots)) == (True, 0)


def test_the_worst_are_chosen_up_to_the_limit() -> None:
    rows = {"a": np.array([1, 4, 5]), "b": np.array([0, 2])}
    drift = {"a": np.array([0.2, 0.9, 0.1]), "b": np.array([0.5, 0.3])}
    uses = {"a": np.array([3, 20, 1]), "b": np.array([6, 1])}
    for limit, a, b in ((1, [4], []), (26, [4], [0]), (27, [4], [0, 2]), (99, [1, 4, 5], [0, 2])):
        found = worst(rows, drift, uses, limit)
        assert (found["a"].tolist(), found["b"].tolist()) == (a, b)
