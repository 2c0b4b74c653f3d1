"""The bytes of a redo log: the head of a segment, and records of named parts.

docs/format.md says what a reader and a writer MUST do. All numbers are little-endian, and every
head and every part begins at a multiple of 8 bytes, so that arrays are read where they lie.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np
import pyarrow as pa
from zlib_ng.zlib_ng import crc32

from memstore.disk import Bytes
from memstore.errors import CorruptFile, UnsupportedVersion
from memstore.memory import Array

VERSION, READ = 2, (1, 2)
"""What is written, and what is read. In version 1 no zeros lie behind the records."""

SEGMENT_MAGIC, RECORD_MAGIC = b"memslog\n", b"mrec"

SEGMENT = struct.Struct("<8sIIQQ16s12xI")
"""magic, version, 0, term, first sequence number, owner, and the CRC of all before it."""

RECORD = struct.Struct("<4sHHQQQII")
"""magic, kind, parts, sequence number, durable, bytes that follow, their CRC, the head's CRC."""

PART = struct.Struct("<24s8sIIQQ")
"""name, dtype, rank, 0, and two lengths."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    **{
        name: np.dtype(name)
        for name in ("bool", "uint8", "uint32", "int64", "float16", "float32", "float64")
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

NAMES = {dtype: name for name, dtype in DTYPES.items()}

Part: TypeAlias = Array | bytes | pa.Table


class Kind(IntEnum):
    """What a record tells; docs/format.md names the parts of each."""

    PUT = 1
    STEP = 2
    KILL = 3
    RENEW = 4
    TOUCH = 5


KINDS = tuple(int(kind) for kind in Kind)


@dataclass(frozen=True)
class Record:
    """One mutation as what it left behind, so that applying it twice is applying it once.

    parts: by name, of at most 24 ASCII letters: arrays of rank 1 or 2, bytes, or a table.
    """

    kind: Kind
    parts: Mapping[str, Part]


@dataclass(frozen=True)
class Encoded:
    """A record as bytes, but for its head; the arrays in it are not copied."""

    kind: Kind
    parts: int
    body: tuple[Bytes, ...]
    bytes: int
    crc: int

    def framed(self, sequence: int, durable: int, seed: int) -> list[Bytes]:
        """The bytes to write. seed: the CRC of the segment's head, which ties a record to it.

        durable: the last record known to be on the disk when this one was written.
        """
        head = _head(self.kind, self.parts, sequence, durable, self.bytes, self.crc, seed)
        return [head, *self.body]


@dataclass(frozen=True)
class Span:
    """A record that is whole, and where its head begins and its last part ends in a segment."""

    kind: int
    parts: int
    sequence: int
    durable: int
    start: int
    stop: int
    crc: int

    def framed(self, durable: int, seed: int) -> bytes:
        """A head with which the same parts stand in another segment: see `Encoded.framed`."""
        length = self.stop - self.start - RECORD.size
        return _head(self.kind, self.parts, self.sequence, durable, length, self.crc, seed)


def segment_head(term: int, first: int, owner: bytes) -> tuple[bytes, int]:
    """The head of a segment, and its CRC. owner: 16 bytes, the name of the shard."""
    head = SEGMENT.pack(SEGMENT_MAGIC, VERSION, 0, term, first, owner, 0)[:-4]
    crc = crc32(head)
    return head + struct.pack("<I", crc), crc


def read_head(data: bytes, path: Path, term: int, first: int, owner: bytes) -> int:
    """Returns the CRC of a segment's head.

    Raises `UnsupportedVersion` on one of another version, `CorruptFile` where it is no segment, or
    not the one that its name and the shard say.
    """
    head = data[: SEGMENT.size]
    if len(head) < SEGMENT.size or head[:8] != SEGMENT_MAGIC:
        raise CorruptFile(
            f"{path} is no segment of a log at byte 0",
            got=f"{len(data)} bytes that begin with {head[:8]!r}",
            expected=f"{SEGMENT.size} that begin with {SEGMENT_MAGIC!r}",
        )
    _, version, _, found_term, found_first, found_owner, crc = SEGMENT.unpack(head)
    if crc32(head[:-4]) != crc:
        raise CorruptFile(f"{path} was altered at byte 0", got="a head with another checksum")
    if version not in READ:
        raise UnsupportedVersion(
            f"{path} has another format",
            got=version,
            expected=f"one of {READ}",
            hint="open it with the version of memstore that wrote it",
        )
    if found_owner != owner:
        raise CorruptFile(
            f"{path} is of another shard", got=found_owner.hex(), expected=owner.hex()
        )
    if (found_term, found_first) != (term, first):
        raise CorruptFile(
            f"{path} has the name of another segment",
            got=f"term {found_term}, first record {found_first}",
            expected=f"term {term}, first record {first}",
        )
    return int(crc)


def encode(record: Record) -> Encoded:
    """Lays a record out; its arrays must stay as they are until it is written."""
    table, data, crc = bytearray(), list[Bytes](), 0
    for name, part in record.parts.items():
        view, dtype, shape = _laid_out(part)
        lengths = (*shape, 0)[:2]
        table += PART.pack(name.encode("ascii"), dtype.encode(), len(shape), 0, *lengths)
        data.append(view)
        if view.nbytes % 8:
            data.append(bytes(-view.nbytes % 8))
    body = (table, *data)
    for piece in body:
        # Runs at 5 GB/s; CRC-32C with the processor's instruction at 25, which would save 5 µs
        # of 64 rows of 512 bytes and cost a dependency.
        crc = crc32(piece, crc)
    return Encoded(record.kind, len(record.parts), body, sum(map(len, body)), crc)


def whole(data: bytes, at: int, seed: int) -> Span | None:
    """The record whose head begins at byte `at`, or None where none is whole there."""
    head = data[at : at + RECORD.size]
    if len(head) < RECORD.size or not head.startswith(RECORD_MAGIC):
        return None
    _, kind, parts, sequence, durable, length, crc, head_crc = RECORD.unpack(head)
    start, stop = at + RECORD.size, at + RECORD.size + length
    if crc32(head[:-4], seed) != head_crc or stop > len(data):
        return None
    if crc32(memoryview(data)[start:stop]) != crc:
        return None
    return Span(kind, parts, sequence, durable, at, stop, crc)


def later(data: bytes, at: int, seed: int) -> Iterator[Span]:
    """The whole records that begin behind byte `at`, wherever they begin."""
    while (at := data.find(RECORD_MAGIC, at + 1)) >= 0:
        span = whole(data, at, seed)
        if span is not None:
            yield span


def decode(data: bytes, span: Span, path: Path) -> Record:
    """Reads a record; its arrays are views of `data`, not to be written to.

    Raises `UnsupportedVersion` on a kind that is unknown, `CorruptFile` where its parts are none
    or do not fill it.
    """
    if span.kind not in KINDS:
        raise UnsupportedVersion(
            f"{path} has a record of another format at byte {span.start}",
            got=f"kind {span.kind}",
            expected=f"one of {KINDS}",
        )
    view, at = memoryview(data), span.start + RECORD.size
    parts, begin = dict[str, Part](), at + span.parts * PART.size
    try:
        for _ in range(span.parts):
            *words, rank, _, first, second = PART.unpack_from(view[: span.stop], at)
            name, dtype = (word.rstrip(b"\0").decode("ascii") for word in words)
            shape = (first, second)[:rank]
            size = math.prod(shape) * _item(dtype)
            if begin + size > span.stop:
                raise ValueError(f"a part of {size} bytes")
            parts[name] = _read(view[begin : begin + size], dtype, shape)
            at, begin = at + PART.size, begin + size + -size % 8
        if begin != span.stop:
            raise ValueError(f"{span.stop - begin} bytes too many")
    except (struct.error, ValueError, pa.ArrowInvalid) as error:
        raise CorruptFile(
            f"{path} has a record that cannot be read at byte {span.start}", got=str(error)
        ) from error
    return Record(Kind(span.kind), parts)


def _head(
    kind: int, parts: int, sequence: int, durable: int, length: int, crc: int, seed: int
) -> bytes:
    head = RECORD.pack(RECORD_MAGIC, kind, parts, sequence, durable, length, crc, 0)[:-4]
    return head + struct.pack("<I", crc32(head, seed))


def _laid_out(part: Part) -> tuple[memoryview, str, tuple[int, ...]]:
    """The bytes of a part, its dtype and its shape."""
    if isinstance(part, pa.Table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
        buffer = memoryview(sink.getvalue())
        return buffer, "arrow", (buffer.nbytes,)
    if isinstance(part, bytes):
        return memoryview(part), "bytes", (len(part),)
    array = np.ascontiguousarray(part)
    return array.reshape(-1).view(np.uint8).data, NAMES[array.dtype], array.shape


def _item(dtype: str) -> int:
    """Bytes of one number; raises `ValueError` on a dtype that is unknown."""
    if dtype in ("arrow", "bytes"):
        return 1
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}")
    return DTYPES[dtype].itemsize


def _read(part: memoryview, dtype: str, shape: tuple[int, ...]) -> Part:
    if dtype == "arrow":
        return cast(pa.Table, pa.ipc.open_stream(pa.py_buffer(part)).read_all())
    if dtype == "bytes":
        return bytes(part)
    return np.frombuffer(part, DTYPES[dtype]).reshape(shape)
