"""The arrays beside the rows of an episodic memory: as they begin, and room made for a step."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import numpy as np

from memstore.kernels.episode import COUNTERS, Fresh, Journal
from memstore.kernels.episode_fresh import FULL, LEAST
from memstore.kernels.episode_links import Links
from memstore.kernels.episode_usage import Usage
from memstore.memory import Array

USED_AT_FIRST = -1e300
"""Log of the usage of a word that was filled: above none, and nothing beside an access."""

Part = TypeVar("Part", Fresh, Journal)


class Filled(NamedTuple):
    """Of what grows, the most that any memory has: see `episode_access.filled`."""

    rows: int = 0
    touches: int = 0
    fresh: int = 0
    loose: int = 0
    leaves: int = 0
    groups: int = 0


def unused(batch: int, words: int, count: int, listed: bool) -> Usage:
    """No word was touched yet: those that are empty are used least, then the `count` filled."""
    order_N = np.roll(np.arange(words, dtype=np.int32), -count)
    none = np.zeros((batch, 0), np.int32)
    if listed:
        next_N, prev_N = np.empty((2, words + 1), np.int32)
        ring_N = np.append(order_N, np.int32(words))
        next_N[ring_N], prev_N[ring_N] = np.roll(ring_N, -1), np.roll(ring_N, 1)
        next_BN, prev_BN = np.tile(next_N, (batch, 1)), np.tile(prev_N, (batch, 1))
        return Usage(next_BN, prev_BN, none, none, np.zeros((batch, 0)))
    key_N, place_N = np.full(words, -np.inf), np.empty(words, np.int32)
    key_N[:count], place_N[order_N] = USED_AT_FIRST, np.arange(words, dtype=np.int32)
    heap_BN, place_BN = np.tile(order_N, (batch, 1)), np.tile(place_N, (batch, 1))
    return Usage(none, none, heap_BN, place_BN, np.tile(key_N, (batch, 1)))


def no_fresh(batch: int, width: int, dtype: np.dtype[Any]) -> Fresh:
    def none(*shape: int) -> Any:
        return np.zeros((batch, *shape), np.int32)

    counts_BC = np.zeros((batch, COUNTERS), np.int64)
    by_number = (none(0) for _ in range(5))
    halves, centres = np.zeros((batch, 0), dtype), np.zeros((batch, 0, width), dtype)
    leaves = (none(0, FULL), none(0), centres, halves, none(0), none(0), none(0))
    groups = (none(0, FULL), none(0), centres, halves, none(0))
    return Fresh._make((*by_number, counts_BC, *leaves, *groups))


def no_journal(batch: int, width: int, dtype: np.dtype[Any]) -> Journal:
    none, marks = np.zeros((batch, 0), np.int32), np.zeros((batch, 0, 2), np.int64)
    rows, ends = np.zeros((batch, 0, width), dtype), np.zeros((batch, 2), np.int64)
    return Journal(rows, none, none, none, np.zeros((batch, 0)), ends, marks)


def roomy_journal(journal: Journal, rows: int, touches: int, steps: int, listed: bool) -> Journal:
    """A journal that takes so many rows and touches in all, in so many steps."""
    link, key = (touches, 0) if listed else (0, touches)
    return Journal(
        _longer(journal.rows_BJD, rows),
        _longer(journal.row_BJ, rows),
        _longer(journal.touched_BT, touches),
        _longer(journal.before_BT, link),
        _longer(journal.key_BT, key),
        journal.ends_B2,
        _longer(journal.marks_BS2, steps),
    )


def roomy_fresh(fresh: Fresh, numbers: int) -> Fresh:
    """Room for so many fresh rows."""
    return Fresh._make((*(_longer(array, numbers) for array in fresh[:5]), *fresh[5:]))


def roomy_leaves(fresh: Fresh, filled: Filled) -> Fresh:
    """Room for the leaves and groups that filing all loose rows may make."""
    leaves = filled.leaves + filled.loose // LEAST + 2
    groups = filled.groups + (leaves - filled.leaves) // LEAST + 2
    by_leaf = (_longer(array, leaves) for array in fresh[6:13])
    return Fresh._make((*fresh[:6], *by_leaf, *(_longer(array, groups) for array in fresh[13:])))


def no_links(batch: int, heads: int, links: int, dtype: np.dtype[Any]) -> Links:
    """Nothing was written yet: p of step 0."""
    none = np.zeros((batch, 0, heads, links), np.int32)
    kept, weights = np.zeros((batch, 0, links), np.int32), np.zeros((batch, 0, heads, links), dtype)
    return Links(
        none,
        weights,
        none,
        np.full((batch, 1, heads, links), -1, np.int32),
        np.zeros((batch, 1, heads, links), dtype),
        np.zeros((batch, 0, heads), np.int32),
        kept,
        kept.astype(dtype),
        kept,
        np.zeros((batch, 0), np.int32),
        np.zeros(batch, np.int64),
        np.zeros((batch, 1), np.int64),
    )


def roomy_links(links: Links, numbers: int, kept: int, steps: int) -> Links:
    """Links of so many fresh rows and steps, and a journal of so many."""
    return Links(
        _longer(links.earlier_BFHL, numbers, fill=-1),
        _longer(links.weight_BFHL, numbers),
        _longer(links.later_BFHL, numbers, fill=-1),
        _longer(links.recent_BSHL, steps, fill=-1),
        _longer(links.share_BSHL, steps),
        _longer(links.saved_BFH, numbers),
        _longer(links.kept_earlier_BJL, kept),
        _longer(links.kept_weight_BJL, kept),
        _longer(links.kept_later_BJL, kept),
        _longer(links.kept_BJ, kept),
        links.ends_B,
        _longer(links.marks_BS, steps),
    )


def _longer(array_BX: Array, length: int, fill: int = 0) -> Array:
    """The same array if it is long enough, else one of one and a half times its length or more."""
    held = array_BX.shape[1]
    if length <= held:
        return array_BX
    shape = (len(array_BX), max(length, held + held // 2), *array_BX.shape[2:])
    longer_BX: Array = np.zeros(shape, array_BX.dtype)
    longer_BX[:, :held] = array_BX
    if fill:
        longer_BX[:, held:] = fill
    return longer_BX
