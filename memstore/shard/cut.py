"""A cut: the arrays of a shard as they were at one moment, read while writers go on.

    with writers: cut = Cut(table.arrays, changed_K)
    …                                     whoever writes rows calls cut.before(rows) first
    for block, arrays in cut.blocks(writers): …

Nobody stops. The reader goes from block to block and keeps writers off for one copy of some; a
writer keeps what a row was when it is the first to change it, unless the reader is beyond it. So
what is kept is what was changed while the cut was read, and never more than all of it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt

from memstore.kernels.group import distinct
from memstore.memory import Array, Slots
from memstore.shard.blocks import BLOCK_ROWS
from memstore.shard.region import Region

AT_A_TIME = 8
"""Blocks copied while writers are kept off: 4 MiB of float32 rows of 128, a millisecond or two."""

NOWHERE = -1

Blocks = npt.NDArray[np.bool_]


class Changed:
    """Which blocks were changed since somebody last asked."""

    def __init__(self) -> None:
        self._blocks_K: Blocks = np.zeros(0, bool)

    def add(self, rows_B: Slots) -> None:
        """Writers call it for the rows that they change."""
        if not len(rows_B):
            return
        needed = int(rows_B.max()) // BLOCK_ROWS + 1
        if needed > len(self._blocks_K):
            wider = max(needed, 2 * len(self._blocks_K))
            self._blocks_K = np.pad(self._blocks_K, (0, wider - len(self._blocks_K)))
        self._blocks_K[rows_B // BLOCK_ROWS] = True

    def take(self, blocks: int) -> Blocks:
        """The first so many blocks; from now on none is changed."""
        taken_K = np.zeros(blocks, bool)
        known_K = self._blocks_K[:blocks]
        taken_K[: len(known_K)] = known_K
        self._blocks_K = np.zeros(0, bool)
        return taken_K

    def put_back(self, blocks_K: Blocks) -> None:
        """What was taken counts again: it was not written after all."""
        self.add(np.flatnonzero(blocks_K) * BLOCK_ROWS)


class Cut:
    """One moment of the arrays that `read` gives, of which the blocks named are wanted.

    read: the arrays by name as they are now, all of one length; more may come, and longer ones.
    To be made with writers kept off.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, Array]],
        wanted_K: Blocks,
        blank: Callable[[int, int], bool] = lambda begin, end: False,
        pieces: Callable[[Slots], Iterable[slice]] = lambda rows_B: (slice(None),),
    ) -> None:
        """blank: whether what rows are now, from one to before another, is zero, or matters to
        nobody: these are not read, and zero.  pieces: where to cut rows that are about to be
        read."""
        self._read, self._blank, self._pieces = read, blank, pieces
        self._wanted_K = wanted_K
        self.shapes = {name: (array.dtype, array.shape) for name, array in read().items()}
        self.rows = max((shape[0] for _, shape in self.shapes.values()), default=0)
        self._next = 0
        """The first row that was not copied yet."""
        self._place_N = np.full(self.rows, NOWHERE, np.int32)
        """Where each row lies among those kept."""
        self._kept = {name: Region(s[1:], dtype) for name, (dtype, s) in self.shapes.items()}
        self._places = 0

    def before(self, rows_B: Slots) -> None:
        """Keeps what rows are that are about to change; with writers kept off."""
        if self._next >= self.rows:
            return
        rows = rows_B[(rows_B >= self._next) & (rows_B < self.rows)]
        rows = distinct(rows[self._place_N[rows] == NOWHERE])
        rows = rows[self._wanted_K[rows // BLOCK_ROWS]]
        if len(rows):
            first, self._places = self._places, self._places + len(rows)
            arrays = self._read()
            for kept in self._kept.values():
                kept.grow(self._places)
            for piece in self._pieces(rows):
                for name, kept in self._kept.items():
                    kept.view(self._places)[first:][piece] = arrays[name][rows[piece]]
            self._place_N[rows] = np.arange(first, self._places)

    def blocks(
        self, writers: AbstractContextManager[object]
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """The blocks wanted, rising, each with its arrays by name."""
        wanted = np.flatnonzero(self._wanted_K)
        for at in range(0, len(wanted), AT_A_TIME):
            some = wanted[at : at + AT_A_TIME]
            ranges = [(b * BLOCK_ROWS, min((b + 1) * BLOCK_ROWS, self.rows)) for b in some.tolist()]
            with writers:
                arrays = self._read()
                copies = [self._copied(arrays, begin, end) for begin, end in ranges]
                self._next = ranges[-1][1]
            # Nobody keeps any of these rows from now on.
            for (begin, end), copy in zip(ranges, copies, strict=True):
                self._as_before(begin, end, copy)
            yield from zip(some.tolist(), copies, strict=True)
        with writers:
            self._next = self.rows

    def _copied(self, arrays: Mapping[str, Array], begin: int, end: int) -> dict[str, Array]:
        if self._blank(begin, end):
            return {
                name: np.zeros((end - begin, *shape[1:]), dtype)
                for name, (dtype, shape) in self.shapes.items()
            }
        rows = np.arange(begin, end)
        copied = {
            name: np.empty((end - begin, *shape[1:]), dtype)
            for name, (dtype, shape) in self.shapes.items()
        }
        for piece in self._pieces(rows):
            for name, copy in copied.items():
                copy[piece] = arrays[name][begin:end][piece]
        return copied

    def _as_before(self, begin: int, end: int, copy: dict[str, Array]) -> None:
        """Puts what was kept of some rows into a copy of them."""
        place_R = self._place_N[begin:end]
        rows = np.flatnonzero(place_R != NOWHERE)
        if len(rows):
            for name, part in copy.items():
                part[rows] = self._kept[name].view(self._places)[place_R[rows]]
