"""What a refresh encodes at once: the slots of the part rows that drifted most, up to a limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from memstore.memory import Array, Slots

FIRST = -1
"""The slot behind which all are."""


class Batch(NamedTuple):
    """Slots to encode, rising.

    travel: by key column how far its part rows had gone when the first of their slots was encoded;
    they count as encoded as of then.  ends: whether all their slots are encoded with these.
    """

    slots: Slots
    travel: Mapping[str, Array]
    ends: bool


class Pieces:
    """Part rows that more slots are made of than a batch has: how far each one is.

    It is encoded piece by piece, so that no batch is longer for one relation of a million facts,
    and counts as encoded once all its slots are.
    """

    def __init__(self) -> None:
        self._begun: dict[tuple[str, int], tuple[float, int]] = {}
        """By key column and row: its travel at its first piece, and the last slot encoded."""

    def last(self, chosen: Mapping[str, Slots], limit: int | None) -> int:
        """The slot behind which a batch of these part rows begins."""
        sole = _sole(chosen, limit)
        return self._begun[sole][1] if sole in self._begun else FIRST

    def cut(
        self,
        chosen: Mapping[str, Slots],
        travel: Mapping[str, Array],
        slots: Slots,
        limit: int | None,
    ) -> Batch:
        """The next slots of some part rows.

        travel: of these, by column.  slots: that any of them is a part of, rising; at least `limit`
        + 1 of those behind `last`, or all.
        """
        sole = _sole(chosen, limit)
        if limit is None or sole is None or (len(slots) <= limit and sole not in self._begun):
            return Batch(slots, travel, ends=True)
        column, _ = sole
        gone, last = self._begun.get(sole, (float(travel[column][0]), FIRST))
        slots = slots[np.searchsorted(slots, last, side="right") :]
        then = {**travel, column: np.array([gone])}
        return Batch(slots[:limit], then, ends=len(slots) <= limit)

    def done(self, chosen: Mapping[str, Slots], batch: Batch) -> None:
        """A batch of some part rows is encoded."""
        if batch.ends:
            for column, row in list(self._begun):
                if row in chosen[column]:
                    del self._begun[column, row]
            return
        ((column, row),) = ((c, int(row)) for c, rows in chosen.items() for row in rows)
        self._begun[column, row] = float(batch.travel[column][0]), int(batch.slots[-1])


def worst(
    rows: Mapping[str, Slots],
    drift: Mapping[str, Array],
    uses: Mapping[str, Slots],
    limit: int,
) -> dict[str, Slots]:
    """Of drifted part rows, by key column, those that drifted most: as many as at most `limit`
    slots are made of, at least one."""
    columns = list(rows)
    owner_P = np.repeat(np.arange(len(columns)), [len(rows[c]) for c in columns])
    row_P, drift_P, uses_P = (
        np.concatenate([by[c] for c in columns]) for by in (rows, drift, uses)
    )
    worst_P = np.argsort(-drift_P, kind="stable")
    fits = int(np.searchsorted(np.cumsum(uses_P[worst_P]), limit, side="right"))
    taken = worst_P[: max(1, fits)]
    return {c: np.sort(row_P[taken][owner_P[taken] == i]) for i, c in enumerate(columns)}


def _sole(chosen: Mapping[str, Slots], limit: int | None) -> tuple[str, int] | None:
    """The only part row of a batch with a limit; others are encoded at once."""
    if limit is None or sum(map(len, chosen.values())) != 1:
        return None
    return next((column, int(rows[0])) for column, rows in chosen.items() if len(rows))
