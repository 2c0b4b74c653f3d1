"""Who may ask a part, and how servers prove to each other who they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import memstore
from memstore.errors import NotAllowed, Unreachable
from memstore.placement import Part
from memstore.rpc.security import Tokens, add_token
from memstore.rpc.server import Server
from memstore.rpc.tls import ClientTls, ServerTls
from memstore.rpc.topology import Topology
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import SPREAD_SERVICE
from tests.rpc import certificates
from tests.rpc.spread.moving import CONFIG, EXACT, rows


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
    from memstore.rpc.verbs import SPREAD

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
