"""Slot → shard: splits the slots of a call by shard, and merges what the shards give back.

Shard i of S holds the slots with `slot % S == i`, each under the row number `slot // S`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from memstore.kernels.topk import top_k
from memstore.memory import NO_SLOT, Array, LookupResult, SearchResult, Slots
from memstore.shard.reading import ShardResult


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


def merged_results(found: Sequence[ShardResult], k: int) -> SearchResult:
    """The k best of what all shards found, shard by shard."""
    shards = len(found)
    if shards == 1:
        # Its rows are the slots, and the best of them already.
        only = found[0]
        best: tuple[Array, ...] = (only.rows_QK, only.scores_QK, only.proposal_QK)
    else:
        slots = [slots_of(part.rows_QK, s, shards) for s, part in enumerate(found)]
        scores = [part.scores_QK for part in found]
        proposals = [part.proposal_QK for part in found]
        slots_QC, scores_QC, proposal_QC = (
            np.concatenate(parts, axis=1) for parts in (slots, scores, proposals)
        )
        best = top_k(slots_QC, scores_QC, k, proposal_QC)
    slots_QK, scores_QK, proposal_QK = best
    return SearchResult(
        slots_QK=slots_QK,
        scores_QK=scores_QK,
        counts_Q=(slots_QK != NO_SLOT).sum(axis=1),
        proposal_QK=proposal_QK,
        scored_Q=np.sum([part.scored_Q for part in found], axis=0),
        row_versions_S=np.array([part.row_version for part in found], np.int64),
        index_versions_S=np.array([part.index_version for part in found], np.int64),
    )


def merged_lookups(found: Sequence[tuple[list[Slots], Array]], limit: int) -> LookupResult:
    """The first `limit` slots of each value over all shards: of each, rows by value and `more`."""
    shards = len(found)
    lists, more_Q = found[0]
    if shards > 1:
        slots = [[rows * shards + s for rows in part] for s, (part, _) in enumerate(found)]
        merged = [np.sort(np.concatenate(parts)) for parts in zip(*slots, strict=True)]
        more_Q = np.any([more for _, more in found], axis=0)
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
