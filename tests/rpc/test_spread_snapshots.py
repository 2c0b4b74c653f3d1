"""Marks and snapshots of memories that lie on several servers: one moment of all, or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, RequestId, SearchOptions
from memstore.deadline import Deadline
from memstore.durable.cuts import CUT
from memstore.durable.verify import verify
from memstore.errors import (
    CorruptFile,
    DeadlineExceeded,
    Held,
    InvalidArgument,
    MemstoreError,
    NotAStore,
    Overloaded,
    SnapshotFailed,
    Unreachable,
    Unsupported,
)
from memstore.memory import Array
from memstore.rpc import joint, own_part
from memstore.rpc.client import Client
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.spread import holding
from memstore.spread.holding import Key
from tests.conftest import LONG
from tests.congruence import histories
from tests.congruence.spread import Servers

WIDTH, COUNT = 3, 3
CONFIG = MemoryConfig(
    dim=WIDTH, shards=5, index="exact", optimizer="adam", records={"n": "int64"}, lookup=("n",)
)
EXACT = SearchOptions(exact=True)
PATIENCE_S = 120.0
"""For a call that is to succeed: where kernels are compiled first, and the machine is busy."""


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path / "servers", COUNT)
    yield made
    made.close()


@pytest.fixture(params=[True, False], ids=["fan out", "forward"])
def client(servers: Servers, request: Any) -> Iterator[Client]:
    address, fan_out = servers.servers[1].address, request.param
    with memstore.connect(address, fan_out=fan_out, deadline_s=PATIENCE_S) as client:
        yield client


def clean(servers: Servers) -> bool:
    """Whether no part has anything of a cut, or holds anybody off."""
    return not any(
        store.marks() or store.cuts._manifests.cuts or store.cuts.gate._hold
        for store in servers.stores
    )


def test_marks_are_of_all_parts(servers: Servers, client: Client) -> None:
    client.create("m", CONFIG)
    client.create("one", MemoryConfig(dim=WIDTH))
    client.mark("b")
    client.mark("a")
    assert client.marks() == ["a", "b"]
    cuts = [store.cuts.marks() for store in servers.stores]
    assert cuts[0].keys() == {"a", "b"}
    assert cuts[0] == cuts[1] == cuts[2]
    with pytest.raises(InvalidArgument, match="there already"):
        client.mark("a")
    with pytest.raises(InvalidArgument, match="not a memory name"):
        client.mark("No!")
    client.unmark("a")
    client.unmark("b")
    with pytest.raises(InvalidArgument, match="no such mark"):
        client.unmark("a")
    with pytest.raises(InvalidArgument, match="no such mark"):
        client.snapshot("/nowhere", at="a")
    assert client.marks() == []
    assert clean(servers)


def test_the_end_of_a_mark_waits_no_longer_than_its_call(servers: Servers) -> None:
    spreading: Any = servers.servers[0]._spreading
    with memstore.connect(servers.servers[0].address, deadline_s=PATIENCE_S) as client:
        client.mark("m")
        with ThreadPoolExecutor(1) as pool, spreading.own.making:  # as while a cut is made
            late = pool.submit(spreading.within, 0.2, lambda: spreading.unmark("m"))
            with pytest.raises(DeadlineExceeded, match="other cuts"):
                late.result(timeout=PATIENCE_S)
        assert client.marks() == ["m"]


def test_a_snapshot_is_restored_as_one_store(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    """Rows, optimizer state, usage, generations, records, requests and the next slot."""
    memory, uri = client.create("m", CONFIG), tmp_path / "snapshots"
    asked = RequestId("tests", 1)
    memory.append(rows(40), records={"n": [*range(40)]}, request_id=asked)
    memory.update(range(40), rows(40, 1))
    memory.touch(range(20, 40), 3)
    handed = memory.allocate(6, step=4, records={"n": [-1] * 6}, request_id=RequestId("tests", 2))
    memory.erase([11])
    client.mark("then")
    at_mark = memory.gather([0, 1, 39], columns=["n"])
    memory.update(range(10), rows(10, 2))
    before = client.snapshot(str(uri), at="then")
    assert (before.number, before.copied) == (1, before.bytes)
    again = client.snapshot(str(uri), at="then")
    assert (again.number, again.bytes, again.copied) == (2, before.bytes, 0)
    now = client.snapshot(str(uri))
    assert now.number == 3
    assert 0 < now.copied < now.bytes
    slots = [slot for slot in range(40) if slot != 11]
    expected = memory.gather(slots, columns=["n"])
    for shards in (None, 1, 7):
        target = tmp_path / f"restored-{shards}"
        memstore.restore(uri, target, shards=shards, number=3)
        assert list(verify(target)) == []
        with memstore.open(target) as store:
            twin = store.memory("m")
            assert twin.config.shards == (shards or CONFIG.shards)
            assert twin.describe().next_slot == 40
            found = twin.gather(slots, columns=["n"])
            np.testing.assert_array_equal(found.keys_BD, expected.keys_BD)
            np.testing.assert_array_equal(found.generations_B, expected.generations_B)
            assert found.records == expected.records
            queries, k = rows(5, 9), 7
            np.testing.assert_array_equal(
                twin.search(queries, k, EXACT).scores_QK, memory.search(queries, k, EXACT).scores_QK
            )
            assert twin.append(
                rows(40), records={"n": [*range(40)]}, request_id=asked
            ).tolist() == [*range(40)]
            given = twin.allocate(
                6, step=4, records={"n": [-1] * 6}, request_id=RequestId("tests", 2)
            )
            assert given.tolist() == handed.tolist()
            assert twin.append(rows(1), records={"n": [7]}).tolist() == [40]
    # The next optimizer step, and who is used least, are the same.
    memory.update(slots, rows(39, 5))
    chosen = memory.allocate(9, records={"n": [0] * 9})
    with memstore.open(tmp_path / "restored-7") as store:
        twin = store.memory("m")
        twin.erase([40])
        twin.update(slots, rows(39, 5))
        kept = [slot for slot in slots if slot not in chosen]
        assert twin.allocate(9, records={"n": [0] * 9}).tolist() == chosen.tolist()
        np.testing.assert_array_equal(twin.gather(kept).keys_BD, memory.gather(kept).keys_BD)
    memstore.restore(uri, tmp_path / "at-mark", number=1)
    with memstore.open(tmp_path / "at-mark") as store:
        found = store.memory("m").gather([0, 1, 39], columns=["n"])
        np.testing.assert_array_equal(found.keys_BD, at_mark.keys_BD)
        assert found.records == at_mark.records
    client.unmark("then")
    assert clean(servers)
    assert not [path.name for path in uri.iterdir() if path.name.startswith("probe")]


def test_encoded_memories_come_with_their_drift(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    encoding = EncodingConfig(key={"a": "words", "b": "words"})
    facts_config = MemoryConfig(
        dim=WIDTH, shards=4, records={"a": "int64", "b": "int64"}, encoding=encoding
    )
    words = client.create("words", MemoryConfig(dim=WIDTH, index="none", shards=4))
    facts = client.create("facts", facts_config)
    words.append(rows(30))
    facts.append(records={"a": [*range(25)], "b": [29] * 25})
    words.update([3, 4, 29], rows(3, 3), lr=0.5)
    facts.refresh(limit=1)
    words.update([5], rows(1, 4), lr=0.5)
    client.snapshot(str(tmp_path / "snapshots"))
    drift = facts.describe().drift
    assert drift is not None
    assert drift > 0
    for shards in (None, {"words": 2, "facts": 3}):
        target = tmp_path / f"restored-{shards is None}"
        memstore.restore(tmp_path / "snapshots", target, shards=shards)
        with memstore.open(target) as store:
            twin = store.memory("facts")
            np.testing.assert_array_equal(
                twin.gather(range(25)).keys_BD, facts.gather(range(25)).keys_BD
            )
            assert twin.describe().drift == drift
            assert twin.refresh().encoded > 0
            assert twin.describe().drift == 0
            keys: Any = store.memory("words").gather(range(30)).keys_BD
            sums: Any = twin.gather(range(25)).keys_BD
            np.testing.assert_allclose(sums, keys[:25] + keys[29], rtol=1e-6)


def test_restored_beside_others_into_a_store_that_is_open(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    client.create("m", CONFIG).append(rows(10), records={"n": [1] * 10})
    client.snapshot(str(tmp_path / "snapshots"))
    with memstore.open(tmp_path / "own") as store:
        store.create("own", MemoryConfig(dim=WIDTH))
        assert memstore.durable.restoring.restore_into(store, tmp_path / "snapshots") == ["m"]
        assert store.memory("m").lookup("n", [1], 20).slots.tolist() == [*range(10)]


def test_every_cut_is_a_state_of_the_history(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    """Several callers change rows of all parts all the while, and nobody fails."""
    memory = client.create("m", histories.CONFIG)
    writers = histories.made(memory, 4, 6)
    over, uri = threading.Event(), str(tmp_path / "snapshots")
    cuts = []
    with ThreadPoolExecutor(len(writers)) as pool:
        running = [pool.submit(writer.run, over) for writer in writers]
        try:
            for number in range(6 if LONG else 4):
                seen = [writer.done for writer in writers]
                while any(w.done < n + 3 for w, n in zip(writers, seen, strict=True)):
                    assert not any(each.done() for each in running)
                    time.sleep(0.002)
                before = [writer.done for writer in writers]
                if number % 2:
                    taken = client.snapshot(uri)
                    after = [len(writer.states) - 1 for writer in writers]
                else:
                    client.mark(f"mark-{number}")
                    after = [len(writer.states) - 1 for writer in writers]
                    taken = client.snapshot(uri, at=f"mark-{number}")
                    client.unmark(f"mark-{number}")
                cuts.append((taken.number, before, after))
        finally:
            over.set()
        for each in running:
            each.result()
    for number, before, after in cuts:
        target = tmp_path / f"restored-{number}"
        memstore.restore(uri, target, shards=None if number % 2 else 3, number=number)
        with memstore.open(target) as store:
            histories.check_cut(store.memory("m"), writers, before, after)
    assert clean(servers)


def test_what_is_prepared_everywhere_or_done_somewhere_is_waited_for(
    tmp_path: Path, servers: Servers
) -> None:
    """A mutation of parts 0 and 1 is stopped between its steps, and a mark is asked for."""
    with memstore.connect(servers.servers[1].address) as client:
        memory = client.create("m", histories.CONFIG)
        memory.append(np.zeros((10, WIDTH), np.float32))
        config, uri = histories.CONFIG, str(tmp_path / "snapshots")
        change = memstore.changes.Changes("m", config).write([0, 1], rows(2), None, None, None)
        asked, held = memory.asked(change, None), servers.held("m")  # type: ignore[attr-defined]
        outline = memstore.changes.Outline("write", change.slots_B[:1], True, parts=(0, 1))
        held[0].prepare(outline, asked, Deadline(20))
        client.mark("prepared-in-one")
        other = memstore.changes.Outline("write", change.slots_B[1:], True, parts=(0, 1))
        held[1].prepare(other, asked, Deadline(20))
        given = memstore.spread.held.Given(2)
        held[0].apply(change.taken(np.array([0])), given, asked, Deadline(20))
        with ThreadPoolExecutor(2) as pool:
            marking = pool.submit(client.mark, "half-done")
            # What is new waits; what is half done goes on, and reads do.
            waiting = None
            while waiting is None:
                assert not marking.done()
                if servers.stores[1].cuts.gate._hold is not None:
                    waiting = pool.submit(memory.write, [4], rows(1, 4))
            assert len(memory.gather(range(10)).slots_B) == 10
            assert not waiting.done()
            assert not marking.done()
            held[1].apply(change.taken(np.array([1])), given, asked, Deadline(20))
            marking.result(timeout=PATIENCE_S)
            waiting.result(timeout=PATIENCE_S)
        for mark, there in (("prepared-in-one", False), ("half-done", True)):
            client.snapshot(uri, at=mark)
            memstore.restore(uri, tmp_path / mark)
            with memstore.open(tmp_path / mark) as store:
                found: Any = store.memory("m").gather([0, 1, 4]).keys_BD
                wanted = rows(2) if there else np.zeros((2, WIDTH))
                np.testing.assert_array_equal(found[:2], wanted)
                np.testing.assert_array_equal(found[2], np.zeros(WIDTH))


def half_done(servers: Servers, memory: Any, slots: list[int]) -> None:
    """Leaves an erasure of a slot of part 0 and one of part 1 done in part 0 alone, as a client
    that is lost does."""
    change = memstore.changes.Changes("m", histories.CONFIG).erase(slots)
    asked, held = memory.asked(change, None), servers.held("m")
    for i in (0, 1):
        outline = memstore.changes.Outline("erase", change.slots_B[i : i + 1], parts=(0, 1))
        held[i].prepare(outline, asked, Deadline(1))
    held[0].apply(change.taken(np.array([0])), memstore.spread.held.Given(2), asked, Deadline(1))


def test_what_stays_half_done_keeps_a_cut_from_being_made(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its time is over, or that of the cut."""
    monkeypatch.setattr(joint, "SETTLE_S", 0.2)
    spreading: Any = servers.servers[0]._spreading
    with memstore.connect(servers.servers[0].address) as client:
        memory = client.create("m", histories.CONFIG)
        memory.append(np.zeros((10, WIDTH), np.float32))
        monkeypatch.setattr(holding, "MARGIN_S", 1e6)
        half_done(servers, memory, [0, 1])
        monkeypatch.setattr(joint, "AGAIN_S", PATIENCE_S)
        with pytest.raises(Overloaded, match="half done"):
            spreading.within(PATIENCE_S, lambda: spreading.mark("m"))
        assert clean(servers)
        assert memory.erase([3, 4]).applied == 2
        for part in servers.held("m"):
            part.gate._begun.clear()
        monkeypatch.setattr(holding, "MARGIN_S", 1.0)
        half_done(servers, memory, [5, 6])
        client.mark("m")
        assert client.marks() == ["m"]


