"""Memories whose shards lie on several servers: who does what, what is lost, and what is told."""

from __future__ import annotations

import gc
import json
import socket
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, RequestId, SearchOptions
from memstore.errors import (
    DeadlineExceeded,
    HalfDone,
    InvalidArgument,
    MemoryExists,
    NotAllowed,
    RequestConflict,
    ShardElsewhere,
    ShardUnavailable,
    StoreClosed,
    UnknownMemory,
    UnknownSlot,
    Unreachable,
    Unsupported,
)
from memstore.memory import Array
from memstore.placement import Part
from memstore.rpc import codec
from memstore.rpc.client import Client
from memstore.rpc.limits import Limits
from memstore.rpc.security import Tokens, add_token
from memstore.rpc.server import Server
from memstore.rpc.spreading import Spreading
from memstore.rpc.target import Target
from memstore.rpc.tls import ClientTls, ServerTls
from memstore.rpc.topology import Route, Topology
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import SPREAD_SERVICE
from tests.congruence.spread import Servers
from tests.rpc import certificates

WIDTH = 3
CONFIG = MemoryConfig(dim=WIDTH, shards=5, index="exact", optimizer="sgd")
EXACT = SearchOptions(exact=True)
COUNT = 3


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-9, 10, (count, WIDTH)).astype(np.float32)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path, COUNT)
    yield made
    made.close()


@pytest.fixture(params=[True, False], ids=["fan out", "forward"])
def client(servers: Servers, request: Any) -> Iterator[Client]:
    address, fan_out = servers.servers[1].address, request.param
    with memstore.connect(address, fan_out=fan_out, deadline_s=20.0) as client:
        yield client


def down(servers: Servers, number: int) -> None:
    """Ends a server and its store; nobody tells the others."""
    servers.servers[number].close(0)
    servers.stores[number].close()


def again(servers: Servers, tmp_path: Path, number: int) -> None:
    """Opens the store anew behind a server at another address, and tells those that go on."""
    store = memstore.open(tmp_path / str(number), part=Part(number, COUNT))
    server = Server(store).start()
    servers.stores[number], servers.servers[number] = store, server
    addresses = [each.address for each in servers.servers]
    servers.topology = Topology(servers.topology.version + 1, tuple(addresses))
    for each in servers.servers:
        each.route(servers.topology)


def test_every_server_tells_of_all(servers: Servers) -> None:
    for server in servers.servers:
        with memstore.connect(server.address) as client:
            assert client.list() == []
    with memstore.connect(servers.servers[0].address) as client:
        client.create("m", CONFIG)
    for number, server in enumerate(servers.servers):
        with memstore.connect(server.address) as client:
            assert client.list() == ["m"]
            memory = client.memory("m")
            assert memory.append(rows(2)).tolist() == [2 * number, 2 * number + 1]
            assert memory.describe().next_slot == 2 * number + 2
            assert len(memory.describe().shards) == CONFIG.shards


def test_memories_are_made_and_dropped_everywhere(servers: Servers, client: Client) -> None:
    client.create("m", CONFIG)
    client.create("one", MemoryConfig(dim=WIDTH, index="exact"))
    assert [store.list() for store in servers.stores] == [["m", "one"], ["m"], ["m"]]
    with pytest.raises(MemoryExists):
        client.create("m", CONFIG)
    with pytest.raises(InvalidArgument, match="not a memory name"):
        client.create("No!", CONFIG)
    assert client.memory("one").append(rows(4)).tolist() == [0, 1, 2, 3]
    client.memory("m").append(rows(10))
    client.drop("m")
    assert [store.list() for store in servers.stores] == [["one"], [], []]
    for verb in (client.drop, client.memory):
        with pytest.raises(UnknownMemory):
            verb("m")
    with pytest.raises(Unsupported):
        client.memory("one").refresh()


def test_what_was_half_made_is_made_anew_and_what_was_half_dropped_is_gone(
    servers: Servers, client: Client
) -> None:
    servers.stores[2].create("m", MemoryConfig(dim=7, shards=9))
    memory = client.create("m", CONFIG)
    memory.append(rows(20))
    servers.stores[0].drop("m")
    client.drop("m")
    assert [store.list() for store in servers.stores] == [[], [], []]


