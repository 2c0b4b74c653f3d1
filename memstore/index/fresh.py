"""The fresh tier as products with queries need it: copies of its rows, brought up to date in part.

To copy all fresh rows after each small write would cost more than the write. So those that
changed since are copied into a chunk of their own, and stand no more where they stood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memstore.kernels.near import Operand
from memstore.memory import NO_SLOT, Array, Slots

MOST_CHUNKS = 8
"""Chunks before the young ones are made one."""

SHARE = 4
"""All rows are copied anew where more than one in so many would be."""

MOST_NOTED, MOST_NOTES = 32_768, 64
"""Rows changed at a time, and changes, that are noted; beyond, all rows are copied anew."""


class Notes:
    """Which rows changed, in order; one thread writes, and `tail` is taken by any."""

    def __init__(self) -> None:
        self.changes: list[Slots] = []

    def add(self, rows_B: Slots) -> None:
        """To be called before readers are told that the rows changed."""
        if len(rows_B) > MOST_NOTED or len(self.changes) >= MOST_NOTES:
            # A new list: who has the old one knows by that that it lacks something.
            self.changes = []
        else:
            self.changes.append(rows_B)


@dataclass(frozen=True)
class Fresh:
    """Copies of the fresh rows, as of one row version.

    fresh_F: of the index version.  rows_F: the row of each copy, chunk by chunk; `NO_SLOT` where
    a younger chunk has it, or it is fresh no more.  changes, seen: how much of the notes is in it.
    """

    fresh_F: Slots
    row_version: int
    rows_F: Slots
    chunks: tuple[Operand, ...]
    changes: list[Slots]
    seen: int

    def products(self, queries_QD: Array) -> tuple[Array, Array]:
        """Products `[F, Q]` with all copies, of `kernels.near`, and their slack `[Q]`."""
        near = [chunk.products(queries_QD) for chunk in self.chunks]
        slack = [chunk.slack(queries_QD) for chunk in self.chunks]
        if len(near) == 1:
            return near[0], slack[0]
        return np.concatenate(near), np.max(slack, axis=0)


def copied(
    before: Fresh | None,
    notes: Notes,
    fresh_F: Slots,
    row_version: int,
    read: Callable[[Slots], Array],
) -> Fresh:
    """Copies of `fresh_F`, rising, with as little reading as `before` allows."""
    changes = notes.changes
    seen = len(changes)
    if before is not None and before.changes is changes:
        changed = np.concatenate([fresh_F[:0], *changes[before.seen : seen]])
        kept_F, chunks = before.rows_F, before.chunks
        if len(chunks) == MOST_CHUNKS:
            changed = np.concatenate([changed, kept_F[len(chunks[0]) :]])
            kept_F, chunks = kept_F[: len(chunks[0])], chunks[:1]
        changed = np.unique(changed)
        kept_F = np.where(_among(kept_F, changed), NO_SLOT, kept_F)
        owed = changed[_among(changed, fresh_F)]
        rows_F = np.concatenate([kept_F, owed])
        few = len(owed) * SHARE <= len(fresh_F) >= len(kept_F) // 2
        # Readers come in any order, with versions of before and after what was noted, and jobs
        # move rows between the tiers: the notes say what to read, not which rows are fresh.
        if few and np.array_equal(np.sort(rows_F[rows_F != NO_SLOT], kind="stable"), fresh_F):
            if len(owed):
                chunks = (*chunks, Operand(read(owed), like=chunks[0]))
            return Fresh(fresh_F, row_version, rows_F, chunks, changes, seen)
    return Fresh(fresh_F, row_version, fresh_F, (Operand(read(fresh_F)),), changes, seen)


def joined(rows_R: Slots, other: Slots) -> Slots:
    """Both together, each once, rising; `rows_R`, which rise, themselves if nothing is new."""
    new = np.unique(other)
    new = new[~_among(new, rows_R)]
    return np.insert(rows_R, np.searchsorted(rows_R, new), new) if len(new) else rows_R


def without(rows_R: Slots, other: Slots) -> Slots:
    """`rows_R`, which rise, but for those of `other`."""
    gone = other[_among(other, rows_R)]
    return np.delete(rows_R, np.searchsorted(rows_R, gone)) if len(gone) else rows_R


def _among(rows_B: Slots, rising_R: Slots) -> Array:
    """Which of some rows are among others, which rise; bool."""
    if not len(rising_R):
        return np.zeros(len(rows_B), bool)
    at_B = np.minimum(np.searchsorted(rising_R, rows_B), len(rising_R) - 1)
    found_B: Array = rising_R[at_B] == rows_B
    return found_B
