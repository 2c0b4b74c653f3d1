"""Records in files: a checkpoint writes those that came, and seldom others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, MemoryConfig, Store
from memstore.durable import manifest
from memstore.durable.stills import Still
from memstore.durable.verify import verify
from memstore.errors import CorruptFile, DiskFailed, StorageFull
from memstore.memory import Memory
from memstore.placement import WHOLE
from memstore.shard import record_files, records
from memstore.shard.rows import RowTable
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
    [shard] = manifest.read(folder / manifest.NAME)["memories"]["m"]["shards"]
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
            assert len(pieces(tmp_path)) <= 7, "the logarithm of 64 loads, and one"
            for path in tmp_path.rglob("records-*.arrow"):
                written += path.stat().st_size if path.name not in seen else 0
                seen.add(path.name)
        there = sum(piece["bytes"] for piece in pieces(tmp_path))
    assert written < 7 * there, "a line is written a logarithm of times"


@pytest.mark.parametrize(("most", "batches"), [(1 << 30, 1), (1, 3), (3_000, 2)])
def test_pieces_are_opened_as_few_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, batches: int
) -> None:
    with memstore.open(tmp_path) as store:
        memory = made(store)
        for count in (100, 30, 9):
            memory.append(keys(count), records=named(range(count)))
            store.checkpoint()
    assert len(pieces(tmp_path)) == 3
    monkeypatch.setattr(record_files, "MAX_BATCH_BYTES", most)
    monkeypatch.setattr(records, "MAX_BATCH_BYTES", most)
    with memstore.open(tmp_path) as store:
        memory = store.memory("m")
        heap = memory.shards[0].records  # type: ignore[attr-defined]
        assert len(heap.heap(0)[0]) == batches
        places = [*range(100), *range(30), *range(9)]
        check(memory, dict(enumerate(places)))
        found = memory.gather([138, 4, 101], columns=["place"]).records
        assert found is not None
        assert found["place"].to_pylist() == [8, 4, 1]
        memory.append(keys(9), records=named(range(9)))
        store.checkpoint()
    # The youngest two are joined with what came, and of the oldest it is known where it ends.
    assert len(pieces(tmp_path)) == 2
    with memstore.open(tmp_path) as store:
        check(store.memory("m"), dict(enumerate([*places, *range(9)])))


def test_ever_less_makes_few_pieces(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = made(store)
        for count in range(64, 0, -2):
            memory.append(keys(count), records=named(range(count)))
            store.checkpoint()
            assert len(pieces(tmp_path)) <= 11, "the logarithm of a thousand"


def test_a_checkpoint_that_fails_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memstore.open(tmp_path) as store:
        memory = made(store)
        memory.append(keys(100), records=named(range(100)))
        store.checkpoint()
        before = pieces(tmp_path)
        memory.append(keys(10), records=named(range(10)))
        memory.write([3], keys(1), records=named([-1]))

        def refuse(*_: Any) -> Any:
            raise OSError(5, "the disk is gone")

        monkeypatch.setattr(manifest, "write", refuse)
        with pytest.raises(DiskFailed):
            store.checkpoint()
        monkeypatch.undo()
        assert pieces(tmp_path) == before
        store.checkpoint()
        assert pieces(tmp_path)[:1] == before
        known = dict(enumerate([*range(100), *range(10)])) | {3: -1}
        check(memory, known)
        died(store)
    assert list(verify(tmp_path)) == []
    with memstore.open(tmp_path) as store:
        check(store.memory("m"), known)


def test_what_was_not_put_has_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with memstore.open(tmp_path, fsync="always") as store:
        memory = made(store)
        memory.append(keys(5), records=named(range(5)))
        store.checkpoint()
        put = RowTable.put

        def refuse(*_: Any, **__: Any) -> Any:
            raise StorageFull("no room")

        monkeypatch.setattr(RowTable, "put", refuse)
        with pytest.raises(StorageFull), store.loading("m"):
            memory.append(keys(3), records=named([7, 8, 9]))
        monkeypatch.setattr(RowTable, "put", put)
        memory.append(keys(2), records=named([20, 21]))
        store.checkpoint()
        known = {slot: slot for slot in range(5)} | {8: 20, 9: 21}
        check(memory, known)
    with memstore.open(tmp_path) as store:
        check(store.memory("m"), known)


def test_a_still_has_the_records_of_its_moment(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = made(store)
        memory.append(keys(1_000), records=named(range(1_000)))
        store.checkpoint()
        memory.write([7], keys(1), records=named([-1]))
        memory.erase([9])
        memory.append(keys(1), records=named([2_000]))
        store.mark("then")
        body = manifest.read(tmp_path / manifest.NAME)
        still = Still(tmp_path / "memories" / "m", body["memories"]["m"], WHOLE)
        memory.write([7], keys(1), records=named([5]))
        store.checkpoint()
        found = still.gather(np.array([1_000, 9, 7, 6]), vectors=False, columns=["place", "name"])
        assert found.slots_B.tolist() == [1_000, 7, 6]
        assert found.records is not None
        assert found.records.select(["name", "place"]).to_pydict() == named([2_000, -1, 6])


def test_rows_whose_lines_are_not_named_are_told(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        memory = made(store)
        memory.append(keys(5), records=named(range(5)))
        body = manifest.read(tmp_path / manifest.NAME)
        store.checkpoint()
        body = manifest.read(tmp_path / manifest.NAME)
    [shard] = body["memories"]["m"]["shards"]
    shard["records"]["files"] = {
        name: made for name, made in shard["records"]["files"].items() if name.startswith("rec")
    }
    manifest.write(tmp_path / manifest.NAME, body)
    with pytest.raises(CorruptFile, match="rows are not named"):
        memstore.open(tmp_path)


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
