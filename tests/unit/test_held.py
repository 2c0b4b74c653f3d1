"""A store that holds a part of its memories: what it has, gives out, remembers and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, RequestId, SearchOptions
from memstore.changes import Change
from memstore.deadline import NO_DEADLINE
from memstore.durable.verify import describe, verify
from memstore.errors import (
    InvalidArgument,
    Overloaded,
    RequestConflict,
    ShardElsewhere,
    Unsupported,
    WrongPart,
)
from memstore.memory import Slots
from memstore.placement import Part, homes
from memstore.retries import Asked
from memstore.routing import joined_lookups, joined_results
from memstore.spread.held import Given, HeldMemory
from tests.faults.changes import died

CONFIG = MemoryConfig(
    dim=3, shards=5, index="exact", records={"name": "string"}, lookup=("name",), optimizer="sgd"
)
NAMES = [f"n{i % 4}" for i in range(23)]
ROWS = np.random.default_rng(0).integers(-4, 5, (23, 3)).astype(np.float32)
EXACT = SearchOptions(exact=True)


def held(store: memstore.Store) -> HeldMemory:
    memory = store.memory("m")
    assert isinstance(memory, HeldMemory)
    return memory


def asked(number: int, change: Change) -> Asked:
    found = Asked.of(RequestId("tests", number), *change.content)
    assert found is not None
    return found


def fill(parts: list[HeldMemory], number: int = 1) -> Slots:
    """Appends the rows over all parts, as whoever cuts the call does."""
    change = parts[0].changes.append(ROWS, None, {"name": NAMES}, None)
    request = asked(number, change)
    first = parts[0].give_out(len(ROWS), request, NO_DEADLINE)
    slots_B = np.arange(first, first + len(ROWS))
    home_B = homes(slots_B, CONFIG.shards, len(parts))
    for i, part in enumerate(parts):
        mine = change.of(slots_B).taken(np.flatnonzero(home_B == i))
        part.put_given(mine, Given(len(ROWS), first), request, NO_DEADLINE)
    return slots_B


@pytest.fixture
def stores(tmp_path: Path) -> Any:
    made = [memstore.open(tmp_path / str(i), part=Part(i, 2)) for i in range(2)]
    for store in made:
        store.create("m", CONFIG)
    yield made
    for store in made:
        if not store._lock.closed:
            store.close()


def test_parts_hold_each_shard_once() -> None:
    for shards in (1, 2, 5, 8):
        for of in (1, 2, 3, 4):
            held = [j for i in range(of) for j in Part(i, of).shards(shards)]
            assert sorted(held) == list(range(shards))
            assert all(j % of == i for i in range(of) for j in Part(i, of).shards(shards))
    with pytest.raises(InvalidArgument, match="0 ≤ number < of"):
        Part(2, 2)
    assert Part.parsed("1/4") == Part(1, 4)
    with pytest.raises(InvalidArgument, match="as 0/4"):
        Part.parsed("1-4")


def test_the_parts_together_answer_as_the_whole(tmp_path: Path, stores: Any) -> None:
    parts = [held(store) for store in stores]
    with memstore.open(tmp_path / "whole") as store:
        whole = store.create("m", CONFIG)
        whole.append(ROWS, records={"name": NAMES})
        slots_B = fill(parts)
        queries = ROWS[:6]
        for k in (1, 4, 30):
            expected = whole.search(queries, k, EXACT)
            found = joined_results([part.search(queries, k, EXACT) for part in parts], k)
            for name in ("slots_QK", "scores_QK", "counts_Q", "proposal_QK", "scored_Q"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            assert found.missing_shards == ()
            alone = joined_results([parts[1].search(queries, k, EXACT)], k)
            assert alone.missing_shards == (0, 2, 4)
        cursor = None
        for _ in range(4):
            told = whole.lookup("name", ["n1", "x", "n3"], 2, cursor)
            listed = joined_lookups(
                [part.lookup("name", ["n1", "x", "n3"], 2, cursor) for part in parts], 2
            )
            for name in ("slots", "offsets", "truncated_Q", "cursor"):
                np.testing.assert_array_equal(getattr(listed, name), getattr(told, name))
            cursor = told.cursor
        for i, part in enumerate(parts):
            mine = slots_B[homes(slots_B, CONFIG.shards, 2) == i]
            np.testing.assert_array_equal(part.gather(mine).keys_BD, ROWS[mine])
            with pytest.raises(ShardElsewhere, match="does not hold that shard"):
                part.gather(slots_B)


def test_a_part_is_found_as_it_was_left(tmp_path: Path, stores: Any) -> None:
    fill([held(store) for store in stores])
    stores[1].checkpoint()
    held(stores[1]).erase([1])
    before = [held(store).gather(held(store).live_slots()) for store in stores]
    for store in stores:
        died(store)
    for i in range(2):
        assert list(verify(tmp_path / str(i))) == []
        assert any(f"part {i}/2" in line for line in describe(tmp_path / str(i)))
        with memstore.open(tmp_path / str(i), part=Part(i, 2)) as store:
            rows = held(store).gather(held(store).live_slots())
            np.testing.assert_array_equal(rows.slots_B, before[i].slots_B)
            np.testing.assert_array_equal(rows.keys_BD, before[i].keys_BD)


def test_a_part_is_opened_as_that_part_alone(tmp_path: Path, stores: Any) -> None:
    stores[0].close()
    for part in (None, Part(1, 2), Part(0, 3)):
        with pytest.raises(WrongPart, match="part 0/2"):
            memstore.open(tmp_path / "0", part=part)
    memstore.open(tmp_path / "whole").close()
    with pytest.raises(WrongPart):
        memstore.open(tmp_path / "whole", part=Part(0, 2))


def test_what_takes_all_parts_is_refused_by_one(stores: Any) -> None:
    part = held(stores[0])
    for refused in (
        lambda: part.append(ROWS, records={"name": NAMES}),
        lambda: part.allocate(1, records={"name": ["x"]}),
        lambda: part.search(ROWS[:1], 1, SearchOptions(union=True)),
        lambda: stores[0].snapshot("/nowhere"),
    ):
        with pytest.raises(Unsupported):
            refused()
    with pytest.raises(InvalidArgument, match="no shard of the memory"):
        stores[1].create("small", MemoryConfig(dim=3))


def test_slots_are_given_out_once_whatever_dies(tmp_path: Path, stores: Any) -> None:
    """A request is given the same ones again, others never the same, with and without a
    checkpoint in between."""
    before = held(stores[0]).describe().shards[0].row_version
    died(stores[0])
    given: dict[int, int] = {}
    for number in range(1, 9):
        store = memstore.open(tmp_path / "0", part=Part(0, 2))
        part = held(store)
        change = part.changes.append(ROWS[:number], None, {"name": NAMES[:number]}, None)
        first = part.give_out(number, asked(number, change), NO_DEADLINE)
        assert first == part.give_out(number, asked(number, change), NO_DEADLINE)
        assert first == sum(range(number))
        given[number] = first
        if number % 3 == 0:
            store.checkpoint()
        if number % 2:
            died(store)
        else:
            store.close()
    with memstore.open(tmp_path / "0", part=Part(0, 2)) as store:
        part = held(store)
        # No row has changed.
        assert part.describe().shards[0].row_version == before
        for number, first in given.items():
            change = part.changes.append(ROWS[:number], None, {"name": NAMES[:number]}, None)
            assert part.give_out(number, asked(number, change), NO_DEADLINE) == first
        other = part.changes.append(ROWS[:2], None, {"name": NAMES[:2]}, 4)
        with pytest.raises(RequestConflict):
            part.give_out(2, asked(1, other), NO_DEADLINE)
    with pytest.raises(ShardElsewhere):
        held(stores[1]).give_out(1, asked(9, other), NO_DEADLINE)


def test_a_part_of_an_append_is_done_once(stores: Any) -> None:
    parts = [held(store) for store in stores]
    slots_B = fill(parts)
    before = [part.describe().shards for part in parts]
    np.testing.assert_array_equal(fill(parts), slots_B)
    assert [part.describe().shards for part in parts] == before
    change = parts[1].changes.append(ROWS[:1], None, {"name": ["x"]}, None).of(np.array([1]))
    with pytest.raises(InvalidArgument, match="given to others"):
        parts[1].put_given(change, Given(1, 1), asked(2, change), NO_DEADLINE)


def test_the_least_used_of_parts_are_those_of_the_whole(tmp_path: Path, stores: Any) -> None:
    parts = [held(store) for store in stores]
    slots_B = fill(parts)
    for i, part in enumerate(parts):
        mine = slots_B[homes(slots_B, CONFIG.shards, 2) == i]
        part.touch(mine[::2], 5)
    change = parts[0].changes.allocate(4, 7, {"name": ["a", "b", "c", "d"]})
    request = asked(3, change)
    found = [part.least(4, request, NO_DEADLINE) for part in parts]
    assert [each.live for each in found] == [14, 9]
    assert all(len(each.slots_L) == 4 and not len(each.given_A) for each in found)
    places_B, slots = np.array([1, 3]), found[1].slots_L[:2]
    [table] = change.arrays("records")
    records = table.take(places_B)
    mine = Change("allocate", slots, {"records": records}, change.facts)
    for _ in range(2):
        done = parts[1].renew_given(mine, Given(4, places_B=places_B), request, NO_DEADLINE)
        assert done.applied == 2
    again = parts[1].least(4, request, NO_DEADLINE)
    assert (again.given_A.tolist(), again.places_A.tolist()) == (slots.tolist(), [1, 3])
    rows = parts[1].gather(slots, columns=("name",))
    assert rows.generations_B.tolist() == [1, 1]
    assert rows.records is not None
    assert rows.records["name"].to_pylist() == ["b", "d"]


def test_slots_that_others_were_given_meanwhile_are_not_given_again(stores: Any) -> None:
    """As where a call comes late, whose caller gave it up."""
    parts = [held(store) for store in stores]
    fill(parts)
    change = parts[1].changes.allocate(2, 7, {"name": ["a", "b"]})
    late, other = asked(3, change), asked(4, change)
    found = parts[1].least(2, late, NO_DEADLINE)
    assert found.generations_L.tolist() == [0, 0]
    mine = Change("allocate", found.slots_L, change.rows, change.facts)
    given = Given(2, places_B=np.arange(2), generations_B=found.generations_L)
    parts[1].renew_given(mine, given, other, NO_DEADLINE)
    with pytest.raises(Overloaded, match="given the least used"):
        parts[1].renew_given(mine, given, late, NO_DEADLINE)
    assert parts[1].gather(found.slots_L).generations_B.tolist() == [1, 1]
    # Who did their part are told so all the same.
    assert parts[1].renew_given(mine, given, other, NO_DEADLINE).applied == 2
