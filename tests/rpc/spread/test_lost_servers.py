"""Servers that are gone, elsewhere, silent, or lost in the middle of a mutation."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, RequestId, SearchOptions
from memstore.deadline import Deadline
from memstore.errors import (
    DeadlineExceeded,
    HalfDone,
    InvalidArgument,
    ShardUnavailable,
    UnknownSlot,
    Unreachable,
)
from memstore.rpc import administration
from memstore.rpc.client import Client
from memstore.rpc.server import Server
from memstore.rpc.target import Target
from memstore.rpc.topology import Topology
from memstore.rpc.ways import Ways
from tests.congruence.spread import Servers
from tests.rpc.spread.moving import CONFIG, COUNT, EXACT, WIDTH, again, down, rows


def test_of_a_server_that_is_gone_the_shards_are_named(servers: Servers, client: Client) -> None:
    memory = client.create("m", CONFIG)
    slots = memory.append(rows(20))
    # The first calls of a process compile kernels, for which the hasty one has no time.
    memory.update(slots, np.zeros((20, WIDTH)))
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
    from memstore.spread.held import HeldMemory

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
    from memstore.spread.held import HeldMemory

    apply = HeldMemory.apply

    def failing(held: HeldMemory, *args: Any) -> Any:
        if held.part.number == 1:
            raise InvalidArgument("cut here")
        return apply(held, *args)

    with memstore.connect(servers.servers[0].address) as client:
        memory = client.create("m", CONFIG)
        memory.append(rows(20))
        memory.update(range(10), np.zeros((10, WIDTH)))
    with memstore.connect(servers.servers[0].address, deadline_s=2.0) as client:
        memory = client.memory("m")
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
    memory = client.create("m", CONFIG)
    memory.append(rows(10))
    memory.search(rows(2, 1), 3, EXACT)
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


def test_servers_that_hang_keep_nobody_from_those_that_answer(servers: Servers) -> None:
    """All are asked at once for a newer topology."""
    own = servers.servers[0].address
    with contextlib.ExitStack() as stack:
        hanging = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        targets = [Target("{}:{}".format(*each.getsockname())) for each in hanging]
        ways = Ways([*targets, Target(own)])
        stack.callback(ways.close)
        told = ways.asked(administration.topology(), Deadline(3_600.0))
        assert next(told) == Topology(1, servers.topology.servers, servers.stores[0].cluster)
        told.close()


def test_what_a_drop_left_is_no_part_of_a_memory_of_fewer_shards(
    tmp_path: Path, servers: Servers
) -> None:
    with memstore.connect(servers.servers[0].address) as client:
        client.create("m", CONFIG).append(rows(10))
    with memstore.connect(servers.servers[0].address, deadline_s=2.0) as client:
        down(servers, 2)
        with pytest.raises(Unreachable):
            client.drop("m")
    again(servers, tmp_path, 2)
    assert servers.stores[2].list() == ["m"]
    with memstore.connect(servers.servers[2].address, fan_out=False, deadline_s=120.0) as client:
        made = client.create("m", MemoryConfig(dim=2, index="exact"))
        assert (made.config.dim, made.config.shards) == (2, 1)
        assert servers.stores[2].list() == []
        with pytest.raises(UnknownSlot):
            made.gather([2])


@pytest.mark.parametrize("many", [False, True], ids=["one server", "several"])
def test_who_hangs_that_knows_where_servers_are_is_waited_for_no_longer_than_a_call(
    tmp_path: Path, servers: Servers, many: bool
) -> None:
    asked, told = threading.Event(), threading.Event()
    went: list[str] = []

    def find() -> list[str]:
        asked.set()
        told.wait()
        return went

    with contextlib.ExitStack() as stack:
        stack.callback(told.set)
        if many:
            addresses = [each.address for each in servers.servers]
        else:
            store = stack.enter_context(memstore.open(tmp_path / "whole"))
            server = Server(store).start()
            addresses = [server.address]
        targets = [Target(address, deadline_s=3.0) for address in addresses]
        client = stack.enter_context(Client(*targets, find=find))
        memory = client.create("m", CONFIG)
        if many:
            for number in range(COUNT):
                down(servers, number)
        else:
            server.close(0)
        with pytest.raises((Unreachable, ShardUnavailable)):
            memory.search(rows(2), 3, EXACT)
        assert asked.is_set()
        # It still hangs; what it says in the end is gone by.
        if many:
            for number in range(COUNT):
                again(servers, tmp_path, number)
            went += [each.address for each in servers.servers]
        else:
            went.append(stack.enter_context(Server(store)).address)
        told.set()
        assert memory.append(rows(1), deadline_s=120.0).tolist() == [0]
