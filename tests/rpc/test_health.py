"""Health, asked from the command line: what orchestrators that run a command are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from memstore import Store
from memstore.cli import main
from memstore.rpc.security import Tokens, add_token
from memstore.rpc.server import Server
from memstore.rpc.tls import ServerTls
from tests.rpc import certificates


def test_a_server_that_serves_is_healthy(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", server.address]) == 0
    assert capsys.readouterr().out == f"{server.address} serves.\n"


def test_one_that_is_being_shut_down_is_not(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server._do(server._health.end())
    assert main(["health", server.address]) == 1
    assert "is being shut down" in capsys.readouterr().out


def test_one_that_is_gone_is_not(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.close()
    assert main(["health", server.address, "--deadline-s", "10"]) == 1
    assert "Unreachable" in capsys.readouterr().out


def test_it_is_asked_with_mutual_tls_and_without_a_token(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = certificates.make(tmp_path)
    tls = ServerTls(files.certificate, files.key, files.authority)
    add_token(tmp_path / "tokens.json", "trainer", "write")
    asked = ["--tls-authority", str(files.authority)]
    own = ["--tls-certificate", str(files.client_certificate), "--tls-key", str(files.client_key)]
    with Server(store, tls=tls, tokens=Tokens(tmp_path / "tokens.json")) as server:
        assert main(["health", server.address, *asked, *own]) == 0
        assert main(["health", server.address, *asked, "--deadline-s", "1"]) == 1
        assert main(["health", server.address, "--deadline-s", "1"]) == 1
        assert main(["health", server.address, *own]) == 1  # the system's authorities know it not
    assert main(["health", server.address, *asked, *own[:2]]) == 1
    assert "a certificate goes with its key" in capsys.readouterr().out
