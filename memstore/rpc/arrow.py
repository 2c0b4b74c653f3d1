"""What a message of an Arrow IPC stream says of itself, read before anything of it is unpacked.

Its metadata are a flatbuffer (format/Message.fbs and Schema.fbs of Arrow), of which pyarrow shows
nothing: a table begins with the distance back to its vtable, which has where each field lies.
"""

from __future__ import annotations

import struct
from typing import Any

BATCHES = {"record batch": (2,), "dictionary": (2, 1)}
"""Type of a message → the fields that lead from it to its record batch."""

COMPRESSION = 3
"""The field of a record batch that says how its buffers are compressed."""


def is_compressed(message: Any) -> bool:
    """Whether the buffers of a message are compressed; raises `struct.error` where it is none."""
    path = BATCHES.get(message.type)
    if path is None:
        return False
    data = memoryview(message.metadata)
    at = _pointed(data, 0)
    for field in path:
        place = _place(data, at, field)
        if place is None:
            return False
        at = _pointed(data, place)
    return _place(data, at, COMPRESSION) is not None


def _pointed(data: memoryview, place: int) -> int:
    """Where the offset that lies at a place leads to."""
    return place + int(struct.unpack_from("<I", data, place)[0])


def _place(data: memoryview, table: int, field: int) -> int | None:
    """Where a field of a table lies; None where it is left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    entry = 4 + 2 * field
    if vtable < 0 or entry + 2 > size:
        return None
    offset = int(struct.unpack_from("<H", data, vtable + entry)[0])
    return table + offset if offset else None
