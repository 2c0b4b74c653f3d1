"""Request windows: a request that comes again gets the reply that it got, and is not applied.

A client numbers its requests, rising from 1, and may have several on their way; one that forgot
its numbers takes a new name. Of each client the last `WINDOW` replies are kept, with a digest of
what was asked:

    number ≤ low-water mark          RequestTooOld: its reply is forgotten, nobody knows
    known, of the same content       the reply
    known, of another content        RequestConflict
    any other                        new: apply it, then `note` it

Clients that were silent longest lose their replies first, and their mark rises to the highest
number they used, so that nothing of theirs is ever applied twice. Of those, the marks of the last
`MARKS` are kept; who comes back after more than that is taken for a new client.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from memstore.errors import InvalidArgument, RequestConflict, RequestTooOld
from memstore.memory import Array

WINDOW = 4_096
"""Replies kept of a client."""

CLIENTS = 256
"""Clients whose replies are kept; full windows of replies of 64 bytes take 1.1 MB a client."""

MARKS = 1 << 20
"""Clients of whom only the mark is kept."""

DIGEST_BYTES = 16
HEAD = struct.Struct(f"<q{DIGEST_BYTES}sI")


@dataclass(frozen=True)
class Request:
    """A request and its reply, as they stand in a record of the log.

    client: at most 64 KiB of UTF-8.  number: ≥ 1.  digest: `digest` of what was asked.
    """

    client: str
    number: int
    digest: bytes
    reply: bytes

    def packed(self) -> bytes:
        name = self.client.encode()
        return HEAD.pack(self.number, self.digest, len(name)) + name + self.reply

    @classmethod
    def unpacked(cls, data: bytes) -> Request:
        number, digest, length = HEAD.unpack_from(data)
        name = data[HEAD.size : HEAD.size + length]
        return cls(name.decode(), number, digest, data[HEAD.size + length :])


@dataclass
class _Client:
    """replies: by number, the digest and the reply.  heap: the numbers, the smallest on top."""

    low: int = 0
    replies: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    heap: list[int] = field(default_factory=list)


class RequestWindows:
    """The windows of all clients of one shard; one thread at a time calls."""

    def __init__(self, window: int = WINDOW, clients: int = CLIENTS, marks: int = MARKS) -> None:
        self._window, self._most_clients, self._most_marks = window, clients, marks
        self.noted = 0
        """Rises with every request that is noted."""
        # Who was silent longest comes first.
        self._clients = OrderedDict[str, _Client]()
        self._marks = OrderedDict[str, int]()

    def check(
        self,
        client: str,
        number: int,
        digest: bytes,
        former: Callable[[], bytes] | None = None,
    ) -> bytes | None:
        """The reply to a request that was applied already, or None to one that is new.

        former: gives the digest that such content had once: see `former_digest`.

        Raises `RequestTooOld` and `RequestConflict`, and `InvalidArgument` on a number below 1.
        """
        if number < 1:
            raise InvalidArgument(
                "the request's number is out of range", got=number, expected="≥ 1"
            )
        known = self._clients.get(client)
        low = self._marks.get(client, 0) if known is None else known.low
        if number <= low:
            raise RequestTooOld(
                "nobody knows any more whether the request was applied; it was not now",
                got=f"request {number} of client {client!r}",
                expected=f"above {low}",
                hint="read what the memory holds, then ask anew under a number of its own",
            )
        if known is None or number not in known.replies:
            return None
        kept, reply = known.replies[number]
        if kept != digest and (former is None or kept != former()):
            raise RequestConflict(
                "the request's number was used for another one; nothing was changed",
                got=f"request {number} of client {client!r} with another content",
                hint="number requests rising, each once, and send a retry as the first was",
            )
        return reply

    def has(self, client: str, number: int) -> bool:
        """Whether the reply to a request of that number, of whatever content, is kept."""
        known = self._clients.get(client)
        return known is not None and number in known.replies

    def note(self, request: Request) -> None:
        """Keeps the reply to a request that was applied; doing so twice is doing so once."""
        self.noted += 1
        client = self._clients.pop(request.client, None)
        if client is None:
            client = _Client(self._marks.pop(request.client, 0))
        self._clients[request.client] = client
        if request.number > client.low and request.number not in client.replies:
            client.replies[request.number] = request.digest, request.reply
            heapq.heappush(client.heap, request.number)
            if len(client.heap) > self._window:
                client.low = heapq.heappop(client.heap)
                del client.replies[client.low]
        if len(self._clients) > self._most_clients:
            name, silent = self._clients.popitem(last=False)
            self._marks[name] = max(silent.heap, default=silent.low)
            if len(self._marks) > self._most_marks:
                self._marks.popitem(last=False)

    def known(self) -> dict[str, tuple[int, list[Request]]]:
        """Of each client, the number up to which nothing is known, and its requests, rising."""
        clients = {name: _Client(low) for name, low in self._marks.items()} | self._clients
        return {
            name: (client.low, [Request(name, n, *client.replies[n]) for n in sorted(client.heap)])
            for name, client in clients.items()
        }

    def forget(self, name: str, low: int) -> None:
        """Knows nothing of the requests of a new client up to a number."""
        self._marks[name] = low

    def still(self) -> RequestWindows:
        """The windows as they are now."""
        copy = RequestWindows(self._window, self._most_clients, self._most_marks)
        copy.noted, copy._marks = self.noted, self._marks.copy()
        copy._clients = OrderedDict(
            (name, _Client(client.low, client.replies.copy(), client.heap.copy()))
            for name, client in self._clients.items()
        )
        return copy

    def arrays(self) -> dict[str, Array]:
        """All windows, by name: what a checkpoint holds. C clients, R replies, T bytes of text.

        names_T, replies_T uint8: UTF-8 and replies, one behind the other.  name_bytes_C, low_C,
        counts_C, numbers_R, reply_bytes_R int64.  digests_R uint8 `[R, 16]`.
        """
        clients = {name: _Client(low) for name, low in self._marks.items()} | self._clients
        names = [name.encode() for name in clients]
        kept = [(n, *c.replies[n]) for c in clients.values() for n in sorted(c.heap)]
        return {
            "names": _text(names),
            "name_bytes": _whole(map(len, names)),
            "low": _whole(client.low for client in clients.values()),
            "counts": _whole(len(client.heap) for client in clients.values()),
            "numbers": _whole(number for number, _, _ in kept),
            "digests": _text([digest for _, digest, _ in kept]).reshape(-1, DIGEST_BYTES),
            "reply_bytes": _whole(len(reply) for _, _, reply in kept),
            "replies": _text([reply for _, _, reply in kept]),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Takes over what `arrays` gave, into windows that are empty."""
        names = _cut(arrays["names"], arrays["name_bytes"])
        replies = _cut(arrays["replies"], arrays["reply_bytes"])
        digests, numbers = map(bytes, arrays["digests"]), arrays["numbers"].tolist()
        kept = zip(numbers, zip(digests, replies, strict=True), strict=True)
        for name, low, count in zip(names, arrays["low"], arrays["counts"], strict=True):
            if not count:
                self._marks[name.decode()] = int(low)
                continue
            window = dict(itertools.islice(kept, int(count)))
            # Rising numbers are a heap.
            self._clients[name.decode()] = _Client(int(low), window, list(window))


