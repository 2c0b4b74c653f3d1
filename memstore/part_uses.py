"""Which slots of an encoded memory each part row is a part of.

Made of all records at once, and anew once others came: training changes none, so that a refresh
looks at what it encodes and not at every record. For each key column it takes 8 bytes a slot,
and 8 for each slot of its part up to the last that is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from memstore.kernels.group import by_row, distinct
from memstore.memory import Slots


class PartUses:
    """By key column the slots, in the order of the part rows that they name. Never changes."""

    def __init__(self, blocks: Iterable[tuple[Slots, pa.Table]], columns: Sequence[str]) -> None:
        """blocks: slots, rising, and their records."""
        slots, named = [np.empty(0, np.int64)], {c: [np.empty(0, np.int64)] for c in columns}
        for slots_B, records in blocks:
            slots.append(slots_B)
            for column in columns:
                named[column].append(records[column].to_numpy())
        slots_N = np.concatenate(slots)
        self._by_column = {c: _Column(slots_N, np.concatenate(named.pop(c))) for c in columns}

    def counts(self, rows: Mapping[str, Slots]) -> dict[str, Slots]:
        """Of how many slots each of some part rows is a part, by key column."""
        return {column: self._by_column[column].counts(rows_P) for column, rows_P in rows.items()}

    def slots(self, rows: Mapping[str, Slots]) -> Slots:
        """The slots that any of some part rows is a part of, by key column; rising, each once."""
        found = [self._by_column[column].slots(rows_P) for column, rows_P in rows.items()]
        return distinct(np.concatenate([np.empty(0, np.int64), *found]))


class _Column:
    def __init__(self, slots_N: Slots, named_N: Slots) -> None:
        self._starts, self._slots_N = by_row(named_N, slots_N)

    def counts(self, rows_P: Slots) -> Slots:
        begin_P, end_P = self._ranges(rows_P)
        counts_P: Slots = end_P - begin_P
        return counts_P

    def slots(self, rows_P: Slots) -> Slots:
        begin_P, end_P = self._ranges(rows_P)
        counts_P = end_P - begin_P
        ends_P = np.cumsum(counts_P)
        total = int(ends_P[-1]) if len(ends_P) else 0
        at = np.arange(total) + np.repeat(begin_P - (ends_P - counts_P), counts_P)
        found_S: Slots = self._slots_N[at]
        return found_S

    def _ranges(self, rows_P: Slots) -> tuple[Slots, Slots]:
        """Where the slots of each part row begin and end; none for one that is not used."""
        last = len(self._starts) - 1
        begin_P, end_P = (self._starts[np.minimum(rows_P + i, last)] for i in (0, 1))
        return begin_P, end_P
