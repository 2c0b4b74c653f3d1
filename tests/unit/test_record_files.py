"""Records in files: a checkpoint writes those that came, and seldom others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, MemoryConfig, Store
from memstore.durable.manifest import NAME, read
from memstore.durable.verify import verify
from memstore.memory import Memory
from tests.faults.changes import died

WIDTH = 2


def made(store: Store, shards: int = 1) -> Memory:
    how: Any = {"records": {"name": "string", "place": "int64"}, "lookup": ("place",)}
    index = IndexConfig(kind="exact")
    return store.create("m", MemoryConfig(dim=WIDTH, shards=shards, index=index, **how))


def named(places: Any) -> dict[str, Any]:
    return {"name": [f"the one at {place}" for place in places], "place": list(places)}


def keys(rows: int) -> Any:
    return np.ones((rows, WIDTH), np.float32)


def pieces(folder: Path) -> list[dict[str, int]]:
    """What the manifest has of the records of one shard, the tables alone."""
    [shard] = read(folder / NAME)["memories"]["m"]["shards"]
    made = shard["records"]["files"]
    return [fingerprint for name, fingerprint in made.items() if name.endswith(".arrow")]


def test_a_checkpoint_writes_the_records_that_came(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = made(store)
        memory.append(keys(10_000), records=named(range(10_000)))
        store.checkpoint()
        [large] = pieces(tmp_path)
        memory.append(keys(10), records=named(range(10)))
        memory.write([7], keys(1), records=named([-1]))
        memory.update([9], keys(1))
        store.checkpoint()
        before, small = pieces(tmp_path)
        assert before == large
        assert small["bytes"] < large["bytes"] / 100
        memory.update([9], keys(1))
        store.checkpoint()
        assert pieces(tmp_path) == [large, small]


def test_as_much_again_makes_few_pieces(tmp_path: Path) -> None:
    written = 0
    with memstore.open(tmp_path) as store:
        memory, seen = made(store), set[str]()
        for begin in range(0, 6_400, 100):
            with store.loading("m"):
                memory.append(keys(100), records=named(range(begin, begin + 100)))
            assert len(pieces(tmp_path)) <= 7
            for path in tmp_path.rglob("records-*.arrow"):
                written += path.stat().st_size if path.name not in seen else 0
                seen.add(path.name)
        there = sum(piece["bytes"] for piece in pieces(tmp_path))
    assert written < 7 * there, "a line is written a logarithm of times"


def test_what_rows_have_no_more_goes_when_it_is_the_most(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = made(store)
        memory.append(keys(1_000), records=named(range(1_000)))
        store.checkpoint()
        [whole] = pieces(tmp_path)
        memory.erase(np.arange(400))
        store.checkpoint()
        assert pieces(tmp_path) == [whole]
        memory.erase(np.arange(400, 900))
        memory.write([999], keys(1), records=named([-1]))
        store.checkpoint()
        [left] = pieces(tmp_path)
        assert left["bytes"] < whole["bytes"] / 5
        memory.erase(np.arange(900, 1_000))
        store.checkpoint()
        assert pieces(tmp_path) == []
        assert not list(tmp_path.rglob("records-*"))
    with memstore.open(tmp_path) as store:
        assert store.memory("m").append(keys(1), records=named([3])).tolist() == [1_000]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("seed", range(2))
def test_records_are_those_of_the_rows_whatever_came_between(
    tmp_path: Path, seed: int, shards: int
) -> None:
    rng = np.random.default_rng(seed)
    known = dict[int, int]()
    store = memstore.open(tmp_path / "store")
    memory = made(store, shards)
    for turn in range(40):
        places = rng.integers(0, 50, rng.integers(1, 30)).tolist()
        some = rng.permutation(sorted(known))[: rng.integers(0, 20)]
        match rng.integers(0, 4):
            case 0 | 1:
                slots = memory.append(keys(len(places)), records=named(places))
                known |= dict(zip(slots.tolist(), places, strict=True))
            case 2:
                places = places[: len(some)]
                some = some[: len(places)]
                memory.write(some, keys(len(some)), records=named(places))
                known |= dict(zip(some.tolist(), places, strict=True))
            case _:
                memory.erase(some)
                known = {slot: place for slot, place in known.items() if slot not in some}
        if rng.random() < 0.5:
            store.checkpoint()
        if rng.random() < 0.2:
            died(store) if rng.random() < 0.5 else store.close()
            assert list(verify(tmp_path / "store")) == []
            store = memstore.open(tmp_path / "store")
            memory = store.memory("m")
        if turn == 20:
            store.mark("then")
            then = dict(known)
        check(memory, known)
    store.close()
    for count, expected in ((1, then), (2, then)):
        memstore.restore(snapshot(tmp_path), tmp_path / str(count), shards={"m": count})
        with memstore.open(tmp_path / str(count)) as restored:
            check(restored.memory("m"), expected)


def snapshot(folder: Path) -> Path:
    if not (folder / "snapshots").exists():
        with memstore.open(folder / "store") as store:
            store.snapshot(folder / "snapshots", at="then")
    return folder / "snapshots"


def check(memory: Memory, known: dict[int, int]) -> None:
    slots = sorted(known)
    found = memory.gather(slots, columns=["name", "place"]).records
    assert found is not None
    assert found.to_pydict() == named([known[slot] for slot in slots])
    rows = memory.lookup("place", list(range(-1, 50)), 1_000).slots
    expected = [[slot for slot in slots if known[slot] == place] for place in range(-1, 50)]
    assert rows.tolist() == [slot for of_place in expected for slot in of_place]
