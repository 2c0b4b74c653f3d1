"""Blocks: the arrays of a shard in files, of which a checkpoint writes only what has changed.

Arrays are cut into blocks of `BLOCK_ROWS` rows. A checkpoint writes the changed blocks of all of
them into one new file, and a directory says where the newest of each lies. A file of which
little is still wanted is emptied: what is left in it is written again. So all files together hold
no more than `WASTE` times what is wanted, and one checkpoint more. A block of zeros lies nowhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from zlib_ng.zlib_ng import crc32

from memstore.disk import DISK, Disk
from memstore.errors import CorruptFile
from memstore.files import Fingerprint, making
from memstore.kernels.half import packed
from memstore.memory import Array, Slots

BLOCK_ROWS = 1_024
"""Rows of a block: half a MiB of float32 rows of 128, so that a small write costs little more, and
reading all of them runs at the speed of the disk."""

WASTE = 2
"""A file is emptied when more than (WASTE − 1) / WASTE of it is wanted no more."""

WRITE_BYTES = 1 << 22
"""Blocks are written when there are so many bytes of them: who hands the interpreter over for each
block makes searches wait."""

READERS, READ_BLOCKS = 4, 32
"""Threads that read and check blocks, and how many one of them takes at a time."""

Numbers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Stored:
    """An array in blocks: of each, the number of its file, where it begins there, and its CRC.

    dtype: of float16 uint16, of bfloat16 int16, with the same bits.  files_K: `ZEROS` for a block
    of zeros.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    files_K: Numbers
    offsets_K: Numbers
    crcs_K: Numbers

    @property
    def blocks(self) -> tuple[Numbers, Numbers, Numbers]:
        return self.files_K, self.offsets_K, self.crcs_K

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return int(self.dtype.itemsize * np.prod(self.shape[1:], dtype=np.int64))

    def sizes_K(self) -> Numbers:
        """Bytes of each block."""
        starts_K = np.arange(len(self.files_K)) * BLOCK_ROWS
        return (np.minimum(starts_K + BLOCK_ROWS, self.rows) - starts_K) * self.row_bytes


Directory = Mapping[str, Stored]
"""The arrays of a shard by name."""

EMPTY = np.empty(0, np.int64)

ZEROS = -1


def name_of(number: int) -> str:
    """The name of the file that checkpoint `number` wrote."""
    return f"blocks-{number:08d}.bin"


def blocks(rows: int) -> int:
    """Into how many blocks so many rows are cut."""
    return -(-rows // BLOCK_ROWS)


def write(
    folder: Path,
    number: int,
    before: Directory,
    shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    changed: Iterable[tuple[str, int, Array]],
    disk: Disk = DISK,
) -> tuple[Directory, Fingerprint]:
    """Writes blocks into the file `number`; returns the directory that has them, and its
    fingerprint.

    shapes: of all arrays as they are to be.  changed: name, block and rows, of every block that is
    not in `before` as it is to be. The file is durable when it returns; its name is not before
    `sync_folder`. Raises `OSError` where the disk does not take it, and leaves no file.
    """
    after = {
        name: _resized(before.get(name), dtype, shape) for name, (dtype, shape) in shapes.items()
    }

    parts, crcs, offset, waiting = list[memoryview](), list[int](), 0, 0
    with making(folder / name_of(number), disk) as file:
        for name, block, rows in changed:
            data = packed(np.ascontiguousarray(rows)).reshape(-1).view(np.uint8).data
            stored, crc = after[name], crc32(data)
            if crc == _crc_of_zeros(len(data)) and not np.frombuffer(data, np.uint8).any():
                stored.files_K[block] = ZEROS
                continue
            stored.files_K[block], stored.offsets_K[block] = number, offset
            stored.crcs_K[block] = crc
            parts.append(data)
            crcs.append(crc)
            offset, waiting = offset + len(data), waiting + len(data)
            if waiting >= WRITE_BYTES:
                file.put(parts, crcs)
                parts, crcs, waiting = [], [], 0
        file.put(parts, crcs)
        return after, file.sync()


@functools.lru_cache(maxsize=64)
def _crc_of_zeros(length: int) -> int:
    return crc32(bytes(length))


def read(
    folder: Path,
    stored: Stored,
    name: str,
    out: Array,
    filled: Callable[[int, int], None] = lambda begin, end: None,
    disk: Disk = DISK,
) -> None:
    """Fills `out`, an array like the one that is stored, and of zeros.

    filled: hears from which row to before which it is, a block at a time, from several threads.
    Raises `CorruptFile`, with the file and the byte, where a block is not what was written.
    """
    flat = packed(out).reshape(-1).view(np.uint8)
    starts_K = np.arange(len(stored.files_K)) * BLOCK_ROWS * stored.row_bytes
    sizes_K = stored.sizes_K()

    def fill(path: Path, data: memoryview, blocks_K: Numbers) -> None:
        for block in blocks_K.tolist():
            begin, size, start = int(stored.offsets_K[block]), int(sizes_K[block]), starts_K[block]
            part = data[begin : begin + size]
            if len(part) != size or crc32(part) != stored.crcs_K[block]:
                raise CorruptFile(
                    f"{path} was altered at byte {begin}",
                    got=f"{len(part)} bytes with another checksum",
                    expected=f"block {block} of {name}, {size} bytes",
                    hint="restore it from a copy of the store",
                )
            flat[start : start + size] = np.frombuffer(part, np.uint8)
            filled(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, stored.rows))

    with ThreadPoolExecutor(READERS) as pool:
        parts = []
        for number in _files(stored).tolist():
            path = folder / name_of(number)
            try:
                data = disk.map(path)
            except OSError as error:
                raise CorruptFile(f"{path} cannot be read", got=str(error)) from error
            blocks_K = np.flatnonzero(stored.files_K == number)
            parts += [
                pool.submit(fill, path, data, blocks_K[at : at + READ_BLOCKS])
                for at in range(0, len(blocks_K), READ_BLOCKS)
            ]
        for part in parts:
            part.result()


