"""Shelves: an object is put once, by whom, and what is said where the storage fails."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memstore.errors import InvalidArgument, Unsupported
from memstore.shared import objects
from memstore.shared.folder import FolderShelf
from memstore.shared.shelf import Shelf, check, open_shelf
from tests.s3 import CREDENTIALS, S3Server, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def objects_of(server: S3Server, tmp_path: Path, credentials: None) -> Iterator[Shelf]:
    yield open_shelf(server.uri("bucket", str(tmp_path).strip("/")))
    server.trouble = lambda method, path: None


@pytest.fixture(params=["folder", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "folder":
        return open_shelf(tmp_path)
    return request.getfixturevalue("objects_of")


def test_an_object_is_put_once(shelf: Shelf) -> None:
    assert shelf.put("a/b", b"1")
    assert not shelf.put("a/b", b"2")
    assert not shelf.put("a/b", b"1")
    assert shelf.get("a/b") == b"1"
    assert (shelf.get("a/c"), shelf.names("a"), shelf.names("z")) == (None, ["b"], [])
    inner = shelf.within("a")
    assert inner.put("x/y", b"3")
    assert (shelf.get("a/x/y"), inner.get("b"), inner.names("x")) == (b"3", b"1", ["y"])
    assert shelf.names("a") in (["b"], ["b", "x"])
    shelf.remove(["a/b", "a/c"])
    assert shelf.get("a/b") is None
    assert shelf.put("a/b", b"")
    assert shelf.get("a/b") == b""
    check(shelf)


def test_names_rise_and_there_may_be_many(shelf: Shelf) -> None:
    names = [f"{number:05d}" for number in range(1_200)]
    for name in reversed(names):
        shelf.put(f"many/{name}", b"")
    assert shelf.names("many") == names
    shelf.remove(f"many/{name}" for name in names[:-1])
    assert shelf.names("many") == names[-1:]


def test_of_many_who_put_one_name_at_once_one_does(shelf: Shelf) -> None:
    """The ground that all else stands on, as often as the machine makes it race."""
    rounds, threads = 40, 6
    put, barrier = Counter[str](), threading.Barrier(threads)

    def race(who: int) -> None:
        for number in range(rounds):
            barrier.wait()
            if shelf.put(f"race/{number}", f"{who}".encode()):
                put[f"{number} {who}"] += 1

    racing = [threading.Thread(target=race, args=(who,)) for who in range(threads)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    found = [shelf.get(f"race/{number}") or b"" for number in range(rounds)]
    assert put == Counter(f"{number} {who.decode()}" for number, who in enumerate(found))


def test_storage_that_does_not_keep_to_it_is_refused(tmp_path: Path) -> None:
    class Careless(FolderShelf):
        def put(self, name: str, data: bytes) -> bool:
            self.remove([name])
            return super().put(name, data)

    with pytest.raises(Unsupported, match="only if it is absent: got b'second'"):
        check(Careless(tmp_path))


def test_a_link_that_was_made_though_it_says_not_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of NFS, where the answer to the first of two was lost."""
    link = os.link

    def twice(*args: Any, **named: Any) -> None:
        link(*args, **named)
        link(*args, **named)

    monkeypatch.setattr(os, "link", twice)
    shelf = open_shelf(tmp_path)
    assert shelf.put("a", b"1")
    assert not shelf.put("a", b"1")
    assert shelf.names("") == ["a"]


def test_a_put_whose_answer_was_lost_is_done_once(objects_of: Shelf, server: S3Server) -> None:
    answers = ["behind", "before", None, "behind"]

    def lose(method: str, path: str) -> str | None:
        return answers.pop(0) if method == "PUT" and answers else None

    server.trouble = lose
    assert objects_of.put("a", b"1")
    assert not answers[1:]
    assert not objects_of.put("a", b"2")
    assert objects_of.get("a") == b"1"


def test_storage_that_does_not_answer_is_asked_for_a_while(
    objects_of: Shelf, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PUT_S", 0.5)
    server.trouble = lambda method, path: "before"
    before = server.requests
    for call in (
        lambda: objects_of.put("a", b"1"),
        lambda: objects_of.get("a"),
        lambda: objects_of.names("a"),
        lambda: objects_of.remove(["a"]),
    ):
        with pytest.raises(OSError, match=r"503 Service Unavailable.*; try again") as caught:
            call()
        assert caught.value.__suppress_context__
    assert server.requests == before
    server.trouble = lambda method, path: None
    assert objects_of.put("a", b"1")


def test_a_bucket_that_is_not_there_and_a_server_that_is_not(
    objects_of: Shelf, server: S3Server
) -> None:
    nowhere = open_shelf(server.uri("bucket", "x").replace("s3://bucket", "s3://another"))
    with pytest.raises(FileNotFoundError, match=r"NoSuchBucket.*see to the bucket"):
        nowhere.put("a", b"1")
    gone = open_shelf("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1")
    with pytest.raises(OSError, match=r"s3://bucket/x does not give a: .*; try again"):
        gone.get("a")


def test_no_message_tells_a_secret(
    objects_of: Shelf, server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.trouble = lambda method, path: "before"
    with pytest.raises(OSError, match="does not give") as caught:
        objects_of.get("a")
    server.trouble = lambda method, path: None
    told = f"{caught.value} {caught.value!r} {objects_of} {objects_of!r} {caplog.text}"
    with pytest.raises(InvalidArgument) as refused:
        open_shelf("s3://somebody:a-secret-of-somebody@bucket/x")
    for secret in CREDENTIALS.values():
        assert secret not in told + str(refused.value)
    answer = (
        "Generic S3 error: GET https://x/b/c?sig=a-secret&se=1 in 1ms - 403: <?xml?>\n<Error>"
        "<Code>SignatureDoesNotMatch</Code><Message>not\nyours</Message>"
        "<AWSAccessKeyId>somebody</AWSAccessKeyId></Error>\n\nDebug source:\n a-secret"
    )
    assert objects.said(OSError(answer)) == (
        "Generic S3 error: GET https://x/b/c?… in 1ms - 403: SignatureDoesNotMatch not\nyours"
    )


@pytest.mark.parametrize(
    ("uri", "error", "match"),
    [
        ("here", InvalidArgument, "an absolute path"),
        ("file://here", InvalidArgument, "an absolute path"),
        ("hdfs://host/x", Unsupported, "a folder that all machines mount, or one of s3://, gs://"),
        ("s3://bucket/x?access_key=somebody", InvalidArgument, "no more: .*access_key"),
        ("gs://bucket/x?region=here", InvalidArgument, "into the environment of each node"),
        ("s3:///x", InvalidArgument, "not an address of an object store"),
    ],
)
def test_an_address_is_checked(uri: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        open_shelf(uri)


def test_other_stores_are_opened_by_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "somebody")
    for uri in ("gs://bucket/a/b", "az://container/a/b", "file:///a/b"):
        assert str(open_shelf(uri).within("c")) == uri.removeprefix("file://") + "/c"
