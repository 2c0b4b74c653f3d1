"""What a message of an Arrow IPC stream says of itself, read before anything of it is unpacked.

Its metadata are a flatbuffer (format/Message.fbs and Schema.fbs of Arrow), of which pyarrow shows
nothing: a table begins with the distance back to its vtable, which has where each field lies.
"""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

UNREADABLE = (pa.ArrowException, OSError, EOFError, MemoryError, struct.error, ValueError)
"""What reading a stream raises that is none. pyarrow takes names and lengths of a schema as they
are, and fails where it makes types and texts of them."""

BATCHES = {"record batch": (2,), "dictionary": (2, 1)}
"""Type of a message → the fields that lead from it to its record batch."""

LENGTH, COMPRESSION = 0, 3
"""The fields of a record batch that say how many rows it has, and how they are compressed."""


def is_compressed(message: Any) -> bool:
    """Whether the buffers of a message are compressed; raises `struct.error` where it is none."""
    return _of_batch(message, COMPRESSION) is not None


def rows_in(data: bytes) -> int:
    """How many rows an Arrow IPC stream says that it has; 0 where it is none, or a part of one."""
    rows = 0
    try:
        for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(data)):
            place = _of_batch(message, LENGTH) if message.type == "record batch" else None
            if place is not None:
                rows += int(struct.unpack_from("<q", message.metadata, place)[0])
    except UNREADABLE:
        return 0
    return rows


def _of_batch(message: Any, field: int) -> int | None:
    """Where a field of a message's record batch lies; None where there is none."""
    path = BATCHES.get(message.type)
    if path is None:
        return None
    data = memoryview(message.metadata)
    at = _pointed(data, 0)
    for step in path:
        place = _place(data, at, step)
        if place is None:
            return None
        at = _pointed(data, place)
    return _place(data, at, field)


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
