"""What a refresh encodes at once, and how far it is with part rows of more slots than that."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.batches import Batch, Found, Pieces, worst
from memstore.memory import Array, Slots

NONE = np.empty(0, np.int64)
SLOTS = np.arange(3, 40, 3)


def chosen(*rows: int, other: Slots = NONE) -> dict[str, Slots]:
    return {"a": np.array(rows, np.int64), "b": other}


def gone(*travel: float, other: int = 0) -> dict[str, Array]:
    return {"a": np.array(travel), "b": np.ones(other)}


def taken(
    pieces: Pieces,
    rows: dict[str, Slots],
    travel: dict[str, Array],
    limit: int | None,
    slots: Slots = SLOTS,
    many: float = 1e9,
) -> Batch:
    """The next batch, done. Beside each slot stands its double."""

    def find(asked: object) -> Found:
        assert asked is rows
        return slots, 2 * slots

    batch = pieces.next(rows, travel, limit, find, many)
    assert batch.found[1].tolist() == (2 * batch.found[0]).tolist()
    pieces.done(rows, batch)
    return batch


def test_a_row_of_many_slots_is_encoded_piece_by_piece() -> None:
    pieces, row, encoded = Pieces(), chosen(7), list[int]()
    for step in range(3):
        # Slots that came since it was begun are none of it.
        batch = taken(pieces, row, gone(1.0 + step), 5, np.append(SLOTS, 50 + np.arange(step)))
        assert (batch.rest is None, batch.travel["a"].tolist()) == (step == 2, [1.0])
        encoded += batch.found[0].tolist()
    assert encoded == SLOTS.tolist()
    assert taken(pieces, row, gone(9.0), 5).travel["a"].tolist() == [9.0]


def test_others_in_between_are_no_matter() -> None:
    pieces = Pieces()
    for row in (7, 8):
        assert taken(pieces, chosen(row), gone(float(row)), 8).rest is not None
    other = chosen(1, 2, other=np.array([7]))
    assert taken(pieces, other, gone(1.0, 1.0, other=1), 8, SLOTS[:5]).rest is None
    for row in (8, 7):
        batch = taken(pieces, chosen(row), gone(20.0), 8)
        assert (batch.rest, batch.travel["a"].tolist()) == (None, [float(row)])
        assert batch.found[0].tolist() == SLOTS[8:].tolist()


@pytest.mark.parametrize(("rows", "limit"), [((7,), None), ((7, 9), None), ((7, 9), 100)])
def test_what_is_encoded_all_at_once_is_begun_no_more(
    rows: tuple[int, ...], limit: int | None
) -> None:
    pieces = Pieces()
    taken(pieces, chosen(7), gone(1.0), 5)
    batch = taken(pieces, chosen(*rows), gone(*np.arange(2.0, 2.0 + len(rows))), limit)
    assert batch.rest is None
    assert batch.travel["a"].tolist() == np.arange(2.0, 2.0 + len(rows)).tolist()
    assert batch.found[0].tolist() == SLOTS.tolist()
    assert taken(pieces, chosen(7), gone(9.0), 5).travel["a"].tolist() == [9.0]


def test_the_row_that_drifted_most_goes_on_if_it_is_begun() -> None:
    pieces = Pieces()
    rows = {"a": np.array([1, 7]), "b": np.array([7])}
    drift = {"a": np.array([0.1, 0.9]), "b": np.array([0.5])}
    assert pieces.going_on(rows, drift, 5) is None
    taken(pieces, chosen(7), gone(1.0), 5)
    found = pieces.going_on(rows, drift, 5)
    assert found is not None
    assert (found["a"].tolist(), found["b"].tolist()) == ([7], [])
    assert pieces.going_on(rows, drift, None) is None
    # Another of the column, or another column, drifted further; or none did.
    assert pieces.going_on(rows, drift | {"a": np.array([1.0, 0.9])}, 5) is None
    assert pieces.going_on(rows, drift | {"b": np.array([np.inf])}, 5) is None
    assert pieces.going_on(chosen(), {"a": np.empty(0), "b": np.empty(0)}, 5) is None


def test_an_index_is_built_anew_for_all_slots_of_a_row() -> None:
    pieces = Pieces()
    for step in range(3):
        # What was so when it was begun stays so.
        assert taken(pieces, chosen(7), gone(1.0), 5, many=10.0 * (1 + step)).anew
    assert not taken(pieces, chosen(7), gone(1.0), 5, many=20.0).anew


def test_nothing_is_one_batch() -> None:
    batch = taken(Pieces(), chosen(), gone(), 5, NONE)
    assert (batch.rest, len(batch.found[0])) == (None, 0)


def test_the_worst_are_chosen_up_to_the_limit() -> None:
    rows = {"a": np.array([1, 4, 5]), "b": np.array([0, 2])}
    drift = {"a": np.array([0.2, 0.9, 0.1]), "b": np.array([0.5, 0.3])}
    uses = {"a": np.array([3, 20, 1]), "b": np.array([6, 1])}
    for limit, a, b in ((1, [4], []), (26, [4], [0]), (27, [4], [0, 2]), (99, [1, 4, 5], [0, 2])):
        found = worst(rows, drift, uses, limit)
        assert (found["a"].tolist(), found["b"].tolist()) == (a, b)
