"""Messages of bytes from whoever: how much one takes once parsed is told before it is.

A tensor's numbers and an Arrow stream take as much parsed as on the wire. All else takes more: an
empty filter is 2 bytes there and some 40 here, a small integer 1 and 8. So the parts of a message
are counted first, by its bytes alone, and one of too many is refused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from memstore.errors import InvalidArgument, TooLong
from memstore.rpc import splice

SMALL_BYTES = 1 << 16
"""A message of no more is not looked through: its parts take a few MB at most."""

FEW_PARTS = 1_000
"""Counted in about a millisecond."""

MOST_PARTS = 150_000
"""Fields of a message, those of its messages included: a part takes up to about 100 bytes, and a
filter may have 65,536 values, of two parts each."""

DEEPEST = 100
"""Messages within messages that protobuf parses; it refuses more."""

MOST_PACKED_BYTES = 4 << 20
"""Of packed integers: each takes up to 40 bytes here for 1 there."""


def parsed(kind: type[Any], data: bytes) -> Any:
    """A message of its bytes; raises `InvalidArgument` where they are none, or too many parts."""
    if len(data) > SMALL_BYTES:
        _Count(MOST_PARTS, MOST_PACKED_BYTES).add(kind.DESCRIPTOR, memoryview(data), 0)
    try:
        return splice.opened(kind, data)
    except DecodeError as error:
        raise malformed(kind.DESCRIPTOR, str(error)) from error


def has_few_parts(kind: type[Any], data: bytes) -> bool:
    """Whether a message is parsed in no more time than copying its bytes takes."""
    if len(data) > SMALL_BYTES:
        try:
            _Count(FEW_PARTS, SMALL_BYTES).add(kind.DESCRIPTOR, memoryview(data), 0)
        except InvalidArgument:
            return False
    return True


def malformed(descriptor: Descriptor, got: str) -> InvalidArgument:
    return InvalidArgument("the message is malformed", got=got, expected=descriptor.full_name)


class _Count:
    """Parts of a message so far."""

    def __init__(self, most_parts: int, most_packed: int) -> None:
        self._most_parts, self._most_packed = most_parts, most_packed
        self._parts = self._packed = 0

    def add(self, descriptor: Descriptor, data: memoryview, depth: int) -> None:
        """Counts the parts of one message. Where it is cut off the counting ends: parsing tells."""
        at, fields = 0, _fields(descriptor)
        while at < len(data):
            self._count(parts=1)
            tag, at = _varint(data, at)
            wire, field = tag & 7, fields.get(tag >> 3)
            if not tag >> 3:
                raise malformed(descriptor, "field 0")
            if wire == 0:
                _, at = _varint(data, at)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            elif wire == 2:
                size, at = _varint(data, at)
                if field is not None and field.message_type is not None and depth < DEEPEST:
                    self.add(field.message_type, data[at : at + size], depth + 1)
                elif field is not None and field.type not in _PLAIN:
                    self._count(packed=size)
                at += size
            else:  # a group, which no message of ours ever had
                raise malformed(descriptor, f"wire type {wire}")

    def _count(self, parts: int = 0, packed: int = 0) -> None:
        self._parts += parts
        self._packed += packed
        if self._parts > self._most_parts or self._packed > self._most_packed:
            raise TooLong(
                "the message has too many parts",
                got=f"more than {self._most_parts}, or {self._most_packed} bytes of integers",
                hint="ask for less at once",
            )


_PLAIN = (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING)


@lru_cache(maxsize=256)
def _fields(descriptor: Descriptor) -> dict[int, FieldDescriptor]:
    return dict(descriptor.fields_by_number)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends; the end of the data where it has none."""
    value = shift = 0
    for place in range(at, min(at + 10, len(data))):
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    return 0, len(data)
