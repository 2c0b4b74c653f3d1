"""Request windows: what comes again is answered and not applied, what is too old is refused."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from memstore.errors import InvalidArgument, RequestConflict, RequestTooOld
from memstore.shard.requests import WINDOW, Request, RequestWindows, digest

A, B = digest("append", b"a"), digest("append", b"b")


def note(windows: RequestWindows, client: str, number: int) -> None:
    windows.note(Request(client, number, A, f"{client} {number}".encode()))


def test_a_request_that_comes_again_gets_its_reply() -> None:
    windows = RequestWindows()
    assert windows.check("c", 2, A) is None
    note(windows, "c", 2)
    assert windows.check("c", 2, A) == b"c 2"
    assert windows.check("c", 1, B) is None  # requests may overtake each other
    assert windows.check("d", 2, B) is None
    with pytest.raises(RequestConflict, match="request 2 of client 'c' with another content"):
        windows.check("c", 2, B)
    for number in (0, -1):
        with pytest.raises(InvalidArgument, match="number is out of range"):
            windows.check("c", number, A)


def test_what_is_below_the_window_is_never_applied() -> None:
    assert WINDOW >= 4_096
    windows, order = RequestWindows(), np.random.default_rng(0).permutation(WINDOW + 10) + 1
    for number in order.tolist():
        note(windows, "c", number)
    for number in range(1, 11):
        with pytest.raises(RequestTooOld, match=rf"got request {number} .* expected above 10"):
            windows.check("c", number, A)
        note(windows, "c", number)  # as a log does that is replayed
    for number in range(11, WINDOW + 11):
        assert windows.check("c", number, A) == f"c {number}".encode()
    assert windows.check("c", WINDOW + 11, A) is None


def test_holes_below_the_window_are_too_old() -> None:
    windows = RequestWindows(window=2)
    for number in (1, 5, 9):
        note(windows, "c", number)
    assert windows.check("c", 3, A) is None
    note(windows, "c", 10)
    with pytest.raises(RequestTooOld):
        windows.check("c", 3, A)
    assert windows.check("c", 7, A) is None


def test_clients_that_were_silent_longest_lose_their_replies_first() -> None:
    windows = RequestWindows(clients=2, marks=2)
    for client, number in (("a", 4), ("a", 3), ("b", 7), ("a", 5), ("c", 1)):
        note(windows, client, number)
    assert windows.check("a", 3, A) == b"a 3"
    with pytest.raises(RequestTooOld, match="expected above 7"):
        windows.check("b", 7, A)
    with pytest.raises(RequestTooOld):
        windows.check("b", 2, A)  # it never came, but nobody knows that any more
    note(windows, "b", 8)
    assert windows.check("b", 8, A) == b"b 8"
    with pytest.raises(RequestTooOld):
        windows.check("b", 7, A)
    with pytest.raises(RequestTooOld, match="expected above 5"):
        windows.check("a", 5, A)
    for client in ("d", "e", "f"):
        note(windows, client, 1)
    assert windows.check("a", 5, A) is None  # forgotten altogether


def test_windows_come_back_from_arrays() -> None:
    windows = RequestWindows(window=3, clients=2, marks=2)
    for client, number in itertools.product(("α", "b", "", "d", "e"), (1, 2, 4, 3)):
        note(windows, client, number)
    arrays = windows.arrays()
    again = RequestWindows(window=3, clients=2, marks=2)
    again.restore(arrays)
    found = again.arrays()
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array), name
    assert again.check("e", 4, A) == b"e 4"
    for client, number in (("d", 1), ("b", 4), ("", 4)):
        with pytest.raises(RequestTooOld):
            again.check(client, number, A)
    note(again, "e", 5)
    assert again.check("e", 4, A) == b"e 4"
    with pytest.raises(RequestTooOld):
        again.check("e", 2, A)
    empty = RequestWindows()
    empty.restore(RequestWindows().arrays())
    assert empty.check("a", 1, A) is None


def test_a_request_comes_back_from_its_bytes() -> None:
    request = Request("client α", 2**62, A, b"\0reply")
    assert Request.unpacked(request.packed()) == request


def test_digests_tell_contents_apart() -> None:
    keys = np.arange(6, dtype=np.float32)
    asked = [
        ("write", keys),
        ("append", keys),
        ("append", keys.reshape(2, 3)),
        ("append", keys.reshape(3, 2)),
        ("append", keys.view(np.int32)),
        ("append", keys.astype(np.float16)),
        ("append", keys.astype(ml_dtypes.bfloat16)),
        ("append", keys[:5], keys[5:]),
        ("append", keys, None),
        ("append", None, keys),
        ("append", keys.tobytes()),
        ("append", keys.tobytes()[:4], keys.tobytes()[4:]),
    ]
    digests = {digest(verb, *parts) for verb, *parts in asked}  # type: ignore[arg-type]
    assert len(digests) == len(asked)
    assert digest("append", np.repeat(keys, 2)[::2]) == digest("append", keys)
