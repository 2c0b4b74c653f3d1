"""The rows of private memories, changed in place, and the journal that takes each change back.

B memories of N rows of D numbers. A row is sealed (filled, in the tree of `episode_tree`), empty,
or fresh: written in the episode, and numbered among those (`episode_fresh`). Numbers are given out
in order and taken back in reverse, so those in use are always 0 … F − 1.

A row is kept in the journal once a step, before it first changes there. What is changed, journalled
and taken back are the same rows: neither time nor space of a step knows N.

Letters: B memories, N rows, D width, J journalled rows, T journalled touches, S steps, F fresh.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.memory import Array

Numbers = npt.NDArray[np.int32]

ROWS, TOUCHES = 0, 1
FRESH, LOOSE, LEAVES, SPARE_LEAVES, GROUPS, SPARE_GROUPS = range(6)
"""Columns of `Fresh.counts_BC`."""

COUNTERS = 6


class Words(NamedTuple):
    """rows_BND: the rows.  fresh_BN: the number of each among the fresh, −1 for none."""

    rows_BND: Array
    fresh_BN: Numbers


class Fresh(NamedTuple):
    """Rows written since the memory was filled, by number; filed ones by leaf, leaves by group.

    row_BF: the row.  saved_BF: the step that last kept it in the journal.  leaf_BF: the leaf that
    it is filed in, −1 while loose.  place_BF: where in its leaf, or in loose_BF, it stands.
    members_BLM: rows in each leaf, size_BL of them; centre_BLD: the mean of what was filed there
    and half_BL: half the square of its length.  group_BL, spot_BL: the group of a leaf, and where
    in leaves_BGM it stands.  The same of groups.  spare_*: leaves and groups that fell empty.
    """

    row_BF: Numbers
    saved_BF: Numbers
    leaf_BF: Numbers
    place_BF: Numbers
    loose_BF: Numbers
    counts_BC: npt.NDArray[np.int64]
    members_BLM: Numbers
    size_BL: Numbers
    centre_BLD: Array
    half_BL: Array
    group_BL: Numbers
    spot_BL: Numbers
    spare_leaf_BL: Numbers
    leaves_BGM: Numbers
    group_size_BG: Numbers
    group_centre_BGD: Array
    group_half_BG: Array
    spare_group_BG: Numbers


class Sealed(NamedTuple):
    """What a memory was filled with: its first `rows` rows, near ones side by side.

    Leaf l is the rows starts_BL[l] to starts_BL[l + 1] that are not fresh, centre_BLD its mean;
    group g the leaves firsts_BG[g] to firsts_BG[g + 1].
    """

    rows: int
    starts_BL: Numbers
    centre_BLD: Array
    firsts_BG: Numbers
    group_centre_BGD: Array


class Journal(NamedTuple):
    """rows_BJD: rows as they were; row_BJ: which, ~row for one that was not fresh.
    touched_BT: rows in the order of their touches; before_BT: the one that stood before it,
    key_BT: its priority.  ends_B2: how many of both.  marks_BS2: the same when a step began."""

    rows_BJD: Array
    row_BJ: Numbers
    touched_BT: Numbers
    before_BT: Numbers
    key_BT: npt.NDArray[np.float64]
    ends_B2: npt.NDArray[np.int64]
    marks_BS2: npt.NDArray[np.int64]


@compiled()
def save_row(words: Words, fresh: Fresh, journal: Journal, b: int, row: int, step: int) -> int:
    """Readies a row to be changed: journalled, fresh, loose. Returns its number."""
    number = words.fresh_BN[b, row]
    known = number >= 0
    if not known:
        number = fresh.counts_BC[b, FRESH]
        fresh.counts_BC[b, FRESH] += 1
        words.fresh_BN[b, row] = number
        fresh.row_BF[b, number] = row
        fresh.saved_BF[b, number] = 0
        fresh.leaf_BF[b, number] = -1
        _lay_loose(fresh, b, row, number)
    elif fresh.leaf_BF[b, number] >= 0:
        _take_out(words, fresh, b, number)
        _lay_loose(fresh, b, row, number)
    if fresh.saved_BF[b, number] != step:
        end = journal.ends_B2[b, ROWS]
        for d in range(words.rows_BND.shape[2]):
            journal.rows_BJD[b, end, d] = words.rows_BND[b, row, d]
        journal.row_BJ[b, end] = row if known else ~row
        journal.ends_B2[b, ROWS] = end + 1
        fresh.saved_BF[b, number] = step
    return int(number)


@compiled()
def undo_rows(words: Words, fresh: Fresh, journal: Journal, b: int, mark: int) -> None:
    """Takes back the changes of rows behind a mark, the last first."""
    while journal.ends_B2[b, ROWS] > mark:
        end = journal.ends_B2[b, ROWS] - 1
        journal.ends_B2[b, ROWS] = end
        kept = journal.row_BJ[b, end]
        row = kept if kept >= 0 else ~kept
        for d in range(words.rows_BND.shape[2]):
            words.rows_BND[b, row, d] = journal.rows_BJD[b, end, d]
        number = words.fresh_BN[b, row]
        fresh.saved_BF[b, number] = 0
        if fresh.leaf_BF[b, number] >= 0:
            _take_out(words, fresh, b, number)
            _lay_loose(fresh, b, row, number)
        if kept < 0:
            _take_loose(words, fresh, b, number)
            fresh.counts_BC[b, FRESH] -= 1
            words.fresh_BN[b, row] = -1
    if fresh.counts_BC[b, FRESH] == 0:
        # The next episode files as if it were the first.
        fresh.counts_BC[b, :] = 0


@compiled()
def _lay_loose(fresh: Fresh, b: int, row: int, number: int) -> None:
    end = fresh.counts_BC[b, LOOSE]
    fresh.loose_BF[b, end] = row
    fresh.place_BF[b, number] = end
    fresh.counts_BC[b, LOOSE] = end + 1


@compiled()
def _take_loose(words: Words, fresh: Fresh, b: int, number: int) -> None:
    end = fresh.counts_BC[b, LOOSE] - 1
    last, place = fresh.loose_BF[b, end], fresh.place_BF[b, number]
    fresh.loose_BF[b, place] = last
    fresh.place_BF[b, words.fresh_BN[b, last]] = place
    fresh.counts_BC[b, LOOSE] = end


@compiled()
def _take_out(words: Words, fresh: Fresh, b: int, number: int) -> None:
    """Takes a row out of its leaf, and what falls empty by that out of use."""
    leaf, place = fresh.leaf_BF[b, number], fresh.place_BF[b, number]
    fresh.leaf_BF[b, number] = -1
    end = fresh.size_BL[b, leaf] - 1
    last = fresh.members_BLM[b, leaf, end]
    fresh.members_BLM[b, leaf, place] = last
    fresh.place_BF[b, words.fresh_BN[b, last]] = place
    fresh.size_BL[b, leaf] = end
    if end == 0:
        group, spot = fresh.group_BL[b, leaf], fresh.spot_BL[b, leaf]
        rest = fresh.group_size_BG[b, group] - 1
        moved = fresh.leaves_BGM[b, group, rest]
        fresh.leaves_BGM[b, group, spot] = moved
        fresh.spot_BL[b, moved] = spot
        fresh.group_size_BG[b, group] = rest
        fresh.spare_leaf_BL[b, fresh.counts_BC[b, SPARE_LEAVES]] = leaf
        fresh.counts_BC[b, SPARE_LEAVES] += 1
        if rest == 0:
            fresh.spare_group_BG[b, fresh.counts_BC[b, SPARE_GROUPS]] = group
            fresh.counts_BC[b, SPARE_GROUPS] += 1
