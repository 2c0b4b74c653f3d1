"""The fresh tier: a queue of the rows written since the last sealing, laid out for products.

Who writes rows lays copies of them behind those of before, so that no search ever copies them. A
copy lies at its place, a number that only rises; what was laid down is never changed. A reader
holds a part of the queue, from a first place to an end: it finds the same rows in it for as long as
it likes, and sealing the oldest of them is to begin behind them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memstore.index.clustered import Reader
from memstore.kernels.near import Extent, halves, lay_out, products
from memstore.kernels.places import lay, standing
from memstore.memory import NO_SLOT, Array, Slots

CHUNK_ROWS = 16_384
"""Places allocated at a time, as many as are fresh in the mean: each chunk is a product of its
own. What is not written yet of a chunk takes no memory."""

STEP = 512
"""Products are taken of a multiple of so many places of a chunk: `near` would fill up others."""

IDLE = 4_096
"""Places that may be idle however few rows are fresh."""

MOST_LAID_OUT = 65_536
"""Places whose products with a batch of queries are kept side by side. Rows beyond are not copied:
that many wait for the first clustering, or for a sealing that fails."""


class Chunk:
    """`CHUNK_ROWS` places. rows_P: the row of each, `NO_SLOT` where one was taken out.

    before_P: the place of the row's copy before, which counts no more; −1 for none.
    copies_PD: float32 or float64, or the bits of bfloat16; None where rows are not copied.
    """

    def __init__(self, copies_PD: Array | None) -> None:
        self.rows_P = np.full(CHUNK_ROWS, NO_SLOT, np.int64)
        self.before_P = np.full(CHUNK_ROWS, NO_SLOT, np.int64)
        self.copies_PD = copies_PD
        self.extent = Extent()


@dataclass(frozen=True)
class Fresh:
    """Places `first` to `end` of the queue, in chunks; `count` rows have their last copy there."""

    chunks: tuple[Chunk, ...] = ()
    first: int = 0
    end: int = 0
    count: int = 0

    def __len__(self) -> int:
        return self.count

    @property
    def places(self) -> int:
        return self.end - self.first

    @property
    def bytes(self) -> int:
        """Bytes of the copies, those that count no more included."""
        copied = ((chunk.copies_PD, part) for chunk, part in self._parts())
        return sum(copies_PD[part].nbytes for copies_PD, part in copied if copies_PD is not None)

    @functools.cached_property
    def standing_F(self) -> Slots:
        """The row of each place, `NO_SLOT` where a younger copy counts or it was taken out."""
        parts = list(self._parts())
        nothing = np.empty(0, np.int64)
        rows_F = np.concatenate([nothing, *(chunk.rows_P[part] for chunk, part in parts)])
        before_F = np.concatenate([nothing, *(chunk.before_P[part] for chunk, part in parts)])
        return standing(rows_F, before_F, self.first)

    @functools.cached_property
    def rows_F(self) -> Slots:
        """The fresh rows, rising."""
        rows_F = self.standing_F
        return np.sort(rows_F[rows_F != NO_SLOT])

    def oldest(self, most: int | None) -> tuple[Slots, int]:
        """The rows at the first `most` places, rising, and the place behind them."""
        rows_F = self.standing_F[:most]
        return np.sort(rows_F[rows_F != NO_SLOT]), self.first + len(rows_F)

    def since(self, first: int) -> Fresh:
        """Without the rows whose last copy lies before that place."""
        gone = int(np.count_nonzero(self.standing_F[: first - self.first] != NO_SLOT))
        chunks = self.chunks[first // CHUNK_ROWS - self.first // CHUNK_ROWS :]
        return Fresh(chunks, first, self.end, self.count - gone)

    def products(self, queries_QD: Array, read: Reader) -> tuple[Array, Array]:
        """Products `[F, Q]` with the row at each place, of `kernels.near`, and their slack `[Q]`.

        read: gives the rows that are not copied.
        """
        dtype = queries_QD.dtype
        halved = halves(dtype)
        nothing = np.empty((0, queries_QD.shape[1]), np.int16 if halved else dtype)
        parts: list[Array] = [nothing]
        extent, before = Extent(), 0
        for chunk, part in self._parts():
            if chunk.copies_PD is None:
                keys_PD = read(np.maximum(chunk.rows_P[part], 0))
                parts.append(np.empty(keys_PD.shape, nothing.dtype))
                extent.raise_by(lay_out(keys_PD, parts[-1]))
            else:
                # What is laid down beside the part, or just being laid down, is left out below.
                before = before or part.start % STEP
                wide = slice(part.start // STEP * STEP, -(-part.stop // STEP) * STEP)
                parts.append(chunk.copies_PD[wide])
                extent.raise_by(chunk.extent)
        near_FQ = products(parts, queries_QD)[before : before + self.places]
        return near_FQ, extent.slack(queries_QD, rounded=halved)

    def _parts(self) -> Iterator[tuple[Chunk, slice]]:
        """The chunks, and which of its places belong to this part of the queue."""
        base = self.first - self.first % CHUNK_ROWS
        for at, chunk in zip(range(base, self.end, CHUNK_ROWS), self.chunks, strict=False):
            yield chunk, slice(max(self.first - at, 0), min(self.end - at, CHUNK_ROWS))


class Queue:
    """Lays rows down. One thread writes; the parts that it gives are read by any."""

    def __init__(self, read: Reader, *, copied: bool = True) -> None:
        """read: gives the rows as they are, and as they are counted with.  copied: whether rows
        are, for products that are taken of them here."""
        self._read, self._copied = read, copied
        self._place_N = np.empty(0, np.int64)

    def joined(self, fresh: Fresh, rows_B: Slots) -> Fresh:
        """With rows as they are now, behind all others. fresh: the youngest part."""
        self._grow(int(rows_B.max(initial=-1)) + 1)
        if fresh.places > fresh.count + max(fresh.count // 2, IDLE):
            # All are laid down again, in one step with the new ones: both or neither count.
            rows_B = np.concatenate([fresh.rows_F, rows_B])
            fresh = Fresh((), fresh.end, fresh.end)
        return self._laid(fresh, rows_B, gone=False)

    def moved(self, fresh: Fresh, rows_B: Slots) -> Fresh:
        """With those of some rows that are fresh as they are now."""
        rows_F = self._among(fresh, rows_B)
        return self.joined(fresh, rows_F) if len(rows_F) else fresh

    def without(self, fresh: Fresh, rows_B: Slots) -> Fresh:
        """Without some rows, distinct ones."""
        rows_F = self._among(fresh, rows_B)
        return self._laid(fresh, rows_F, gone=True) if len(rows_F) else fresh

    def anew(self, fresh: Fresh, rows_R: Slots) -> Fresh:
        """With these rows alone, laid down again."""
        return self.joined(Fresh((), fresh.end, fresh.end), rows_R)

    def _among(self, fresh: Fresh, rows_B: Slots) -> Slots:
        known_B = rows_B[rows_B < len(self._place_N)]
        return np.ascontiguousarray(known_B[self._place_N[known_B] >= fresh.first])

    def _laid(self, fresh: Fresh, rows_B: Slots, *, gone: bool) -> Fresh:
        chunks, at, places = fresh.chunks, fresh.end, fresh.end - fresh.first
        parts = []
        while len(rows_B):
            if at % CHUNK_ROWS == 0 or not chunks:
                chunks = (*chunks, self._chunk(places))
            some_B = np.ascontiguousarray(rows_B[: CHUNK_ROWS - at % CHUNK_ROWS])
            parts.append((chunks[-1], some_B, at))
            copies_PD = chunks[-1].copies_PD
            if copies_PD is not None and not gone:
                first = at % CHUNK_ROWS
                laid = lay_out(self._read(some_B), copies_PD[first : first + len(some_B)])
                chunks[-1].extent.raise_by(laid)
            at, places, rows_B = at + len(some_B), places + len(some_B), rows_B[len(some_B) :]
        count = fresh.count
        # From here on nothing can fail: what was laid down counts.
        for chunk, some_B, first in parts:
            count += lay(
                *(some_B, self._place_N, first, fresh.first),
                *(chunk.rows_P, chunk.before_P, first % CHUNK_ROWS, gone),
            )
        return Fresh(chunks, fresh.first, at, count)

    def _chunk(self, places: int) -> Chunk:
        if not self._copied or places + CHUNK_ROWS > MOST_LAID_OUT:
            return Chunk(None)
        like = self._read(np.empty(0, np.int64))
        dtype = np.int16 if halves(like.dtype) else like.dtype
        return Chunk(np.zeros((CHUNK_ROWS, like.shape[1]), dtype))

    def _grow(self, size: int) -> None:
        if size > len(self._place_N):
            more = max(size, len(self._place_N) * 9 // 8) - len(self._place_N)
            self._place_N = np.append(self._place_N, np.full(more, NO_SLOT))
