"""Calls that are longer than a message, or would be answered by one that is.

A read is cut by its rows into several, whose replies are joined: each is of its own moment. A
mutation is one, whatever its length: its bytes go in pieces (`Assemble`), and so do those of a read
that cannot be cut, since what one of its queries finds depends on the others.

    portions = Portions(request, most_bytes)
    reply to portions.message            portions.take(reply), until it is the last
    it is too long all the same          portions.cut(error)
    portions.reply
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from memstore.errors import TooLong
from memstore.memory import Array
from memstore.rpc import codec, splice
from memstore.rpc.calls import Request
from memstore.rpc.v1 import memory_pb2 as pb

PIECE_BYTES = 2 << 20
"""Of one piece; less where messages are."""

SLACK_BYTES = 64
"""What a message has beside a piece, at most."""

SHARE = 4
"""Of a message's length, what a part's reply is thought to take: records may make it longer."""


def pieces(verb: str, data: bytes, most_bytes: int) -> Iterator[bytes]:
    """The pieces of a request's bytes.  most_bytes: of a message."""
    step = max(1, min(PIECE_BYTES, most_bytes - SLACK_BYTES))
    start: dict[str, Any] = {"verb": verb.capitalize(), "bytes": len(data)}
    for first in range(0, len(data), step):
        yield pb.Piece(**start, data=data[first : first + step]).SerializeToString()
        start = {}


class Portions:
    """What is sent for one request: its message, or those that it is cut into, one by one."""

    def __init__(self, request: Request[Any], most_bytes: int) -> None:
        """most_bytes: of a message."""
        self._verb, self._left = request.verb, [request.message]
        self._replies: list[Any] = []
        size = request.reply_bytes
        if size > most_bytes and self._verb in CUTS:
            self._replace(-(-size * SHARE // most_bytes))

    @property
    def message(self) -> Any:
        """What is to be sent next."""
        return self._left[-1]

    def cut(self, error: TooLong) -> None:
        """Halves what is to be sent next; raises the error where that cannot be."""
        if self._verb not in CUTS or not self._replace(2):
            raise error

    def take(self, reply: Any) -> bool:
        """Goes on behind the message that this replies to; returns whether it was the last."""
        self._left.pop()
        self._replies.append(reply)
        return not self._left

    @property
    def reply(self) -> Any:
        """The replies as one."""
        one = len(self._replies) == 1
        return self._replies[0] if one else CUTS[self._verb][1](self._replies)

    def _replace(self, count: int) -> bool:
        made = CUTS[self._verb][0](self._left[-1], count)
        if made:
            self._left[-1:] = reversed(made)
        return bool(made)


def _cut_gather(message: pb.GatherRequest, count: int) -> list[Any]:
    slots_B = codec.to_array("slots", message.slots)

    def fill(part: pb.GatherRequest, first: int, last: int) -> None:
        part.slots.CopyFrom(codec.to_tensor(slots_B[first:last]))

    return _cut(message, ("slots",), len(slots_B), count, fill)


def _cut_search(message: pb.SearchRequest, count: int) -> list[Any]:
    options = message.options
    if options.union or options.sample_clusters or options.sample_random:
        return []
    queries_QD = codec.to_array("queries", message.queries)

    def fill(part: pb.SearchRequest, first: int, last: int) -> None:
        part.queries.CopyFrom(codec.to_tensor(queries_QD[first:last]))

    return _cut(message, ("queries",), len(queries_QD), count, fill)


def _cut_lookup(message: pb.LookupRequest, count: int) -> list[Any]:
    kind, values = str(message.WhichOneof("values")), codec.lookup_values(message)
    cursor_Q = codec.given(message, "cursor")

    def fill(part: pb.LookupRequest, first: int, last: int) -> None:
        getattr(part, kind).values.extend(values[first:last])
        if cursor_Q is not None:
            part.cursor.CopyFrom(codec.to_tensor(cursor_Q[first:last]))

    return _cut(message, (kind, "cursor"), len(values), count, fill)


def _cut(
    message: Any,
    fields: Sequence[str],
    rows: int,
    count: int,
    fill: Callable[[Any, int, int], None],
) -> list[Any]:
    """Copies of a message, each with its share of the rows; none where there is one row.

    fields: that have them.  fill: gives a copy the rows from one to another.
    """
    if rows < 2:
        return []
    whole = splice.bare(message)
    bare = type(whole)()
    bare.CopyFrom(whole)
    for name in fields:
        bare.ClearField(name)
    count, made = min(rows, count), []
    for first, last in itertools.pairwise(rows * i // count for i in range(count + 1)):
        part = type(whole)()
        part.CopyFrom(bare)
        fill(part, first, last)
        made.append(part)
    return made


def _join_gathered(replies: Sequence[Any]) -> Any:
    names = [name for name in ("keys", "values") if replies[0].HasField(name)]
    fields = {name: _rows(replies, name) for name in ("generations", *names)}
    if replies[0].HasField("records"):
        tables = [codec.to_table(reply.records) for reply in replies]
        fields["records"] = codec.to_stream(pa.concat_tables(tables))
    return splice.message(pb.GatherReply, **fields)


def _join_found(replies: Sequence[Any]) -> Any:
    rows = {name: _rows(replies, name) for name in ("slots", "scores", "proposal")}
    counts = {name: _rows(replies, name) for name in ("counts", "scored")}
    # What is seen for sure is what the first of them saw.
    seen = {
        name: splice.tensor(np.minimum.reduce(_arrays(replies, name)))
        for name in ("row_versions", "index_versions")
    }
    return splice.message(pb.SearchReply, **rows, **counts, **seen)


def _join_looked_up(replies: Sequence[Any]) -> Any:
    counts = np.concatenate([np.diff(offsets) for offsets in _arrays(replies, "offsets")])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = {name: _rows(replies, name) for name in ("slots", "truncated", "cursor")}
    return splice.message(pb.LookupReply, offsets=splice.tensor(offsets), **rows)


def _rows(replies: Sequence[Any], name: str) -> Any:
    """The rows that replies have in a field, as one tensor."""
    return splice.tensor(np.concatenate(_arrays(replies, name)))


def _arrays(replies: Sequence[Any], name: str) -> list[Array]:
    return [codec.to_array(name, getattr(reply, name)) for reply in replies]


Cut = Callable[[Any, int], list[Any]]
Join = Callable[[Sequence[Any]], Any]

CUTS: dict[str, tuple[Cut, Join]] = {
    "search": (_cut_search, _join_found),
    "gather": (_cut_gather, _join_gathered),
    "lookup": (_cut_lookup, _join_looked_up),
}
"""By verb, how a message is cut into about so many, none where it cannot be; and replies joined."""
