"""Who may call what: tokens, roles, memories, and where a server does not listen."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import ClientTls, Store
from memstore.errors import InvalidArgument, NotAllowed, Unauthenticated, Unreachable
from memstore.rpc.security import Tokens, add_token, is_loopback, remove_token
from memstore.rpc.server import Server
from memstore.rpc.tls import ServerTls
from tests.rpc.certificates import make
from tests.rpc.conftest import CONFIG, WIDTH

ROWS = np.eye(WIDTH, dtype=np.float32)


def test_roles_and_memories(store: Store, tmp_path: Path) -> None:
    store.create("other", CONFIG)
    path = tmp_path / "tokens.json"
    tokens = {
        "reader": add_token(path, "reader", "read"),
        "writer": add_token(path, "writer", "write", ["m"]),
        "admin": add_token(path, "admin", "admin"),
    }
    with Server(store, tokens=Tokens(path)) as server:
        reader, writer, admin = (
            memstore.connect(server.address, token=token) for token in tokens.values()
        )
        with reader, writer, admin:
            slots = writer.memory("m").append(ROWS)
            assert reader.memory("m").search(ROWS[:1], 1).slots_QK.tolist() == [[slots[0]]]
            for refused in (
                lambda: reader.memory("m").append(ROWS),
                lambda: reader.memory("m").erase([0]),
                lambda: reader.drop("m"),
                lambda: writer.memory("other"),
                lambda: writer.memory("none"),
                lambda: writer.memory("m").reindex(),
                lambda: writer.create("mine", CONFIG),
                lambda: writer.mark("here"),
            ):
                with pytest.raises(NotAllowed):
                    refused()
            assert (reader.list(), writer.list()) == (["m", "other"], ["m"])
            with writer.session() as session:
                session.memory("m").append(ROWS)
                with pytest.raises(NotAllowed):
                    session.memory("other")
            admin.memory("m").reindex()
            admin.drop("other")
    assert store.memory("m").describe().rows == 2 * WIDTH


def test_tokens_that_are_none(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    right = add_token(path, "me", "admin")
    with Server(store, tokens=Tokens(path)) as server:
        for token in (None, "", "me", "me.", right + "x", right[:-1], "you" + right[2:], "é"[:0]):
            with (
                memstore.connect(server.address, token=token) as client,
                pytest.raises(Unauthenticated),
            ):
                client.list()
            with (
                memstore.connect(server.address, token=token) as client,
                client.session() as session,
                pytest.raises(Unauthenticated),
            ):
                session.memory("m")
        with memstore.connect(server.address, token=right) as client:
            assert client.list() == ["m"]
            # A file that changes counts from the next call on, without a restart.
            other = add_token(path, "you", "read")
            remove_token(path, "me")
            with pytest.raises(Unauthenticated):
                client.list()
            path.write_text("in the middle of")
            with memstore.connect(server.address, token=other) as again:
                assert again.list() == ["m"]


def test_what_is_not_for_a_caller_is_not_told(store: Store, tmp_path: Path) -> None:
    from memstore import EncodingConfig, IndexConfig, MemoryConfig

    store.create("secret", MemoryConfig(dim=WIDTH, index="none")).append(ROWS)
    path = tmp_path / "tokens.json"
    token = add_token(path, "some", "admin", ["x", "base"])
    facts = MemoryConfig(
        dim=WIDTH,
        records={"part": "int64"},
        encoding=EncodingConfig(key={"part": "secret"}),
        index=IndexConfig(kind="exact"),
    )
    with (
        Server(store, tokens=Tokens(path)) as server,
        memstore.connect(server.address, token=token) as client,
    ):
        # Whoever makes a memory of others' rows reads them.
        with pytest.raises(NotAllowed):
            client.create("x", facts)
        told = []
        for refused in (lambda: client.memory("x"), lambda: client.drop("x")):
            with pytest.raises(memstore.errors.UnknownMemory) as error:
                refused()
            told.append(str(error.value))
        store.create("base", MemoryConfig(dim=WIDTH, index="none"))
        encoding = EncodingConfig(key={"part": "base"})
        store.create("hidden", dataclasses.replace(facts, encoding=encoding))
        with pytest.raises(memstore.errors.MemoryInUse) as in_use:
            client.drop("base")
        told.append(str(in_use.value))
    assert not [text for text in told if "secret" in text or "hidden" in text]


def test_a_token_that_is_taken_away_ends_a_session(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = add_token(path, "me", "write")
    with (
        Server(store, tokens=Tokens(path)) as server,
        memstore.connect(server.address, token=token) as client,
        client.session() as session,
    ):
        memory = session.memory("m")
        memory.append(ROWS)
        path.unlink()
        with pytest.raises(Unauthenticated):
            memory.append(ROWS)
        with pytest.raises(Unauthenticated):
            client.list()
    assert store.memory("m").describe().rows == WIDTH


def test_a_file_tells_no_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = add_token(path, "me", "admin")
    assert token.split(".")[1] not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    add_token(path, "me", "read")
    assert Tokens(path).caller(token) is None
    assert len(json.loads(path.read_text())["tokens"]) == 1
    for name, role in (("a b", "read"), ("", "read"), ("a", "king")):
        with pytest.raises(InvalidArgument):
            add_token(path, name, role)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        remove_token(path, "nobody")
    for text in ("", "{}", '{"tokens": [{"name": "a"}]}'):
        path.write_text(text)
        with pytest.raises(InvalidArgument, match="holds no tokens"):
            Tokens(path)
    with pytest.raises(InvalidArgument, match="memstore token"):
        Tokens(tmp_path / "none")


def test_secrets_are_in_no_repr_and_no_log(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens.json"
    token = add_token(path, "me", "admin")
    caplog.set_level(logging.DEBUG)
    tokens = Tokens(path)
    with (
        Server(store, tokens=tokens) as server,
        memstore.connect(server.address, token=token) as client,
    ):
        client.create("new", CONFIG)
        with (
            memstore.connect(server.address, token=token + "x") as other,
            pytest.raises(Unauthenticated) as refused,
        ):
            other.drop("new")
        told = f"{client!r} {vars(tokens)!r} {refused.value} {caplog.text}"
    assert token.split(".")[1] not in told
    assert "create of new by me at ipv4:127.0.0.1" in caplog.text


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.7:80", "example.org:80"])
def test_a_server_does_not_listen_for_all_unless_told(store: Store, listen: str) -> None:
    with pytest.raises(InvalidArgument, match="--insecure"):
        Server(store, listen)
    assert not is_loopback(listen)


def test_a_token_does_not_cross_the_network_in_the_clear() -> None:
    with pytest.raises(InvalidArgument, match="without TLS"):
        memstore.connect("192.0.2.7:80", token="me.secret")
    assert all(map(is_loopback, ("127.0.0.1:1", "[::1]:1", "localhost:1")))


def test_tls_and_mutual_tls(store: Store, tmp_path: Path) -> None:
    files = make(tmp_path)
    tls = ServerTls(files.certificate, files.key)
    with Server(store, tls=tls) as server:
        with memstore.connect(server.address, tls=ClientTls(files.authority)) as client:
            assert client.list() == ["m"]
        for other in (None, True, ClientTls()):
            with (
                memstore.connect(server.address, tls=other, deadline_s=1) as client,
                pytest.raises((Unreachable, memstore.MemstoreError)),
            ):
                client.list()
    both = ServerTls(files.certificate, files.key, files.authority)
    with Server(store, tls=both) as server:
        mine = ClientTls(files.authority, files.client_certificate, files.client_key)
        with memstore.connect(server.address, tls=mine) as client:
            assert client.list() == ["m"]
        with (
            memstore.connect(
                server.address, tls=ClientTls(files.authority), deadline_s=1
            ) as client,
            pytest.raises(memstore.MemstoreError),
        ):
            client.list()
    with pytest.raises(InvalidArgument):
        ServerTls(tmp_path / "none", files.key).credentials()
    with pytest.raises(InvalidArgument):
        ClientTls(files.authority, files.client_certificate).credentials()
