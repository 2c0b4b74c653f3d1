"""The command line of the service: what somebody is told who gets a word of it wrong."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import memstore
from memstore import Store
from memstore.cli import main
from memstore.errors import InvalidArgument
from memstore.rpc.server import Server
from memstore.rpc.tls import ServerTls
from tests.rpc import certificates


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> object:
    """Serves with these words, which are wrong; returns what was said."""

    def serve(*words: str) -> str:
        root = logging.getLogger()
        level, handlers = root.level, list(root.handlers)
        try:
            assert main(["serve", str(tmp_path / "store"), *words]) == 1
        finally:  # a server logs for its whole process
            root.setLevel(level)
            root.handlers[:] = handlers
        return capsys.readouterr().out

    return serve


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "7437"], "not an address: got '7437', expected host:port"),
        (["--listen", "127.0.0.1:999999"], "not an address"),
        (["--listen", "127.0.0.1:http"], "not an address"),
        (["--part", "2/2", "--servers", "a:1,b:2"], "there is no such part: got 2 of 2"),
        (["--part", "two", "--servers", "a:1,b:2"], "not a part: got 'two', expected i/n"),
    ],
)
def test_wrong_words_are_answered_by_one_line(words: list[str], said: str, told) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    answer = told(*words)
    assert answer.startswith("InvalidArgument: ")
    assert said in answer
    assert answer.count("\n") == 1
    # Whoever called gets signals again.
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_certificate_that_is_none_is_named(store: Store, tmp_path: Path) -> None:
    files = certificates.make(tmp_path)
    other = tmp_path / "other.pem"
    other.write_text("no certificate")
    for tls in (
        ServerTls(other, files.key),
        ServerTls(files.certificate, other),
        ServerTls(files.certificate, files.client_key),
    ):
        with pytest.raises(InvalidArgument, match="are no certificate and its key"):
            Server(store, tls=tls).start()
    with pytest.raises(InvalidArgument, match=r"other\.pem holds no authority"):
        Server(store, tls=ServerTls(files.certificate, files.key, other)).start()


def test_an_authority_that_is_none_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("no certificate")
    for authority in (other, other.read_bytes()):
        with pytest.raises(InvalidArgument, match="holds no authority"):
            memstore.connect("127.0.0.1:1", tls=memstore.ClientTls(authority=authority)).list()


def test_only_what_admins_do_is_noted(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "memstore.audit"), memstore.connect(server.address) as client:
        client.list()
        client.create("noted", memstore.MemoryConfig(dim=4))
    lines = [record.getMessage() for record in caplog.records if record.name == "memstore.audit"]
    assert [line.split(" by ")[0] for line in lines] == ["create of noted"]


@pytest.mark.parametrize("words", [["serve", "things", "--insecure"], ["token", "--help"]])
def test_without_the_extra_the_commands_name_it(words: list[str]) -> None:
    code = "import sys; sys.modules['grpc'] = None; from memstore.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(f"Unsupported: memstore {words[0]} needs grpcio")
    assert "pip install 'neural-memstore[rpc]'" in done.stdout


def test_a_file_that_cannot_hold_tokens_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (tmp_path / "none" / "tokens.json", tmp_path):
        assert main(["token", str(file), "trainer"]) == 1
        assert capsys.readouterr().out.startswith(f"InvalidArgument: {file} cannot be ")
    assert list(tmp_path.iterdir()) == []