def test_mutations_that_are_refused_change_no_part(client: Client) -> None:
    memory = client.create("m", CONFIG)
    slots = memory.append(rows(20))
    memory.erase([7])
    before = memory.gather(slots[:7]).keys_BD
    many = [0, 1, 2, 3, 4, 5, 6, 7]
    for refused in (
        lambda: memory.write(many, rows(8)),
        lambda: memory.update(many, rows(8)),
        lambda: memory.erase(many),
        lambda: memory.touch(many, 3),
        lambda: memory.blend(many, [0.5] * 8, np.zeros((8, WIDTH)), rows(8)),
        lambda: memory.gather(many),
    ):
        with pytest.raises(UnknownSlot):
            refused()
    np.testing.assert_array_equal(memory.gather(slots[:7]).keys_BD, before)
    with pytest.raises(InvalidArgument, match="k is more than"):
        memory.search(rows(1), 1_000_000, EXACT)


def test_a_request_is_done_once_whichever_server_is_asked(servers: Servers) -> None:
    clients = [memstore.connect(server.address) for server in servers.servers]
    try:
        clients[0].create("m", CONFIG)
        memories = [client.memory("m") for client in clients]
        first = RequestId("tests", 1)
        slots = [memory.append(rows(9), request_id=first).tolist() for memory in memories]
        assert slots == [list(range(9))] * 3
        asked: Any = {"request_id": RequestId("tests", 2)}
        for memory in memories:
            assert memory.update(range(9), np.ones((9, WIDTH)), lr=1.0, **asked).applied == 9
        np.testing.assert_array_equal(memories[0].gather(range(9)).keys_BD, rows(9) - 1)
        for memory in memories:
            with pytest.raises(RequestConflict):
                memory.update(range(9), np.zeros((9, WIDTH)), lr=1.0, **asked)
            with pytest.raises(RequestConflict):
                memory.append(rows(8), request_id=first)
        asked = {"request_id": RequestId("tests", 3)}
        given = [memory.allocate(5, **asked).tolist() for memory in memories]
        assert given == [[0, 1, 2, 3, 4]] * 3
        assert memories[0].gather(range(6)).generations_B.tolist() == [1] * 5 + [0]
    finally:
        for client in clients:
            client.close()


def test_usage_and_capacity_are_of_all_parts(tmp_path: Path, client: Client) -> None:
    """As embedded, step by step."""
    config = MemoryConfig(dim=WIDTH, shards=5, index="exact", capacity=12)
    with memstore.open(tmp_path / "embedded") as store:
        twins = store.create("m", config), client.create("m", config)
        rng = np.random.default_rng(1)
        for step in range(1, 40):
            live = twins[0].search(np.zeros((1, WIDTH)), 12, EXACT).slots_QK[0]
            live = live[live >= 0]
            if step % 3 == 0 and len(live):
                picked = rng.choice(live, min(len(live), 5), replace=False)
                for memory in twins:
                    memory.touch(picked, step)
            elif step % 5 == 0 and len(live) > 3:
                given = [memory.allocate(3, step=step).tolist() for memory in twins]
                assert given[0] == given[1]
            else:
                count = int(rng.integers(1, 6))
                slots = [memory.append(rows(count, step), step=step).tolist() for memory in twins]
                assert slots[0] == slots[1]
            found = [memory.search(rows(4, step), 12, EXACT) for memory in twins]
            np.testing.assert_array_equal(found[0].slots_QK, found[1].slots_QK)
            np.testing.assert_array_equal(found[0].scores_QK, found[1].scores_QK)
        for refused in (lambda m: m.append(rows(13)), lambda m: m.allocate(13)):
            for memory in twins:
                with pytest.raises(InvalidArgument):
                    refused(memory)


def test_of_a_server_that_is_gone_the_shards_are_named(servers: Servers, client: Client) -> None:
    memory = client.create("m", CONFIG)
    slots = memory.append(rows(20))
    whole = memory.search(rows(3, 7), 20, EXACT)
    assert whole.missing_shards == ()
    down(servers, 2)
    missing = [2]
    with memstore.connect(
        servers.servers[1].address, fan_out=client._fan_out, deadline_s=3.0
    ) as hasty:
        memory = hasty.memory("m")
        with pytest.raises(ShardUnavailable, match="shards 2"):
            memory.search(rows(3, 7), 5, EXACT)
        found = memory.search(rows(3, 7), 20, SearchOptions(exact=True, partial=True))
        assert found.missing_shards == tuple(missing)
        assert (found.row_versions_S == -1).tolist() == [False, False, True, False, False]
        held = [[s for s in row if s >= 0 and s % 5 not in missing] for row in whole.slots_QK]
        assert [[s for s in row if s >= 0] for row in found.slots_QK] == held
        others = slots[~np.isin(slots % 5, missing)]
        assert memory.update(others, np.ones((len(others), WIDTH))).applied == len(others)
        assert len(memory.gather(others).slots_B) == len(others)
        for refused in (lambda: memory.gather(slots), lambda: memory.erase(slots)):
            with pytest.raises(ShardUnavailable, match="shards 2"):
                refused()
        # Where the slot that is given lies with a server that is there, a row is appended.
        assert memory.append(rows(1)).tolist() == [20]


