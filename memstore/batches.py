"""What a refresh encodes at once: the slots of the part rows that drifted most, up to a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from memstore.memory import Array, Slots

Found = tuple[Array, ...]
"""Slots, rising, and what else is known of each."""


class Batch(NamedTuple):
    """What to encode.

    travel: by key column how far its part rows had gone when the first of their slots was encoded;
    they count as encoded as of then.  anew: whether the index is built anew behind the last of
    them.  rest: what is left of the part row; None where all its slots are encoded with these.
    """

    found: Found
    travel: Mapping[str, Array]
    anew: bool
    rest: Begun | None = None


class Begun(NamedTuple):
    """Of one part row, what was found when it had gone `travel`, and is not encoded yet. Slots that
    came since were encoded when they came."""

    travel: float
    found: Found
    anew: bool


class Pieces:
    """Part rows that more slots are made of than a batch has.

    Such a row is encoded piece by piece, so that no batch is longer for one relation of a million
    facts, and counts as encoded once all its slots are.
    """

    def __init__(self) -> None:
        self._begun: dict[tuple[str, int], Begun] = {}

    def going_on(
        self, rows: Mapping[str, Slots], drift: Mapping[str, Array], limit: int | None
    ) -> dict[str, Slots] | None:
        """The part row that drifted most, by its column, if it is begun."""
        if limit is None or not self._begun:
            return None
        column = max(rows, key=lambda column: drift[column].max(initial=0.0))
        if not len(rows[column]):
            return None
        row = rows[column][np.argmax(drift[column])]
        if (column, int(row)) not in self._begun:
            return None
        return {each: np.array([row] if each == column else [], np.int64) for each in rows}

    def next(
        self,
        chosen: Mapping[str, Slots],
        travel: Mapping[str, Array],
        limit: int | None,
        find: Callable[[Mapping[str, Slots]], Found],
        many: float,
    ) -> Batch:
        """What of some part rows is encoded now.

        travel: of these, by column.  find: what they are a part of.  many: slots beyond which the
        index is built anew.
        """
        sole = _sole(chosen)
        begun = None if limit is None or sole is None else self._begun.get(sole)
        if begun is None:
            found = find(chosen)
            anew = len(found[0]) > many
            if limit is None or sole is None or len(found[0]) <= limit:
                return Batch(found, travel, anew)
            begun = Begun(float(travel[sole[0]][0]), found, anew)
        assert sole is not None
        now, rest = (
            tuple(array[piece] for array in begun.found)
            for piece in (slice(limit), slice(limit, None))
        )
        then = {**travel, sole[0]: np.array([begun.travel])}
        left = begun._replace(found=rest) if len(rest[0]) else None
        return Batch(now, then, begun.anew, left)

    def done(self, chosen: Mapping[str, Slots], batch: Batch) -> None:
        """A batch of some part rows is encoded."""
        sole = _sole(chosen)
        if batch.rest is not None and sole is not None:
            self._begun[sole] = batch.rest
            return
        for column, row in list(self._begun):
            if row in chosen[column]:
                del self._begun[column, row]


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


def _sole(chosen: Mapping[str, Slots]) -> tuple[str, int] | None:
    """The part row, where it is one alone."""
    if sum(map(len, chosen.values())) != 1:
        return None
    return next((column, int(rows[0])) for column, rows in chosen.items() if len(rows))
