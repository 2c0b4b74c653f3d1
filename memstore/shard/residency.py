"""Residency: which pages of rows in files are in main memory, within a budget of bytes.

The system brings in a page of a file when somebody looks at it, and with it what lies around. Here
whoever is about to look at rows says so (`want`): the pages of all of them that are away are asked
for at once, and nothing else comes in. Once what came in is a part of the budget, a sweep finds out
what is there, and gives back the pages that nobody looked at in the most sweeps (aging, which is
least recently used in steps). A page that was changed is written to its file first: who changes
rows waits for that, who reads them never does; its sweep leaves such a page to the next one.

A sweep asks the system about every page of the table, some 20 ns each.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from memstore.kernels.pages import AWAY, PAGE, SEEN, UNSEEN, States, want
from memstore.memory import Slots
from memstore.shard.region import Region

SWEPT, FREE = 32, 4
"""A sweep comes after so small a part of the budget came in, and leaves so many of these free."""

OLDEST = 255

Ages = npt.NDArray[np.uint8]

logger = logging.getLogger(__name__)


class Residency:
    """The pages of some regions that lie in files; any number of threads may want them."""

    def __init__(self, budget_bytes: int, beside_bytes: Callable[[], int]) -> None:
        """beside_bytes: tells what lies in no file, and counts."""
        self._budget_bytes, self._beside_bytes = budget_bytes, beside_bytes
        self._part_bytes = budget_bytes // SWEPT
        self._paged = dict[str, _Paged]()
        self._came_bytes = 0
        """Since the last sweep."""
        self._counting, self._sweeping = threading.Lock(), threading.Lock()
        self._told = False

    def watch(self, regions: Mapping[str, Region], rows: int) -> None:
        """Looks after regions in files that have room for so many rows, some of them known already;
        with writers kept off. Raises `StorageFull`."""
        for name, region in regions.items():
            if not region.in_file or not region.row_bytes:
                continue
            if name not in self._paged or self._paged[name].region is not region:
                self._paged = {**self._paged, name: _Paged(region)}
            self._paged[name].grow(rows)

    def want(self, rows_B: Slots, *names: str, waits: bool = False) -> None:
        """Says that rows are about to be read or written in these regions.

        waits: whether a sweep may take as long as the disk does: where rows are changed.
        """
        paged = [self._paged[name] for name in names if name in self._paged]
        self._count(sum(each.want(rows_B) for each in paged), waits)

    def wrote(self, name: str, first: int, end: int) -> None:
        """Says that rows from `first` to before `end` were written, for the first time."""
        if name in self._paged:
            self._count(self._paged[name].wrote(first, end), waits=True)

    def pieces(self, rows_B: Slots, *names: str, waits: bool = False) -> Iterator[slice]:
        """Cuts rows so that what those of a piece lie in is a small part of the budget; wants each
        piece before it tells where it is."""
        sizes = [self._paged[name].region.row_bytes for name in names if name in self._paged]
        # Rows that lie anywhere take a page each, or one more than they fill.
        around = 0 if _is_a_run(rows_B) else PAGE * len(sizes)
        step = max(1, self._part_bytes // max(1, sum(sizes) + around))
        for first in range(0, max(1, len(rows_B)), step):
            piece = slice(first, first + step)
            self.want(rows_B[piece], *names, waits=waits)
            yield piece

    def _count(self, pages: int, waits: bool) -> None:
        if not pages:
            return
        with self._counting:
            self._came_bytes += pages * PAGE
            due = self._came_bytes >= self._part_bytes
            late = self._came_bytes > 2 * self._part_bytes
        # Who changes rows waits where twice as much came before a sweep is over.
        if due and self._sweeping.acquire(blocking=waits and late):
            try:
                if self._came_bytes >= self._part_bytes:
                    self._sweep(waits)
            finally:
                self._sweeping.release()

    def _sweep(self, waits: bool) -> None:
        with self._counting:
            self._came_bytes = 0
        paged, beside_bytes = list(self._paged.values()), self._beside_bytes()
        here = [each.here() for each in paged]
        coming = sum(each.coming(pages) for each, pages in zip(paged, here, strict=True))
        over_bytes = beside_bytes + (sum(map(len, here)) + coming) * PAGE
        over_bytes -= self._budget_bytes - FREE * self._part_bytes
        if over_bytes <= 0:
            for each, pages in zip(paged, here, strict=True):
                each.note(pages)
            return
        if beside_bytes > self._budget_bytes // 2 and not self._told:
            self._told = True
            logger.warning(
                "of a budget of %s bytes for rows %s lie in no file: it is too small",
                f"{self._budget_bytes:,}",
                f"{beside_bytes:,}",
            )
        ages = [each.aged(pages) for each, pages in zip(paged, here, strict=True)]
        told = np.bincount(np.concatenate([np.empty(0, np.uint8), *ages]), minlength=OLDEST + 1)
        older = told[::-1].cumsum()[::-1] - told
        """Pages that are older than each age."""
        needed = -(-over_bytes // PAGE)
        youngest = int(np.flatnonzero(older < needed)[0])
        left = needed - int(older[youngest])
        """Of the youngest that go, so many do."""
        for each, pages, age in zip(paged, here, ages, strict=True):
            gone = age > youngest
            as_young = np.flatnonzero(age == youngest)
            # Not the first of them each time: who comes round to them would find none.
            gone[np.roll(as_young, -each.turn)[:left]] = True
            each.turn += left
            left -= min(left, len(as_young))
            each.give_back(pages[gone], waits)


def _is_a_run(rows_B: Slots) -> bool:
    """Whether rows follow each other; equal ones may stand for some that lack, which is as good."""
    return len(rows_B) > 1 and int(rows_B[-1]) - int(rows_B[0]) == len(rows_B) - 1


class _Paged:
    """A region, what its pages are, and how long nobody looked at them."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.turn = 0
        self._states, self._ages = Region((), np.uint8), Region((), np.uint8)
        self._pages = 0

    @property
    def _state_P(self) -> States:
        return self._states.view(self._pages)

    def grow(self, rows: int) -> None:
        pages = -(-rows * self.region.row_bytes // PAGE)
        for marks in (self._states, self._ages):
            marks.grow(pages)
        self._pages = pages

    def want(self, rows_B: Slots) -> int:
        """Asks for the pages of rows that are away; returns how many these are."""
        region = self.region
        rows_B = np.ascontiguousarray(rows_B)
        return int(want(rows_B, region.row_bytes, self._state_P, region.address))

    def wrote(self, first: int, end: int) -> int:
        """Notes pages that were written; returns how many of them had been away."""
        size = self.region.row_bytes
        some_P = self._state_P[first * size // PAGE : -(-end * size // PAGE)]
        new = np.count_nonzero(some_P == AWAY)
        some_P[:] = SEEN
        return int(new)

    def here(self) -> Slots:
        """Its pages in main memory, rising."""
        here_H = self.region.pages_here()
        return here_H[: np.searchsorted(here_H, self._pages)]

    def coming(self, here_H: Slots) -> int:
        """How many pages were asked for that are not here yet."""
        state_P = self._state_P
        asked, came = (np.count_nonzero(each == SEEN) for each in (state_P, state_P[here_H]))
        return int(asked - came)

    def note(self, here_H: Slots) -> None:
        """Those that the system took away are asked for again; so are, in vain, those that it has
        not brought yet."""
        state_P = self._state_P
        kept_H = state_P[here_H]
        state_P[:] = AWAY
        state_P[here_H] = np.maximum(kept_H, UNSEEN)

    def aged(self, here_H: Slots) -> Ages:
        """The sweeps since each page that is here was looked at, this one not counted; from now on
        nobody looked at any."""
        state_P, age_P = self._state_P, self._ages.view(self._pages)
        age_H = age_P[here_H]
        np.add(age_H, 1, out=age_H, where=age_H < OLDEST)
        age_H[state_P[here_H] == SEEN] = 0
        age_P[here_H] = age_H
        state_P[:] = AWAY
        state_P[here_H] = UNSEEN
        return age_H

    def give_back(self, pages_G: Slots, waits: bool) -> None:
        self._state_P[pages_G] = AWAY
        failed = self.region.give_back(pages_G, waits=waits)
        if failed:
            logger.error("the disk does not take %d pages of rows: they stay in memory", failed)