def test_a_cut_that_is_tried_again_is_of_one_moment(
    tmp_path: Path, servers: Servers, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first try some parts have taken their moment, and rows changed since."""
    memory = client.create("m", histories.CONFIG)
    memory.append(np.zeros((6, WIDTH), np.float32))
    real, taken, changed = joint.step, threading.Event(), threading.Event()

    def late(store: Any, asked: pb.CutRequest, deadline: Deadline) -> pb.CutReply:
        if asked.step == "take" and store.part.number == 2 and not taken.is_set():
            taken.set()
            raise Overloaded("the moment was not taken in time", retry_after_s=0.1)
        if asked.step == "ready" and store.part.number == 2 and taken.is_set():
            memory.write(range(6), np.ones((6, WIDTH), np.float32))
            changed.set()
        return real(store, asked, deadline)

    monkeypatch.setattr(joint, "SETTLE_S", 0.2)
    monkeypatch.setattr(joint, "step", late)
    client.snapshot(str(tmp_path / "snapshots"))
    assert changed.is_set()
    memstore.restore(tmp_path / "snapshots", tmp_path / "one")
    with memstore.open(tmp_path / "one") as store:
        found: Any = store.memory("m").gather(range(6)).keys_BD
        np.testing.assert_array_equal(found, np.ones((6, WIDTH)))
    assert clean(servers)


def test_a_hold_ends_by_itself_and_no_cut_is_made_of_it(servers: Servers) -> None:
    with memstore.connect(servers.servers[0].address, deadline_s=PATIENCE_S) as client:
        memory = client.create("m", histories.CONFIG)
        memory.append(np.zeros((10, WIDTH), np.float32))
        cuts = servers.stores[1].cuts
        cuts.gate.hold("0" * 16, 0.3)
        with pytest.raises(Held):
            servers.held("m")[1].gate.begin(Key("m", "c", 1), (1, 2), Deadline(1), lambda: False)
        with pytest.raises(Overloaded, match="another cut"):
            cuts.gate.hold("1" * 16, 0.3)
        assert memory.write([0, 1, 2], rows(3)).applied == 3  # once it is over
        with pytest.raises(Overloaded, match="too long"):
            cuts.take("0" * 16)
        cuts.forget("0" * 16)
        assert clean(servers)


def test_a_part_that_is_lost_leaves_no_cut(
    tmp_path: Path, servers: Servers, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step of a mark, and of a snapshot, one part does not do it."""
    memory = client.create("m", CONFIG)
    memory.append(rows(20), records={"n": [0] * 20})
    uri = tmp_path / "snapshots"
    real, lost = joint.step, ""

    def failing(store: Any, asked: pb.CutRequest, deadline: Deadline) -> pb.CutReply:
        if asked.step == lost and store.part.number == 2:
            raise Unreachable("it is gone")
        return real(store, asked, deadline)

    monkeypatch.setattr(joint, "step", failing)
    for lost in ("ready", "hold", "settle", "take", "written", "keep"):
        with pytest.raises(Unreachable):
            client.mark("m")
        assert client.marks() == []
        assert clean(servers), lost
        memory.touch(range(20), 1)
    for lost in ("take", "copy"):  # noqa: B007 - `failing` reads it
        with pytest.raises(Unreachable):
            client.snapshot(str(uri))
        assert clean(servers)
    with pytest.raises(NotAStore):
        memstore.restore(uri, tmp_path / "none")
    lost = ""
    # What was copied before is not copied again.
    taken = client.snapshot(str(uri))
    assert 0 < taken.copied < taken.bytes
    client.mark("m")
    assert client.marks() == ["m"]


def test_a_part_that_is_stopped_is_not_waited_for(
    servers: Servers, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = client.create("m", CONFIG)
    memory.append(rows(20), records={"n": [0] * 20})
    real, goes_on = joint.step, threading.Event()

    def stopped(store: Any, asked: pb.CutRequest, deadline: Deadline) -> pb.CutReply:
        if store.part.number == 2:
            goes_on.wait()
        return real(store, asked, deadline)

    monkeypatch.setattr(joint, "STEP_S", 0.5)
    monkeypatch.setattr(joint, "step", stopped)
    try:
        with pytest.raises(Unreachable, match="does not answer in time"):
            client.mark("m")
    finally:
        goes_on.set()
    monkeypatch.undo()
    client.mark("m")
    assert client.marks() == ["m"]


def test_what_is_left_of_a_mark_is_let_go_of(servers: Servers, client: Client) -> None:
    """As where part 0 died before it had the mark, and where another part lost its own."""
    client.create("m", CONFIG)
    client.mark("m")
    cut = servers.stores[0].cuts.marks()["m"]
    servers.stores[0].cuts.forget(cut)
    assert client.marks() == []
    assert "m" in servers.stores[1].marks()
    client.mark("m")
    cuts = {store.cuts.marks()["m"] for store in servers.stores}
    assert len(cuts) == 1
    assert cuts != {cut}
    [new] = cuts
    servers.stores[2].cuts.forget(new)
    with pytest.raises(InvalidArgument, match="part 2/3 does not have its part"):
        client.snapshot("/nowhere", at="m")
    client.unmark("m")
    assert clean(servers)


def test_marks_outlive_servers(tmp_path: Path, servers: Servers) -> None:
    with memstore.connect(servers.servers[0].address) as client:
        memory = client.create("m", CONFIG)
        memory.append(rows(20), records={"n": [0] * 20})
        client.mark("m")
        memory.update(range(20), rows(20, 1))
        kept = [store.cuts.marks() for store in servers.stores]
    servers.close()
    again = Servers(tmp_path / "servers", COUNT)
    try:
        assert [store.cuts.marks() for store in again.stores] == kept
        with memstore.connect(again.servers[2].address) as client:
            client.snapshot(str(tmp_path / "snapshots"), at="m")
        memstore.restore(tmp_path / "snapshots", tmp_path / "one")
        with memstore.open(tmp_path / "one") as store:
            found = store.memory("m").gather(range(20)).keys_BD
            np.testing.assert_array_equal(found, rows(20))
            # Checkpoints after it have other names.
            for seed in range(4):
                store.memory("m").update(range(20), rows(20, seed))
                store.checkpoint()
    finally:
        again.close()


def test_a_mark_that_part_0_cannot_read_costs_the_others_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "servers"
    servers = Servers(folder, 2)
    with memstore.connect(servers.servers[0].address) as client:
        client.create("m", CONFIG).append(rows(20), records={"n": [0] * 20})
        client.mark("a")
        client.memory("m").update(range(20), rows(20, 1))
    servers.close()
    path = folder / "0" / "marks" / "a.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    servers = Servers(folder, 2)
    with memstore.connect(servers.servers[0].address) as client:
        client.mark("b")
        assert client.marks() == ["b"]
    assert sorted(servers.stores[1].cuts.marks()) == ["a", "b"]
    servers.close()
    # Put back, it is what it was.
    path.write_bytes(whole)
    servers = Servers(folder, 2)
    with memstore.connect(servers.servers[1].address) as client:
        client.snapshot(str(tmp_path / "copies"), at="a")
    memstore.restore(tmp_path / "copies", tmp_path / "one")
    with memstore.open(tmp_path / "one") as store:
        np.testing.assert_array_equal(store.memory("m").gather(range(20)).keys_BD, rows(20))
    servers.close()
    # Taken away, others let go of it too.
    path.write_bytes(whole[:-5])
    servers = Servers(folder, 2)
    with memstore.connect(servers.servers[0].address) as client:
        client.unmark("a")
        assert not path.exists()
        client.mark("c")
    assert sorted(servers.stores[1].cuts.marks()) == ["b", "c"]
    servers.close()


def test_a_place_that_not_all_servers_see_is_refused(tmp_path: Path, servers: Servers) -> None:
    with memstore.connect(servers.servers[0].address) as client:
        client.create("m", CONFIG)
        client.mark("m")
        with pytest.raises(InvalidArgument, match="own store"):
            client.snapshot(str(servers.stores[1].path / "inside"), at="m")
        with pytest.raises(SnapshotFailed):
            client.snapshot("/proc/nowhere", at="m")
        cut = servers.stores[1].cuts.marks()["m"]
        asked = pb.CutRequest(step="copy", cut=cut, uri=str(tmp_path / "alone"), probe="probe")
        with pytest.raises(InvalidArgument, match="not one place for all servers"):
            joint.step(servers.stores[1], asked, Deadline())
        assert not (tmp_path / "alone").exists()


def test_a_snapshot_that_is_not_whole_is_refused(tmp_path: Path, servers: Servers) -> None:
    with memstore.connect(servers.servers[0].address) as client:
        client.create("m", CONFIG)
        client.snapshot(str(tmp_path / "snapshots"))
        servers.stores[1].drop("m")
        client.snapshot(str(tmp_path / "snapshots"))
    with pytest.raises(CorruptFile, match="does not have all parts of memory 'm'"):
        memstore.restore(tmp_path / "snapshots", tmp_path / "one")
    memstore.restore(tmp_path / "snapshots", tmp_path / "one", number=1)


def test_steps_are_checked_and_for_peers(servers: Servers) -> None:
    assert joint.key_of(joint.to_begun(Key("m", "c", 3))) == Key("m", "c", 3)
    for asked in (
        pb.CutRequest(step="nothing", cut="0" * 16),
        pb.CutRequest(step="take", cut="no cut"),
        pb.CutRequest(step="keep", cut="0" * 16, name="../m"),
        pb.CutRequest(step="keep", cut="0" * 16, name="m"),
    ):
        with pytest.raises(MemstoreError):
            joint.step(servers.stores[1], asked, Deadline())
    assert own_part.role_of("cut", pb.CutRequest()) == "peer"
    assert CUT not in servers.stores[0]._manifests.body
    with pytest.raises(Unsupported):
        servers.stores[0].snapshot("/nowhere")