def test_a_server_is_found_where_it_went(tmp_path: Path, servers: Servers, client: Client) -> None:
    memory = client.create("m", CONFIG)
    memory.append(rows(20))
    # Who asks one server alone does not hear where that one went.
    for number in range(COUNT) if client._fan_out else (0, 2):
        down(servers, number)
        again(servers, tmp_path, number)
        found = memory.search(rows(2), 20, EXACT)
        assert found.counts_Q.tolist() == [20, 20]
        assert memory.touch(range(20), number).applied == 20
    assert client.list() == ["m"]
    with client.session() as session:
        assert session.memory("m").append(rows(1)).tolist() == [20]


def test_what_was_half_done_is_done_whole_when_it_is_asked_again(
    tmp_path: Path, servers: Servers, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at each of the parts of each mutation, by a part that fails once."""
    from memstore.held import HeldMemory

    memory = client.create("m", CONFIG)
    store = memstore.open(tmp_path / "embedded")
    twin = store.create("m", CONFIG)
    for each in (memory, twin):
        each.append(rows(20))
    verbs: dict[str, Any] = {
        "append": lambda m, n: m.append(rows(7, n), request_id=RequestId("t", n)),
        "write": lambda m, n: m.write(range(8), rows(8, n), request_id=RequestId("t", n)),
        "update": lambda m, n: m.update(range(9), rows(9, n), request_id=RequestId("t", n)),
        "allocate": lambda m, n: m.allocate(6, request_id=RequestId("t", n)),
    }
    number, apply = 0, HeldMemory.apply
    for verb in ("append", "write", "update", "allocate"):
        for cut in range(COUNT):
            number += 1
            failing = {cut}

            def once(held: HeldMemory, *args: Any, failing: set[int] = failing) -> Any:
                if held.part.number in failing:
                    failing.discard(held.part.number)
                    raise InvalidArgument("cut here")
                return apply(held, *args)

            expected = verbs[verb](twin, number)
            with monkeypatch.context() as patch:
                patch.setattr(HeldMemory, "apply", once)
                done = verbs[verb](memory, number)
            assert not failing
            again = verbs[verb](memory, number)
            for found in (done, again):
                if verb in ("append", "allocate"):
                    assert found.tolist() == expected.tolist()
                else:
                    assert found == expected
    slots = range(20 + 7 * COUNT)
    one, other = memory.gather(slots), twin.gather(slots)
    np.testing.assert_array_equal(one.keys_BD, other.keys_BD)
    np.testing.assert_array_equal(one.generations_B, other.generations_B)
    store.close()


def test_a_mutation_that_stays_half_done_says_so(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memstore.held import HeldMemory

    apply = HeldMemory.apply

    def failing(held: HeldMemory, *args: Any) -> Any:
        if held.part.number == 1:
            raise InvalidArgument("cut here")
        return apply(held, *args)

    with memstore.connect(servers.servers[0].address, deadline_s=2.0) as client:
        memory = client.create("m", CONFIG)
        memory.append(rows(20))
        request = RequestId("tests", 5)
        monkeypatch.setattr(HeldMemory, "apply", failing)
        with pytest.raises(HalfDone, match="request 5 of 'tests'"):
            memory.update(range(10), np.ones((10, WIDTH)), lr=1.0, request_id=request)
        monkeypatch.undo()
        done = memory.update(range(10), np.ones((10, WIDTH)), lr=1.0, request_id=request)
        assert done.applied == 10
        np.testing.assert_array_equal(memory.gather(range(10)).keys_BD, rows(20)[:10] - 1)


def test_what_is_cut_off_is_left_out_in_time(servers: Servers, client: Client) -> None:
    """A server that neither answers nor refuses costs a search its shards, not its answer."""
    client.create("m", CONFIG).append(rows(10))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = [server.address for server in servers.servers]
        addresses[2] = "{}:{}".format(*silent.getsockname())
        for number in (0, 1):
            servers.servers[number].route(Topology(2, tuple(addresses)))
        fan_out = client._fan_out
        with memstore.connect(addresses[1], fan_out=fan_out, deadline_s=2.0) as late:
            memory = late.memory("m")
            found = memory.search(rows(2, 1), 3, SearchOptions(exact=True, partial=True))
            assert found.missing_shards == (2,)
            with pytest.raises((DeadlineExceeded, ShardUnavailable)):
                memory.search(rows(2, 1), 3, EXACT)


def test_what_a_drop_left_is_no_part_of_a_memory_of_fewer_shards(
    tmp_path: Path, servers: Servers
) -> None:
    with memstore.connect(servers.servers[0].address, deadline_s=2.0) as client:
        client.create("m", CONFIG).append(rows(10))
        down(servers, 2)
        with pytest.raises(Unreachable):
            client.drop("m")
    again(servers, tmp_path, 2)
    assert servers.stores[2].list() == ["m"]
    with memstore.connect(servers.servers[2].address, fan_out=False, deadline_s=20.0) as client:
        made = client.create("m", MemoryConfig(dim=2, index="exact"))
        assert (made.config.dim, made.config.shards) == (2, 1)
        assert servers.stores[2].list() == []
        with pytest.raises(UnknownSlot):
            made.gather([2])


def test_nothing_is_kept_of_what_was_dropped(servers: Servers, client: Client) -> None:
    client.create("m", CONFIG).append(rows(10))
    held = [weakref.ref(each) for each in servers.held("m")]
    client.drop("m")
    gc.collect()
    assert [each() for each in held] == [None] * COUNT


def test_of_a_memory_one_alone_chooses_the_least_used(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that ask for a memory first, and at once, get the same."""
    spread = Spreading._spread

    def slow(spreading: Spreading, *args: Any) -> Any:
        time.sleep(0.05)
        return spread(spreading, *args)

    monkeypatch.setattr(Spreading, "_spread", slow)
    with memstore.connect(servers.servers[0].address) as client:
        client.create("m", CONFIG)
    spreading = servers.servers[0]._spreading
    assert spreading is not None
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(spreading.memory, ["m"] * 4)]
    assert all(each is found[0] for each in found)


