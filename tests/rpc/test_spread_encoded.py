"""Encoded memories over several servers: what is refused, what comes in between, what is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, Memory, MemoryConfig, RequestId, SearchOptions
from memstore.changes import Changes
from memstore.deadline import Deadline
from memstore.errors import (
    InvalidArgument,
    MemoryInUse,
    MemstoreError,
    RequestConflict,
    ShardUnavailable,
    UnknownMemory,
    UnknownSlot,
    Unsupported,
)
from memstore.memory import Array
from memstore.placement import Part
from memstore.retries import Asked
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from memstore.rpc.sums import RemoteSums
from memstore.rpc.topology import Topology
from memstore.spread.encoded import SpreadEncodedMemory
from memstore.spread.held import Given
from tests.congruence.spread import Servers

WIDTH = 3
COUNT = 3
PART = MemoryConfig(dim=WIDTH, shards=4, index="none", optimizer="sgd")
ENCODING = EncodingConfig(key={"a": "ones", "b": "others"}, value={"c": "ones"})
FACTS = MemoryConfig(
    dim=WIDTH,
    shards=5,
    index="exact",
    records={"a": "int64", "b": "int64", "c": "int64"},
    encoding=ENCODING,
)
EXACT = SearchOptions(exact=True)


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-9, 10, (count, WIDTH)).astype(np.float32)


def facts_of(count: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"a": rng.integers(0, 8, count), "b": rng.integers(0, 4, count), "c": [0] * count}


def made(store: Any, part: MemoryConfig = PART, **changes: Any) -> tuple[Memory, Memory, Memory]:
    ones, others = store.create("ones", part), store.create("others", part)
    ones.append(rows(8, 1))
    others.append(rows(4, 2))
    config = MemoryConfig.from_dict(FACTS.to_dict() | changes)
    return ones, others, store.create("facts", config)


def expected(ones: Memory, others: Memory, facts: dict[str, Any]) -> Array:
    a, b = ones.gather(facts["a"]).keys_BD, others.gather(facts["b"]).keys_BD
    assert a is not None
    assert b is not None
    return a + b


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path / "servers", COUNT)
    yield made
    made.close()


@pytest.fixture(params=[True, False], ids=["fan out", "forward"])
def client(servers: Servers, request: Any) -> Iterator[Client]:
    address = servers.servers[1].address
    with memstore.connect(address, fan_out=request.param, deadline_s=120.0) as client:
        yield client


def test_it_is_what_it_is_embedded(tmp_path: Path, client: Client) -> None:
    """Step by step, refreshes with a limit among them."""
    with memstore.open(tmp_path / "embedded") as store:
        twins = made(store), made(client)
        rng = np.random.default_rng(3)
        for step in range(25):
            records, grads = facts_of(4, step), rows(3, step)
            moved = rng.integers(0, 8, 3)
            limit = None if step % 3 else 5
            refreshed = []
            for ones, _, facts in twins:
                facts.append(records=records, step=step)
                ones.update(moved, grads, lr=0.1)
                if step % 4 == 1:
                    facts.write([0, 3], records=facts_of(2, step))
                    facts.touch([1, 2], step)
                refreshed.append(facts.refresh(limit) if step % 5 == 0 else None)
            assert refreshed[0] == refreshed[1]
            descriptions = [facts.describe() for *_, facts in twins]
            assert descriptions[0].drift == descriptions[1].drift
            assert descriptions[0].rows == descriptions[1].rows
            found = [facts.search(rows(3, step), 20, EXACT) for *_, facts in twins]
            np.testing.assert_array_equal(found[0].slots_QK, found[1].slots_QK)
            np.testing.assert_array_equal(found[0].scores_QK, found[1].scores_QK)


def test_what_is_refused_embedded_is_refused_alike(tmp_path: Path, client: Client) -> None:
    with memstore.open(tmp_path / "embedded") as store:
        for where in (store, client):
            with pytest.raises(UnknownMemory):
                where.create("facts", FACTS)
            _, others, facts = made(where)
            facts.append(records=facts_of(9))
            before = facts.gather(range(9)).keys_BD
            others.erase([3])
            unknown = {"a": [0, 8], "b": [0, 0], "c": [0, 0]}
            for wrong in (
                unknown,
                {**unknown, "a": [0, 0], "b": [0, 3]},
                {**unknown, "a": [0, -1]},
            ):
                with pytest.raises((UnknownSlot, InvalidArgument)):
                    facts.append(records=wrong)
                with pytest.raises((UnknownSlot, InvalidArgument)):
                    facts.write([0, 1], records=wrong)
            with pytest.raises(UnknownSlot, match="record column 'c'"):
                facts.append(records={"a": [0], "b": [0], "c": [99]})
            for refused in (
                lambda facts=facts: facts.update([0], rows(1)),
                lambda facts=facts: facts.blend([0], [0.5], rows(1) * 0, rows(1)),
                lambda facts=facts: facts.allocate(1),
            ):
                with pytest.raises(Unsupported, match="no rows of its own"):
                    refused()
            with pytest.raises(InvalidArgument, match="keys are sums"):
                facts.append(rows(1), records=facts_of(1))
            with pytest.raises(InvalidArgument):
                facts.write([0, 0], records=facts_of(2))
            with pytest.raises(MemoryInUse):
                where.drop("ones")
            np.testing.assert_array_equal(facts.gather(range(9)).keys_BD, before)
            assert facts.append(records={"a": [], "b": [], "c": []}).tolist() == []
            assert facts.append(records={"a": [1], "b": [1], "c": [1]}).tolist() == [9]


def test_facts_are_on_all_servers_of_their_parts(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="would not lie on all servers"):
        made(client, shards=2)
    narrow = MemoryConfig.from_dict(FACTS.to_dict() | {"dim": 2})
    with pytest.raises(InvalidArgument, match="do not fit"):
        client.create("facts", narrow)
    assert client.list() == ["ones", "others"]
    client.create("facts", FACTS)
    client.drop("facts")
    client.drop("ones")
    assert client.list() == ["others"]


def test_a_retry_is_told_what_was_done_whatever_became_of_the_parts(client: Client) -> None:
    ones, _, facts = made(client)
    asked: Any = {"request_id": RequestId("tests", 1)}
    slots = facts.append(records=facts_of(9), **asked).tolist()
    before = facts.gather(slots).keys_BD
    ones.update(range(8), rows(8), lr=1.0)
    assert facts.append(records=facts_of(9), **asked).tolist() == slots
    ones.erase(range(8))
    assert facts.append(records=facts_of(9), **asked).tolist() == slots
    np.testing.assert_array_equal(facts.gather(slots).keys_BD, before)
    with pytest.raises(RequestConflict):
        facts.append(records=facts_of(9, 1), **asked)
    with pytest.raises(UnknownSlot):
        facts.append(records=facts_of(9), request_id=RequestId("tests", 2))


def test_a_refresh_between_summing_and_putting_is_not_missed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums that are older than what a refresh counted from would count as new."""
    ones, others, facts = made(client)
    facts.append(records=facts_of(9))
    encode = SpreadEncodedMemory._encode
    times: list[int] = []

    def late(self: SpreadEncodedMemory, records: Any) -> Array:
        keys_BD = encode(self, records)
        if len(records) == 7 and not times:
            times.append(1)
            ones.update(range(8), np.ones((8, WIDTH)), lr=1.0)
            facts.refresh()
        return keys_BD

    monkeypatch.setattr(SpreadEncodedMemory, "_encode", late)
    slots = facts.append(records=facts_of(7, 5))
    assert times
    assert facts.describe().drift == 0.0
    np.testing.assert_array_equal(
        facts.gather(slots).keys_BD, expected(ones, others, facts_of(7, 5))
    )
    times.clear()
    facts.write(slots, records=facts_of(7, 6))
    assert times
    assert facts.describe().drift == 0.0
    np.testing.assert_array_equal(
        facts.gather(slots).keys_BD, expected(ones, others, facts_of(7, 6))
    )


