"""Files of lines, plain or compressed, cut between lines into pieces of about the same bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from workers.ingest.errors import SourceError

COMPRESSED: dict[str, Callable[[Path], IO[bytes]]] = {
    # Python's own: Arrow's reader of bzip2 fails at the second of streams one behind the other,
    # as parallel compressors and `cat` make them.
    ".gz": gzip.open,  # type: ignore[dict-item]
    ".bz2": bz2.open,
    ".zst": lambda path: pa.input_stream(str(path), compression="zstd"),
}
"""How a file is opened, by the end of its name; it is read from the front, as a stream."""

TORN = (OSError, EOFError, zlib.error, pa.ArrowException)
"""What these raise where a stream is not whole."""

STEP_BYTES = 1 << 16
"""Read at a time behind the end of a piece, until the line that began in it ends."""


def cuts(path: Path, block_bytes: int) -> list[tuple[int, int]]:
    """The pieces that can be read alone, from byte to byte; a compressed file is one."""
    size = path.stat().st_size
    if path.suffix in COMPRESSED:
        return [(0, size)]
    starts = range(0, size, block_bytes)
    return [(start, min(start + block_bytes, size)) for start in starts]


def chunks(path: Path, start: int, end: int, block_bytes: int) -> Iterator[bytes]:
    """The lines that begin in a piece, whole lines of about `block_bytes` at a time.

    Raises `SourceError` where a stream is torn, or a line is longer than `block_bytes`.
    """
    if path.suffix in COMPRESSED:
        yield from _streamed(path, block_bytes)
        return
    with path.open("rb") as file:
        file.seek(max(start - 1, 0))
        if start:
            _skip_line(file, path, start, block_bytes)
        if file.tell() < end:
            data = file.read(end - file.tell())
            yield data if data.endswith(b"\n") else data + _rest(file, path, block_bytes)


def _skip_line(file: IO[bytes], path: Path, start: int, most: int) -> None:
    """Goes behind the line that the byte before the piece belongs to, whose piece is another."""
    line = file.readline(most + 1)
    if len(line) > most:
        raise _too_long(path, None, most, start)


def _rest(file: IO[bytes], path: Path, most: int) -> bytes:
    rest, at = io.BytesIO(), file.tell()
    while piece := file.readline(STEP_BYTES):
        rest.write(piece)
        if piece.endswith(b"\n"):
            break
        if rest.tell() > most:
            raise _too_long(path, None, most, at)
    return rest.getvalue()


def _streamed(path: Path, block_bytes: int) -> Iterator[bytes]:
    line, tail = 1, b""
    try:
        with COMPRESSED[path.suffix](path) as stream:
            while data := stream.read(block_bytes - len(tail)):
                end = data.rfind(b"\n") + 1
                if not end:
                    tail += data
                    if len(tail) >= block_bytes:
                        raise _too_long(path, line, block_bytes, None)
                    continue
                chunk = tail + data[:end]
                tail = data[end:]
                yield chunk
                line += chunk.count(b"\n")
    except TORN as error:
        remedy = "make or fetch the file anew"
        raise SourceError(path, line, str(error), "a whole stream", remedy) from error
    if tail:
        yield tail


def _too_long(path: Path, line: int | None, most: int, at: int | None) -> SourceError:
    where = "" if at is None else f" at byte {at:,}"
    remedy = "look at the file, or allow more by memory_bytes"
    return SourceError(path, line, f"a line{where}", f"at most {most:,} bytes", remedy)
