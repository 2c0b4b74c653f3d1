"""Residency: which pages of rows in files are in main memory, within a budget of bytes.

The system brings in a page of a file when somebody looks at it, and with it what lies around. Here
whoever is about to look at rows says so (`want`): the pages of all of them that were not looked at
lately are asked for at once, and nothing else comes in. Once what came in is a part of the budget,
a sweep finds out what is there, and gives back the pages that were not looked at in the most sweeps
(aging: A. Tanenbaum, Modern Operating Systems, "Simulating LRU in software"). A page that is given
back is written to its file first where it was changed; nobody who reads or writes it waits for
that, or sees anything but its rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from memstore.kernels.pages import AWAY, PAGE, SEEN, UNSEEN, States, want
from memstore.memory import Slots
from memstore.shard.region import Region

SWEPT = 16
"""A sweep comes after so small a part of the budget came in, and leaves two of these free."""

OLDEST = 255

Ages = npt.NDArray[np.uint8]


class Residency:
    """The pages of some regions that lie in files; any number of threads may want them."""

    def __init__(self, budget: int, beside: Callable[[], int]) -> None:
        """budget: in bytes.  beside: bytes that lie in no file, and count."""
        self._budget, self._beside = budget, beside
        self._paged = dict[str, _Paged]()
        self._came = 0
        """Bytes that came in since the last sweep."""
        self._sweeping = threading.Lock()

    def watch(self, regions: dict[str, Region], rows: int) -> None:
        """Looks after regions in files, some of them known already, of which so many rows are in
        use; with writers kept off."""
        for name, region in regions.items():
            if not region.in_file:
                continue
            if name not in self._paged or self._paged[name].region is not region:
                self._paged[name] = _Paged(region)
            self._paged[name].grow(rows)

    def want(self, rows_B: Slots, *names: str) -> None:
        """Says that rows are about to be read or written, in these regions or in all."""
        for name in names or tuple(self._paged):
            if name in self._paged:
                self._came += self._paged[name].want(rows_B) * PAGE
        self._sweep_if_due()

    def wrote(self, name: str, first: int, end: int) -> None:
        """Says that rows from `first` to before `end` were written, for the first time."""
        if name in self._paged:
            self._came += self._paged[name].wrote(first, end) * PAGE
            self._sweep_if_due()

    def pieces(self, rows_B: Slots, *names: str) -> Iterator[slice]:
        """Cuts rows so that what those of a piece lie in is a small part of the budget; wants each
        piece, in these regions or in all, before it tells where it is."""
        named = [self._paged[name] for name in names or self._paged if name in self._paged]
        row_bytes = sum(PAGE + each.row_bytes for each in named)
        step = max(1, self._budget // SWEPT // max(1, row_bytes))
        for first in range(0, max(1, len(rows_B)), step):
            piece = slice(first, first + step)
            self.want(rows_B[piece], *names)
            yield piece

    def _sweep_if_due(self) -> None:
        if self._came < self._budget // SWEPT:
            return
        # Who brings in twice as much before it is over waits: the budget holds.
        if self._sweeping.acquire(blocking=self._came > self._budget // SWEPT * 2):
            try:
                if self._came >= self._budget // SWEPT:
                    self._sweep()
            finally:
                self._sweeping.release()

    def _sweep(self) -> None:
        self._came = 0
        paged = list(self._paged.values())
        here = [each.here() for each in paged]
        coming = sum(each.coming(pages) for each, pages in zip(paged, here, strict=True))
        over = self._beside() + (sum(map(len, here)) + coming) * PAGE
        over -= self._budget - 2 * (self._budget // SWEPT)
        if over <= 0:
            return
        ages = [each.aged(pages) for each, pages in zip(paged, here, strict=True)]
        told = np.bincount(np.concatenate([np.empty(0, np.uint8), *ages]), minlength=OLDEST + 1)
        older = told[::-1].cumsum()[::-1] - told
        """Pages that are older than each age."""
        needed = -(-over // PAGE)
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
            each.give_back(pages[gone])


class _Paged:
    """A region, what its pages are, and how long nobody looked at them."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.turn = 0
        self._states, self._ages = Region((), np.uint8), Region((), np.uint8)
        self._pages = 0

    @property
    def row_bytes(self) -> int:
        return self.region.row_bytes

    @property
    def _state_P(self) -> States:
        return self._states.view(self._pages)

    def grow(self, rows: int) -> None:
        self._pages = -(-rows * self.row_bytes // PAGE)
        for marks in (self._states, self._ages):
            marks.grow(self._pages)

    def want(self, rows_B: Slots) -> int:
        """Asks for the pages of rows that are away; returns how many these are."""
        address = self.region.address
        return int(want(np.ascontiguousarray(rows_B), self.row_bytes, self._state_P, address))

    def wrote(self, first: int, end: int) -> int:
        """Notes pages that were written; returns how many of them had been away."""
        some_P = self._state_P[first * self.row_bytes // PAGE : -(-end * self.row_bytes // PAGE)]
        new = np.count_nonzero(some_P == AWAY)
        some_P[:] = SEEN
        return int(new)

    def here(self) -> Slots:
        """Its pages in main memory, rising; there may be room for rows behind them."""
        here_H = self.region.pages_here()
        return here_H[: np.searchsorted(here_H, self._pages)]

    def coming(self, here_H: Slots) -> int:
        """How many pages were asked for that are not here yet."""
        state_P = self._state_P
        asked, came = (np.count_nonzero(each == SEEN) for each in (state_P, state_P[here_H]))
        return int(asked - came)

    def aged(self, here_H: Slots) -> Ages:
        """The sweeps since each page that is here was looked at, this one not counted; from now on
        nobody looked at any."""
        state_P, age_H = self._state_P, self._ages.view(self._pages)[here_H]
        np.add(age_H, 1, out=age_H, where=age_H < OLDEST)
        age_H[state_P[here_H] == SEEN] = 0
        self._ages.view(self._pages)[here_H] = age_H
        state_P[:] = AWAY
        state_P[here_H] = UNSEEN
        return age_H

    def give_back(self, pages_G: Slots) -> None:
        self._state_P[pages_G] = AWAY
        self.region.give_back(pages_G)