def wanted(directory: Directory) -> set[str]:
    """The names of the files in which something of the directory lies."""
    return {name_of(n) for stored in directory.values() for n in _files(stored).tolist()}


def wasteful(folder: Path, directory: Directory, disk: Disk = DISK) -> Iterator[tuple[str, Slots]]:
    """The blocks that lie in files of which little is wanted, by array, for the next checkpoint."""
    numbers = np.concatenate([EMPTY, *(stored.files_K for stored in directory.values())])
    sizes = np.concatenate([EMPTY, *(stored.sizes_K() for stored in directory.values())])
    sizes[numbers == ZEROS] = 0
    files, at = np.unique(numbers, return_inverse=True)
    held = np.bincount(at, sizes, len(files))
    written = [disk.size(folder / name_of(n)) if n != ZEROS else 0 for n in files.tolist()]
    poor = files[held * WASTE < written]
    for name, stored in directory.items():
        blocks_K = np.flatnonzero(np.isin(stored.files_K, poor))
        if len(blocks_K):
            yield name, blocks_K


def to_bytes(directory: Directory) -> bytes:
    """The directory as an Arrow stream, a row a block."""
    sink = pa.BufferOutputStream()
    kinds = {
        name: f"{stored.dtype.str} {' '.join(map(str, stored.shape))}"
        for name, stored in directory.items()
    }
    schema = pa.schema(
        [("file", pa.int64()), ("offset", pa.int64()), ("crc", pa.uint32())], metadata=kinds
    )
    with pa.ipc.new_stream(sink, schema) as writer:
        for stored in directory.values():
            columns = [pa.array(numbers_K) for numbers_K in stored.blocks]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> Directory:
    """What `to_bytes` gave."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        kinds = reader.schema.metadata
        return {
            name.decode(): _stored(kind.decode(), reader.read_next_batch())
            for name, kind in kinds.items()
        }


def _stored(kind: str, batch: pa.RecordBatch) -> Stored:
    dtype, *shape = kind.split()
    columns = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
    return Stored(np.dtype(dtype), tuple(map(int, shape)), *columns)


def _files(stored: Stored) -> Numbers:
    numbers: Numbers = np.unique(stored.files_K[stored.files_K != ZEROS])
    return numbers


def _resized(before: Stored | None, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Stored:
    """A copy for an array of another length, whose new blocks are of zeros."""
    count = blocks(shape[0])
    bits = packed(np.empty(0, dtype)).dtype
    files_K = np.full(count, ZEROS, np.int64)
    after = Stored(bits, shape, files_K, np.zeros(count, np.int64), np.zeros(count, np.uint32))
    if before is not None:
        for new_K, old_K in zip(after.blocks, before.blocks, strict=True):
            new_K[: len(old_K)] = old_K[:count]
    return after