def test_a_fact_that_is_written_while_it_is_refreshed_stays_as_it_was_written(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones, others, facts = made(client)
    slots = facts.append(records=facts_of(7))
    ones.update(range(8), np.ones((8, WIDTH)), lr=1.0)
    sums_of = SpreadEncodedMemory._sums_of
    times: list[int] = []

    def late(self: SpreadEncodedMemory, named_BC: Array) -> Any:
        made = sums_of(self, named_BC)
        if not times:
            times.append(1)
            facts.write(slots[:3], records=facts_of(3, 9))
            facts.erase(slots[5:6])
        return made

    monkeypatch.setattr(SpreadEncodedMemory, "_sums_of", late)
    assert facts.refresh().encoded <= 6
    assert times
    assert facts.describe().drift == 0.0
    np.testing.assert_array_equal(
        facts.gather(slots[:3]).keys_BD, expected(ones, others, facts_of(3, 9))
    )
    kept = {name: column[3:5] for name, column in facts_of(7).items()}
    np.testing.assert_array_equal(facts.gather(slots[3:5]).keys_BD, expected(ones, others, kept))


def again(servers: Servers, folder: Path, number: int, *, crashes: bool) -> None:
    """Opens a store anew behind a server at another address; crashes: as it was at its last
    checkpoint, and what was logged since."""
    import shutil

    servers.servers[number].close(0)
    if crashes:
        shutil.copytree(folder / str(number), folder / f"{number}-lost")
    servers.stores[number].close()
    if crashes:
        shutil.rmtree(folder / str(number))
        (folder / f"{number}-lost").rename(folder / str(number))
    store = memstore.open(folder / str(number), part=Part(number, COUNT))
    servers.stores[number], servers.servers[number] = store, Server(store).start()
    addresses = tuple(each.address for each in servers.servers)
    servers.topology = Topology(servers.topology.version + 1, addresses)
    for each in servers.servers:
        each.route(servers.topology)


def test_steps_that_a_crash_loses_count_as_drift(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    """Of parts whose steps are not logged: others have sums of rows that are no more."""
    ones, others, facts = made(client)
    for store in servers.stores:
        store.checkpoint()
    ones.update(range(8), rows(8), lr=1.0)
    facts.append(records=facts_of(9))
    assert facts.describe().drift == 0.0
    for number in (0, 2):
        again(servers, tmp_path / "servers", number, crashes=True)
    kept = facts.gather(range(9)).keys_BD
    assert kept is not None
    assert not np.array_equal(kept, expected(ones, others, facts_of(9)))
    assert facts.describe().drift == np.inf
    for number in (0, 2):
        again(servers, tmp_path / "servers", number, crashes=False)
    assert facts.describe().drift == np.inf
    assert facts.refresh().drift_after == 0.0
    np.testing.assert_array_equal(
        facts.gather(range(9)).keys_BD, expected(ones, others, facts_of(9))
    )
    for number in (0, 2):
        again(servers, tmp_path / "servers", number, crashes=False)
    assert facts.describe().drift == 0.0


def test_pieces_of_a_part_row_begin_anew_where_a_crash_may_have_lost_its_steps(
    tmp_path: Path, servers: Servers, client: Client
) -> None:
    """Of those before it the sums are of a row that is no more."""
    ones, others, facts = made(client)
    records = {"a": [6] * 9, "b": np.arange(9) % 4, "c": [0] * 9}  # row 6 is of server 2
    facts.append(records=records)
    for store in servers.stores:
        store.checkpoint()
    ones.update([6], rows(1, 5), lr=1.0)
    assert facts.refresh(limit=4).encoded == 4
    again(servers, tmp_path / "servers", 2, crashes=True)
    while facts.refresh(limit=4).drift_after:
        pass
    np.testing.assert_array_equal(facts.gather(range(9)).keys_BD, expected(ones, others, records))


def test_a_crash_takes_no_sum_that_others_know_of(tmp_path: Path, servers: Servers) -> None:
    """Of a refresh so large that all keys only drift, until the index is built anew."""

    def connected() -> Client:
        return memstore.connect(servers.servers[0].address, deadline_s=120.0)

    logged = MemoryConfig.from_dict(PART.to_dict() | {"updates": "logged"})
    with connected() as client:
        ones, others, facts = made(client, logged)
        facts.append(records=facts_of(9))
        for store in servers.stores:
            store.checkpoint()
        ones.update(range(8), rows(8), lr=1.0)
        others.update(range(4), rows(4), lr=1.0)
        assert facts.refresh().encoded == 9
        sums_BD = expected(ones, others, facts_of(9))
    for number in range(COUNT):
        again(servers, tmp_path / "servers", number, crashes=True)
        with connected() as client:
            facts = client.memory("facts")
            np.testing.assert_array_equal(facts.gather(range(9)).keys_BD, sums_BD)
            found = facts.search(rows(3, 4), 9, EXACT)
            np.testing.assert_array_equal(found.scores_QK, -np.sort(-(rows(3, 4) @ sums_BD.T)))
            # Part rows that a part has count from its last checkpoint on, and are summed anew.
            assert facts.refresh().drift_after == 0.0


def test_without_a_server_of_the_parts_nothing_is_summed(servers: Servers) -> None:
    address = servers.servers[0].address
    with memstore.connect(address, deadline_s=120.0) as client:
        made(client)
    servers.servers[2].close(0)
    servers.stores[2].close()
    with memstore.connect(address, deadline_s=3.0) as client:
        with pytest.raises(ShardUnavailable):
            client.memory("facts").append(records=facts_of(9))
        with pytest.raises(ShardUnavailable):
            client.memory("facts").refresh()


@pytest.mark.parametrize("kind", ["sgd", "rowwise_adagrad"])
def test_a_training_step_is_that_of_one_embedded(tmp_path: Path, client: Client, kind: str) -> None:
    torch = pytest.importorskip("torch")
    from memstore.torch import RowOptimizer, RowTable, SparseReader

    part = MemoryConfig.from_dict(PART.to_dict() | {"optimizer": {"kind": kind, "lr": 0.5}})
    lists = FACTS.to_dict()["records"] | {"c": "list<int64>"}
    records = facts_of(12) | {"c": [[i % 8, (3 * i) % 8][: i % 3] for i in range(12)]}
    with memstore.open(tmp_path / "embedded") as store:
        read = []
        for where in (store, client):
            ones, others, facts = made(where, part, records=lists)
            facts.append(records=records)
            tables = [RowTable(ones), RowTable(others)]
            options = SearchOptions(exact=True, sample_random=2, seed=7)
            reader = SparseReader(facts, k=4, options=options, parts=tables)
            optimizer, seen = RowOptimizer(tables), []
            for step in range(4):
                query = torch.from_numpy(rows(5, step))
                reading = reader(query)
                (reading.output_QV**2).sum().backward()
                changed = optimizer.step()
                facts.refresh(6)
                seen += [reading.candidates.slots_QK, reading.output_QV.detach().numpy(), changed]
            seen += [memory.gather(range(4)).keys_BD for memory in (ones, others, facts)]
            read.append(seen)
        for one, other in zip(*read, strict=True):
            np.testing.assert_array_equal(one, other)


def test_questions_about_sums_are_checked(servers: Servers) -> None:
    """By whoever they are asked: nothing is made for rows that are not there."""
    with memstore.connect(servers.servers[0].address, deadline_s=120.0) as client:
        made(client)
        memory: Any = client.memory("facts")
        plain: Any = client.memory("ones")
        memory.append(records=facts_of(9))
        sums = RemoteSums(memory._parts[1])
        far = np.array([1, 2**60])
        assert sums.used("a", far)[1] == 0
        assert sums.naming("a", far[1:], -1)[1].shape == (0, 2)
        for wrong in (
            lambda: sums.note("a", far, np.zeros(2), 0),
            lambda: sums.note("a", np.array([1]), np.zeros(2), 0),
            lambda: sums.note("a", np.array([1]), np.zeros(1), 1),
            lambda: sums.used("a", far[::-1]),
            lambda: sums.used("c", far),
            lambda: sums.drifted("no", -1),
            lambda: sums.put_again(np.array([1]), rows(1), np.zeros((1, 3), np.int64), 0, False),
            lambda: sums.put_again(np.array([1]), rows(1), np.zeros((1, 2), np.int64), 0, False),
            lambda: memory._parts[1].ask_of_sums("?", column="a"),
            lambda: RemoteSums(plain._parts[1]).begin(False),
        ):
            with pytest.raises(MemstoreError):
                wrong()
        # Nor are keys put that nobody has summed.
        change = Changes("facts", FACTS).write([1], rows(1), None, facts_of(1), None)
        asked: Any = Asked.of(RequestId("tests", 1), *change.content)
        with pytest.raises(MemoryInUse):
            memory._parts[1].apply(change, Given(1), asked, Deadline(5.0))
        change = Changes("facts", FACTS).update([1], rows(1), None, None, None)
        with pytest.raises(Unsupported):
            memory._parts[1].apply(change, Given(1), asked, Deadline(5.0))
        assert memory.describe().drift == 0.0