def test_long_calls_go_on_to_the_server_that_chooses(tmp_path: Path) -> None:
    limits = Limits(message_bytes=1 << 16)
    servers = Servers(tmp_path, 2, limits)
    keys = np.arange(3 * 8_000, dtype=np.float32).reshape(-1, 3)
    try:
        target = Target(servers.servers[1].address, message_bytes=limits.message_bytes)
        with Client(target) as client:
            config = MemoryConfig(
                dim=3, shards=2, index="exact", capacity=8_000, records={"t": "string"}
            )
            memory = client.create("m", config)
            slots = memory.append(keys, records={"t": ["x"] * len(keys)})
            np.testing.assert_array_equal(memory.gather(slots[::99]).keys_BD, keys[::99])
            told = {"t": ["y" * 99] * 2_000}
            assert len(memory.allocate(2_000, records=told)) == 2_000
    finally:
        servers.close()


def test_what_training_asks_of_a_part_is_checked_there(servers: Servers) -> None:
    """Who may read may ask it, and is told what is wrong; as much as a message has, and no more."""
    bad = np.full((1, WIDTH), np.nan, np.float32)
    one, slots = codec.to_tensor(rows(1)), codec.to_tensor(np.array([[1, 4]]))
    number = codec.to_options(SearchOptions(filter=memstore.field("no") > 3))
    with memstore.connect(servers.servers[0].address) as client:
        config = MemoryConfig(dim=WIDTH, shards=COUNT, index="clustered")
        client.create("m", config).append(rows(9))
        way = client._ways.to(servers.servers[1].address)

        def ask(question: str, **rest: Any) -> Any:
            asked = pb.WidenRequest(part=pb.Part(number=1, of=COUNT), memory="m", **rest)
            asked.question = question
            return way.sent(SPREAD_SERVICE, "widen", asked, 20.0)

        for wrong in (
            lambda: ask("sampled", queries=codec.to_tensor(bad), k=1),
            lambda: ask("sampled", queries=codec.to_tensor(rows(1)[:, :2]), k=1),
            lambda: ask("sampled", queries=one, k=0),
            lambda: ask("sampled", queries=codec.to_tensor(rows(4_096)), k=2**40),
            lambda: ask("scored", queries=codec.to_tensor(bad), slots=slots),
            lambda: ask("scored", queries=one, slots=one),
            lambda: ask("standing", slots=one),
            lambda: ask("standing", slots=codec.to_tensor(np.arange(3)), options=number),
            lambda: ask("other", queries=one, slots=slots),
        ):
            with pytest.raises(InvalidArgument):
                wrong()
        found = ask("scored", queries=codec.to_tensor(rows(1).astype(np.float64)), slots=slots)
        assert codec.to_array("slots", found.slots).tolist() == [[1, 4]]


