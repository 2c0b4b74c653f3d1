"""Snapshots, of one server or of several, restored onto several: the same answers from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, Memory, MemoryConfig, RequestId, SearchOptions
from memstore.cli import main
from memstore.durable import restoring
from memstore.durable.verify import verify
from memstore.errors import InvalidArgument, MemoryExists, NotAStore, StorageFull
from memstore.memory import Array
from memstore.placement import Part
from memstore.rpc import fetching
from tests.congruence.oracle import live_slots
from tests.congruence.spread import Servers

WIDTH, ROWS = 3, 40
EXACT = SearchOptions(exact=True)
RECORDS = {"n": "int64"}
CONFIG = MemoryConfig(dim=WIDTH, shards=5, index="exact", optimizer="adam", records=RECORDS)
FIRST, SECOND, THIRD = (RequestId("tests", number) for number in (1, 2, 3))


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


def filled(client: Any) -> Memory:
    """A memory with a past, and one that is encoded from another, which drifted."""
    memory: Memory = client.create("m", CONFIG)
    memory.append(rows(ROWS), records={"n": [*range(ROWS)]}, request_id=FIRST)
    # One row, of shard 3, and so of the last server of several.
    append_again(memory)
    memory.erase([43])
    memory.append(rows(2, 8), records={"n": [8, 8]})
    memory.update(range(ROWS), rows(ROWS, 1))
    memory.touch(range(20, ROWS), 3)
    allocate_again(memory)
    memory.erase([11])
    words = client.create("words", MemoryConfig(dim=WIDTH, index="none", shards=4))
    encoding = EncodingConfig(key={"a": "words", "b": "words"})
    columns = {"a": "int64", "b": "int64"}
    facts = client.create(
        "facts", MemoryConfig(dim=WIDTH, shards=6, records=columns, encoding=encoding)
    )
    words.append(rows(30, 2))
    facts.append(records={"a": [*range(25)], "b": [29] * 25})
    words.update([3, 4, 29], rows(3, 3), lr=0.5)
    facts.refresh(limit=1)
    words.update([5], rows(1, 4), lr=0.5)
    return memory


def append_again(memory: Memory) -> list[int]:
    for n in range(3):
        memory.append(rows(1, 10 + n), records={"n": [n]}, request_id=RequestId("others", n + 1))
    slots_B = memory.append(rows(1, 9), records={"n": [9]}, request_id=SECOND)
    return [int(slot) for slot in slots_B]


def allocate_again(memory: Memory) -> list[int]:
    given = memory.allocate(6, step=4, records={"n": [-1] * 6}, request_id=THIRD)
    return [int(slot) for slot in given]


def check(client: Any, original: Any) -> None:
    """Raises unless two stores have the same, and go on in the same way."""
    memory, twin = original.memory("m"), client.memory("m")
    slots = live_slots(memory)
    assert live_slots(twin).tolist() == slots.tolist()
    before, after = (each.gather(slots, columns=["n"]) for each in (memory, twin))
    np.testing.assert_array_equal(after.keys_BD, before.keys_BD)
    np.testing.assert_array_equal(after.generations_B, before.generations_B)
    assert after.records == before.records
    assert twin.describe().next_slot == memory.describe().next_slot
    searched = [each.search(rows(5, 9), 7, EXACT) for each in (memory, twin)]
    np.testing.assert_array_equal(searched[0].slots_QK, searched[1].slots_QK)
    np.testing.assert_array_equal(searched[0].scores_QK, searched[1].scores_QK)
    # What comes again is told again.
    told = twin.append(rows(ROWS), records={"n": [*range(ROWS)]}, request_id=FIRST)
    assert told.tolist() == [*range(ROWS)]
    assert append_again(twin) == append_again(memory) == [43]
    assert allocate_again(twin) == allocate_again(memory)
    np.testing.assert_array_equal(twin.gather(slots).keys_BD, before.keys_BD)
    # The sums are as old as they were.
    facts, others = original.memory("facts"), client.memory("facts")
    np.testing.assert_array_equal(others.gather(range(25)).keys_BD, facts.gather(range(25)).keys_BD)
    assert others.describe().drift == facts.describe().drift > 0


def check_next(client: Any, original: Any) -> None:
    """Raises unless both do the same next: steps, use, slots, sums."""
    kept = []
    for each in (client, original):
        memory = each.memory("m")
        slots = live_slots(memory)
        memory.update(slots, rows(len(slots), 5))
        new = memory.append(rows(3, 6), records={"n": [6] * 3})
        chosen = memory.allocate(9, records={"n": [0] * 9})
        assert each.memory("facts").refresh().encoded > 0
        assert each.memory("facts").describe().drift == 0
        left = np.setdiff1d(slots, chosen)
        keys = memory.gather(left).keys_BD
        sums = each.memory("facts").gather(range(25)).keys_BD
        kept.append((new.tolist(), chosen.tolist(), keys.tobytes(), sums.tobytes()))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize(
    "shards", [None, {"m": 7, "words": 3, "facts": 4}], ids=["shards as before", "other shards"]
)
def test_parts_of_a_snapshot_are_made_offline(tmp_path: Path, servers: int, shards: Any) -> None:
    """Of a snapshot of three servers, or of an embedded store, for two."""
    uri = tmp_path / "snapshots"
    before: Any = memstore.open(tmp_path / "one") if servers == 1 else None
    several = None if before else Servers(tmp_path / "several", servers)
    original = before or memstore.connect(several.servers[0].address)  # type: ignore[union-attr]
    try:
        filled(original)
        original.snapshot(str(uri))
        for number in (0, 1):
            target = tmp_path / "two" / str(number)
            memstore.restore(uri, target, shards=shards, part=Part(number, 2))
            assert list(verify(target)) == []
        again = Servers(tmp_path / "two", 2)
        try:
            with memstore.connect(again.servers[1].address) as client:
                assert client.list() == ["facts", "m", "words"]
                assert client.memory("m").config.shards == (shards or {"m": 5})["m"]
                check(client, original)
                check_next(client, original)
        finally:
            again.close()
    finally:
        original.close()
        if several is not None:
            several.close()


@pytest.mark.parametrize("servers", [1, 3])
def test_restored_into_servers_that_serve(tmp_path: Path, servers: int) -> None:
    uri = str(tmp_path / "snapshots")
    before: Any = memstore.open(tmp_path / "one") if servers == 1 else None
    several = None if before else Servers(tmp_path / "several", servers)
    original = before or memstore.connect(several.servers[0].address)  # type: ignore[union-attr]
    again = Servers(tmp_path / "four", 4)
    try:
        filled(original)
        original.snapshot(uri)
        with memstore.connect(again.servers[2].address) as client:
            client.create("own", CONFIG).append(rows(9), records={"n": [1] * 9})
            # What a drop left in a part goes.
            again.stores[3].create("m", MemoryConfig(dim=1, shards=8))
            assert client.restore(uri) == ["facts", "m", "words"]
            assert client.list() == ["facts", "m", "own", "words"]
            with pytest.raises(MemoryExists):
                client.restore(uri)
            check(client, original)
        again.close()
        again = Servers(tmp_path / "four", 4)
        with memstore.connect(again.servers[0].address) as client:
            check(client, original)
            check_next(client, original)
            # And there and back again.
            client.mark("later")
            client.snapshot(uri, at="later")
        memstore.restore(uri, tmp_path / "whole", shards={"m": 2})
        with memstore.open(tmp_path / "whole") as store:
            memory = store.memory("m")
            assert append_again(memory) == [43]
            assert memory.append(rows(1), records={"n": [0]}).tolist() == [49]
    finally:
        original.close()
        again.close()
        if several is not None:
            several.close()


def test_all_parts_have_it_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "snapshots")
    with memstore.open(tmp_path / "one") as store:
        filled(store)
        store.snapshot(uri)
    servers = Servers(tmp_path / "servers", 3)
    try:
        with memstore.connect(servers.servers[1].address) as client:
            with pytest.raises(NotAStore):
                client.restore(str(tmp_path / "nowhere"))
            real, failing = restoring.restore_into, 2

            def restore_into(store: Any, *args: Any, **kwargs: Any) -> Any:
                if store.part.number == failing:
                    raise StorageFull("no room")
                return real(store, *args, **kwargs)

            monkeypatch.setattr(fetching, "restore_into", restore_into)
            for failing in (2, 0):  # noqa: B007 - `restore_into` reads it
                with pytest.raises(StorageFull):
                    client.restore(uri)
                assert [store.list() for store in servers.stores] == [[], [], []]
            failing = -1
            assert client.restore(uri) == ["facts", "m", "words"]
            assert [len(store.list()) for store in servers.stores] == [3, 3, 3]
    finally:
        servers.close()


def test_the_command_line_makes_parts(tmp_path: Path) -> None:
    uri = str(tmp_path / "snapshots")
    with memstore.open(tmp_path / "one") as store:
        store.create("m", CONFIG).append(rows(10), records={"n": [*range(10)]})
        store.snapshot(uri)
    for number in (0, 1):
        words = ["restore", uri, str(tmp_path / str(number)), "--part", f"{number}/2"]
        assert main(words) == 0
    servers = Servers(tmp_path, 2)
    try:
        with memstore.connect(servers.servers[0].address) as client:
            np.testing.assert_array_equal(client.memory("m").gather(range(10)).keys_BD, rows(10))
    finally:
        servers.close()
    assert main(["restore", uri, str(tmp_path / "bad"), "--part", "2/2"]) == 1


def test_sums_lie_wherever_their_parts_do(tmp_path: Path) -> None:
    uri = tmp_path / "snapshots"
    with memstore.open(tmp_path / "one") as store:
        filled(store)
        store.snapshot(uri)
    with pytest.raises(InvalidArgument, match="would not lie on all servers"):
        memstore.restore(uri, tmp_path / "two", shards={"facts": 1}, part=Part(0, 2))
    assert not (tmp_path / "two").exists()
