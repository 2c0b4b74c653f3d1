"""The queue of fresh rows: which place of it holds the copy of a row that counts."""

from __future__ import annotations

from memstore.kernels.compiling import compiled
from memstore.memory import NO_SLOT, Slots


@compiled()
def lay(
    rows_B: Slots,
    place_N: Slots,
    place: int,
    first: int,
    rows_P: Slots,
    before_P: Slots,
    at: int,
    gone: bool,
) -> int:
    """Writes rows into a chunk from `at` on; returns by how much more rows are fresh.

    place: the number of the first place.  first: that of the oldest fresh row.  gone: the rows are
    taken out; then the places say only which copies count no more.
    """
    more = 0
    for b in range(len(rows_B)):
        row = rows_B[b]
        before = place_N[row]
        known = before >= first
        before_P[at + b] = before if known else NO_SLOT
        if gone:
            rows_P[at + b] = NO_SLOT
            place_N[row] = NO_SLOT
            more -= known
        else:
            rows_P[at + b] = row
            place_N[row] = place + b
            more += not known
    return more


@compiled()
def standing(rows_F: Slots, before_F: Slots, first: int) -> Slots:
    """The row of each place from `first` on; `NO_SLOT` where a later place says so."""
    standing_F = rows_F.copy()
    for f in range(len(rows_F)):
        if before_F[f] >= first:
            standing_F[before_F[f] - first] = NO_SLOT
    return standing_F