def test_a_closed_client_says_so(servers: Servers) -> None:
    client = memstore.connect(servers.servers[0].address)
    memory = client.create("m", CONFIG)
    memory.append(rows(10))
    client.close()
    for call in (
        lambda: memory.search(rows(1), 3),
        lambda: memory.gather([0, 1, 2]),
        lambda: memory.write([0, 1, 2], rows(3)),
        lambda: memory.append(rows(3)),
    ):
        with pytest.raises(StoreClosed, match="was closed"):
            call()


def test_of_fewer_servers_than_there_were_no_part_is_taken_for_another(
    tmp_path: Path, servers: Servers
) -> None:
    fewer = Servers(tmp_path / "fewer", 2)
    with memstore.connect(servers.servers[0].address, deadline_s=1.0) as client:
        memory = client.create("m", CONFIG)
        memory.append(rows(10))
        client._take(Topology(9, fewer.topology.servers, servers.stores[0].cluster))
        for slots in ([0, 1, 2], [2]):
            with pytest.raises(ShardElsewhere):
                memory.gather(slots)
    fewer.close()


def test_a_server_answers_for_its_own_part_alone(servers: Servers) -> None:
    """A topology that is wrong is found out: nobody's rows are taken for another's."""
    with memstore.connect(servers.servers[0].address, deadline_s=1.0) as client:
        memory = client.create("m", CONFIG)
        memory.append(rows(20))
        addresses = servers.topology.servers
        wrong = Topology(2, (addresses[0], addresses[2], addresses[1]))
        client._topology = wrong
        client._ways.learn(wrong.servers)
        with pytest.raises(ShardElsewhere, match="holds other shards"):
            memory.search(rows(1), 5, EXACT)
        with pytest.raises(ShardElsewhere):
            memory.erase(range(20))
        right = Topology(3, addresses)
        for server in servers.servers:
            server.route(right)
        assert memory.search(rows(1), 5, EXACT).counts_Q.tolist() == [5]
    with pytest.raises(InvalidArgument, match="another number of parts"):
        servers.servers[0].route(Topology(9, addresses[:2]))


def test_a_topology_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "topology.json"
    route = Route(Part(0, 2), path)

    def write(version: int, *servers: str) -> None:
        path.write_text(json.dumps({"version": version, "servers": servers}))

    write(1, "a:1", "b:2")
    assert route.now.servers == ("a:1", "b:2")
    write(2, "a:1", "b:33")
    assert route.now == Topology(2, ("a:1", "b:33"))
    for wrong in ("{", '{"version": 3}', '{"version": 3, "servers": ["a:1"]}', ""):
        path.write_text(wrong)
        assert route.now.version == 2
    write(1, "c:1", "d:2")
    assert route.now.version == 2
    path.unlink()
    assert route.now.version == 2
    path.write_text("[]")
    with pytest.raises(InvalidArgument, match="holds no topology"):
        Route(Part(0, 2), path)


def test_a_server_of_whole_memories_has_no_others(client: Client, tmp_path: Path) -> None:
    with memstore.open(tmp_path / "whole") as store, Server(store) as server:
        with memstore.connect(server.address) as other:
            memory = other.create("m", CONFIG)
            memory.append(rows(4))
            assert other._topology is None
        with pytest.raises(InvalidArgument, match="whole memories"):
            server.route(Topology(1, ("a:1", "b:2")))