def digest(verb: str, *parts: Array | bytes | None) -> bytes:
    """16 bytes that differ where a verb, or a dtype, shape or byte of its arguments does."""
    return _digested(digesting(verb), parts)


def former_digest(verb: str, *parts: Array | bytes | None) -> bytes:
    """The same as stores keep it that were written before XXH3 took the place of BLAKE2b."""
    return _digested(hashlib.blake2b(verb.encode(), digest_size=DIGEST_BYTES), parts)


def _digested(found: Any, parts: Iterable[Array | bytes | None]) -> bytes:
    for part in parts:
        if isinstance(part, np.ndarray):
            array = np.ascontiguousarray(part)
            found.update(f"|{array.dtype.name}{array.shape}|".encode())
            found.update(array.reshape(-1).view(np.uint8).data)
        elif part is None:
            found.update(b"|none|")
        else:
            found.update(f"|bytes{len(part)}|".encode())
            found.update(part)
    digested: bytes = found.digest()
    return digested


def digesting(what: str) -> xxhash.xxh3_128:
    """What a request is digested by, piece by piece.

    XXH3 of 128 bits reads as fast as memory does; a cryptographic hash of gradients takes twice as
    long as the optimizer step. It need not be one: two contents of one number that collide are a
    client's own, and it could as well have sent the second under the number of the first.
    """
    return xxhash.xxh3_128(what.encode())


def _text(parts: list[bytes]) -> Array:
    return np.frombuffer(b"".join(parts), np.uint8)


def _whole(numbers: Iterable[int]) -> Array:
    return np.fromiter(numbers, np.int64)


def _cut(text_T: Array, lengths: Array) -> Iterator[bytes]:
    ends = np.cumsum(lengths).tolist()
    text = text_T.tobytes()
    for start, end in zip([0, *ends], ends, strict=False):
        yield text[start:end]
