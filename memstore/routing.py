"""Slot → shard: splits the slots of a call by shard, and merges what the shards give back.

Shard i of S holds the slots with `slot % S == i`, each under the row number `slot // S`. What some
of the shards gave is merged with what others did in any order, and comes out the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from memstore.kernels.topk import top_k
from memstore.memory import NO_SLOT, Array, LookupResult, SearchResult, Slots
from memstore.shard.reading import ShardResult

NOT_SEARCHED = -1
"""The version of a shard that was not searched."""


def split(slots_B: Slots, shards: int) -> Iterator[tuple[int, Slots, Slots]]:
    """For each shard concerned: its number, the positions in the call, rising, the rows there."""
    if shards == 1:
        yield 0, np.arange(len(slots_B)), slots_B
        return
    home_B = slots_B % shards
    for shard in range(shards):
        at = np.flatnonzero(home_B == shard)
        if len(at):
            yield shard, at, slots_B[at] // shards


def slots_of(rows: Slots, shard: int, shards: int) -> Slots:
    """The slots of rows of a shard, of any shape; `NO_SLOT` stays."""
    return np.where(rows == NO_SLOT, NO_SLOT, rows * shards + shard)


def taken(array: Array | None, at: Slots) -> Array | None:
    """The elements of one part; the array itself where that is the whole call."""
    return array if array is None or len(at) == len(array) else array[at]


def merged_results(found: Mapping[int, ShardResult], shards: int, k: int) -> SearchResult:
    """The k best of what the shards found, by their number, that there are of `shards`."""
    parts = list(found.values())
    if len(parts) == 1:
        # The best of them already.
        only, number = parts[0], next(iter(found))
        slots_QK = only.rows_QK if shards == 1 else slots_of(only.rows_QK, number, shards)
        best: tuple[Array, ...] = (slots_QK, only.scores_QK, only.proposal_QK)
    else:
        slots = [slots_of(part.rows_QK, number, shards) for number, part in found.items()]
        best = _best(slots, [p.scores_QK for p in parts], [p.proposal_QK for p in parts], k)
    slots_QK, scores_QK, proposal_QK = best
    row_versions_S, index_versions_S = np.full((2, shards), NOT_SEARCHED)
    row_versions_S[list(found)] = [part.row_version for part in parts]
    index_versions_S[list(found)] = [part.index_version for part in parts]
    return SearchResult(
        slots_QK=slots_QK,
        scores_QK=scores_QK,
        counts_Q=(slots_QK != NO_SLOT).sum(axis=1),
        proposal_QK=proposal_QK,
        scored_Q=np.sum([part.scored_Q for part in parts], axis=0),
        row_versions_S=row_versions_S,
        index_versions_S=index_versions_S,
    )


def joined_results(parts: Sequence[SearchResult], k: int) -> SearchResult:
    """The k best of what parts of the shards found; the shards of none of them are missing."""
    slots = [part.slots_QK for part in parts]
    best = _best(slots, [p.scores_QK for p in parts], [p.proposal_QK for p in parts], k)
    slots_QK, scores_QK, proposal_QK = best
    row_versions_S = np.max([part.row_versions_S for part in parts], axis=0)
    return SearchResult(
        slots_QK=slots_QK,
        scores_QK=scores_QK,
        counts_Q=(slots_QK != NO_SLOT).sum(axis=1),
        proposal_QK=proposal_QK,
        scored_Q=np.sum([part.scored_Q for part in parts], axis=0),
        row_versions_S=row_versions_S,
        index_versions_S=np.max([part.index_versions_S for part in parts], axis=0),
        missing_shards=tuple(np.flatnonzero(row_versions_S == NOT_SEARCHED).tolist()),
    )


def _best(
    slots: Sequence[Array], scores: Sequence[Array], proposals: Sequence[Array], k: int
) -> tuple[Array, ...]:
    slots_QC, scores_QC, proposal_QC = (
        np.concatenate(parts, axis=1) for parts in (slots, scores, proposals)
    )
    return top_k(slots_QC, scores_QC, k, proposal_QC)


def merged_lookups(
    found: Mapping[int, tuple[list[Slots], Array]], shards: int, limit: int
) -> LookupResult:
    """The first `limit` slots of each value: of each shard by number, rows by value and `more`."""
    slots = [[rows * shards + s for rows in part] for s, (part, _) in found.items()]
    return _lookup(slots, [more_Q for _, more_Q in found.values()], limit)


def joined_lookups(parts: Sequence[LookupResult], limit: int) -> LookupResult:
    """The first `limit` slots of each value over parts of the shards."""
    slots = [np.split(part.slots, part.offsets[1:-1]) for part in parts]
    values = len(parts[0].cursor)
    return _lookup([part[:values] for part in slots], [p.truncated_Q for p in parts], limit)


def _lookup(slots: Sequence[list[Slots]], more: Sequence[Array], limit: int) -> LookupResult:
    """Of each part, its slots by value, rising, and whether it has more."""
    lists, more_Q = slots[0], more[0]
    if len(slots) > 1:
        merged = [np.sort(np.concatenate(parts)) for parts in zip(*slots, strict=True)]
        more_Q = np.any(more, axis=0)
        more_Q |= np.array([len(slots_R) > limit for slots_R in merged], bool)
        lists = [slots_R[:limit] for slots_R in merged]
    offsets = np.concatenate([[0], np.cumsum([len(slots_R) for slots_R in lists])]).astype(np.int64)
    flat = np.concatenate(lists) if lists else np.empty(0, np.int64)
    next_Q = np.full(len(lists), NO_SLOT, np.int64)
    next_Q[more_Q] = flat[offsets[1:][more_Q] - 1] + 1
    return LookupResult(slots=flat, offsets=offsets, truncated_Q=more_Q, cursor=next_Q)


def first_rows(first_Q: Slots | None, shard: int, shards: int) -> Slots | None:
    """The first row of a shard at or behind each slot; none behind `NO_SLOT`."""
    if first_Q is None:
        return None
    rows_Q = -((shard - first_Q) // shards)
    return np.where(first_Q == NO_SLOT, np.iinfo(np.int64).max, rows_Q)


def rejoined(places: Sequence[Slots], arrays: Sequence[Array], whole: Array) -> Array:
    """What each part of a call gave, where it stands in the call: in `whole`, if there are more."""
    if len(places) == 1:
        return arrays[0]
    for at, array in zip(places, arrays, strict=True):
        whole[at] = array
    return whole


def rejoined_records(places: Sequence[Slots], tables: Sequence[pa.Table]) -> pa.Table:
    """The records of at least one part, in the order of the call."""
    if len(places) == 1:
        return tables[0]
    return pa.concat_tables(tables).take(np.argsort(np.concatenate(places))).combine_chunks()


def least(slots: Sequence[Slots], priorities: Sequence[Array], count: int) -> tuple[Slots, Array]:
    """Of what several gave, up to `count` slots of smallest (priority, slot), in that order."""
    all_slots = np.concatenate([np.empty(0, np.int64), *slots])
    all_priorities = np.concatenate([np.empty(0, np.float64), *priorities])
    first = np.lexsort((all_slots, all_priorities))[:count]
    return all_slots[first], all_priorities[first]