def test_rights_are_checked_before_others_are_asked(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    peer = add_token(tokens, "server", "peer")
    roles = {role: add_token(tokens, role, role) for role in ("read", "write", "admin")}
    narrow = add_token(tokens, "narrow", "write", ["other"])
    stores = [memstore.open(tmp_path / str(i), part=Part(i, 2)) for i in range(2)]
    servers = [Server(store, tokens=Tokens(tokens), peer_token=peer).start() for store in stores]
    topology = Topology(1, tuple(server.address for server in servers))
    for server in servers:
        server.route(topology)
    try:
        for fan_out in (True, False):
            tokens_of = roles | {"narrow": narrow}
            _check_rights(servers[1].address, tokens_of, fan_out)
        _check_peers_alone(servers[0].address, roles["admin"])
    finally:
        for server in servers:
            server.close()
        for store in stores:
            store.close()


def _check_rights(address: str, tokens: dict[str, str], fan_out: bool) -> None:
    connect = {
        name: memstore.connect(address, token=token, fan_out=fan_out)
        for name, token in tokens.items()
    }
    with pytest.raises(NotAllowed):
        connect["write"].create("m", CONFIG)
    connect["admin"].create("m", CONFIG)
    memory = connect["write"].memory("m")
    assert memory.append(rows(8)).tolist() == list(range(8))
    assert memory.update(range(8), rows(8)).applied == 8
    assert memory.allocate(2).tolist() == [0, 1]
    reading = connect["read"].memory("m")
    assert reading.search(rows(1), 3, EXACT).counts_Q.tolist() == [3]
    for refused in (
        lambda: reading.update(range(8), rows(8)),
        lambda: reading.append(rows(1)),
        lambda: connect["narrow"].memory("m"),
        lambda: connect["write"].drop("m"),
    ):
        with pytest.raises(NotAllowed):
            refused()
    connect["admin"].drop("m")
    for client in connect.values():
        client.close()


def _check_peers_alone(address: str, token: str) -> None:
    """What servers ask each other is not for those who are none."""
    from memstore.rpc.calls import Request
    from memstore.rpc.v1 import memory_pb2 as pb
    from memstore.rpc.verbs import SPREAD, SPREAD_SERVICE

    with memstore.connect(address, token=token) as client:
        for verb, kind in SPREAD.items() - {("widen", SPREAD["widen"])}:
            message = kind()
            if verb == "prepare":
                message.verb = "append"
            if verb == "apply":
                message.append.CopyFrom(pb.AppendRequest())
            with pytest.raises(NotAllowed, match="expected role peer"):
                client.send(Request(SPREAD_SERVICE, verb, message, lambda reply: reply))


def test_servers_ask_each_other_over_tls(tmp_path: Path) -> None:
    """Each shows who it is and asks the others for it, and a client of one alone has all."""
    (tmp_path / "pem").mkdir()
    pem = certificates.make(tmp_path / "pem")
    peer = add_token(tmp_path / "tokens.json", "server", "peer")
    admin = add_token(tmp_path / "tokens.json", "admin", "admin")
    own = ServerTls(pem.certificate, pem.key, pem.authority)
    mine = ClientTls(pem.authority, pem.client_certificate, pem.client_key)
    stores = [memstore.open(tmp_path / str(i), part=Part(i, 2)) for i in range(2)]
    settings: dict[str, Any] = {"tls": own, "tokens": Tokens(tmp_path / "tokens.json")}
    servers = [
        Server(store, peer_token=peer, peer_tls=mine, **settings).start() for store in stores
    ]
    plain = Server(stores[1], peer_token=peer, peer_tls=ClientTls(pem.authority), **settings)
    servers.append(plain.start())
    try:
        topology = Topology(1, tuple(server.address for server in servers[:2]))
        for server in servers:
            server.route(topology)
        for number, fan_out in enumerate((True, False)):
            how: Any = {"token": admin, "tls": mine, "fan_out": fan_out}
            with memstore.connect(servers[1].address, **how) as client:
                memory = client.create(f"m{number}", CONFIG)
                assert memory.append(rows(20)).tolist() == list(range(20))
                assert memory.search(rows(2), 20, EXACT).counts_Q.tolist() == [20, 20]
        # One without a certificate of its own is not let in by the others.
        how = {"token": admin, "tls": mine, "fan_out": False, "deadline_s": 3.0}
        with memstore.connect(plain.address, **how) as client, pytest.raises(Unreachable):
            client.memory("m0").search(rows(2), 20, EXACT)
    finally:
        for server in servers:
            server.close()
        for store in stores:
            store.close()
