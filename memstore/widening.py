"""Widens what a search found to the candidates that training wants: less bias, more rows trained.

In Hierarchical Memory Networks (Chandar et al. 2016, arXiv 1605.07427) a reader that trains on
the few clusters nearest to each query ("Top-K") sees the same rows again and again, and its
softmax leaves out all others. Against that the paper takes together what the queries of a
mini-batch found, samples clusters by the score of their centroids ("Sample-K", leaving out those
of Top-K) and adds a block of rows drawn uniformly ("Rand-block"). Here Top-K are the k best rows
and not whole clusters; a sampled cluster gives its best rows for the same reason; and single rows
are drawn, not blocks, so that the draw has nothing to do with how rows are laid out in shards.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from memstore import routing
from memstore.config import MemoryConfig
from memstore.errors import Unsupported
from memstore.filters import Filter
from memstore.kernels.topk import drop_repeats, top_k
from memstore.memory import NO_SLOT, Array, Proposal, SearchOptions, SearchResult, Slots
from memstore.shard.shard import Shard

ADDED = (Proposal.SAMPLED_CLUSTER, Proposal.UNION, Proposal.RANDOM)
"""Where a candidate comes from that is none of the query's own k best, the first that gave it."""

ROUNDS = 6
"""Rounds of drawing slot numbers, two for each that is missing at first. Where under a tenth of
the numbers ever given are still there, or pass, they run out, and the live slots are listed."""

FEW = 4
"""Slots are drawn by number while there are more than FEW times as many numbers."""


class Candidates(Protocol):
    """Where candidates come from: all shards of a memory, or some of them."""

    def sampled(
        self, queries_QD: Array, k: int, options: SearchOptions, seed: int
    ) -> tuple[Slots, Array, npt.NDArray[np.int64]]:
        """The k best slots a query of sampled clusters, `[Q, K]`, their scores, and how many rows
        it was compared with."""

    def standing(self, slots_B: Slots, tree: Filter | None) -> npt.NDArray[np.bool_]:
        """Which slots are there and pass."""

    def live_passing(self, tree: Filter | None) -> Slots:
        """All slots that are there and pass."""

    def scored(
        self, queries_QD: Array, slots_QC: Slots, tree: Filter | None
    ) -> tuple[Slots, Array, npt.NDArray[np.int64]]:
        """Of slots that are here, those that are there and pass, and their scores as the rows are
        now; `NO_SLOT` and −∞ for all others. And the row version of each shard, −1 elsewhere."""


def check(name: str, config: MemoryConfig, options: SearchOptions) -> None:
    """Raises `Unsupported` where there are no clusters to sample."""
    if options.sample_clusters and not config.index_config.sealed:
        raise Unsupported(
            f"memory {name!r} has no clusters to sample",
            got=f"sample_clusters={options.sample_clusters}",
            hint="every row is scored; sample_random adds some to the k best",
        )


def widen(
    source: Candidates,
    next_slot: int,
    queries_QD: Array,
    found: SearchResult,
    options: SearchOptions,
) -> SearchResult:
    """Adds to the k best of each query what `options` ask for, and scores all of it anew."""
    queries, k = found.slots_QK.shape
    seed = secrets.randbits(63) if options.seed is None else int(options.seed)
    sampled_QK, tried_Q = np.full((queries, k), NO_SLOT), np.zeros(queries, np.int64)
    if options.sample_clusters:
        sampled_QK, _, tried_Q = source.sampled(queries_QD, k, options, seed)
    union_U = np.empty(0, np.int64)
    if options.union:
        union_U = np.unique(np.concatenate([found.slots_QK.ravel(), sampled_QK.ravel()]))
    rng = np.random.default_rng([0, seed])
    random_R = random_slots(source, next_slot, options.sample_random, options.filter, rng)
    shared = [np.broadcast_to(slots_S, (queries, len(slots_S))) for slots_S in (union_U, random_R)]
    # What proposed a slot first is what it is marked with: of equal slots the first is kept.
    slots = [found.slots_QK, sampled_QK, *shared]
    marks = [found.proposal_QK]
    marks += [np.full(s.shape, mark, np.uint8) for s, mark in zip(slots[1:], ADDED, strict=True)]
    slots_QC, proposal_QC = drop_repeats(np.concatenate(slots, 1), np.concatenate(marks, 1))
    slots_QC, scores_QC, row_versions_S = source.scored(queries_QD, slots_QC, options.filter)
    added_QC = (slots_QC != NO_SLOT) & (proposal_QC >= Proposal.UNION)
    counts_Q = (slots_QC != NO_SLOT).sum(axis=1)
    width = max(k, int(counts_Q.max(initial=0)))
    slots_QK, scores_QK, proposal_QK = top_k(slots_QC, scores_QC, width, proposal_QC)
    return SearchResult(
        slots_QK=slots_QK,
        scores_QK=scores_QK,
        counts_Q=counts_Q,
        proposal_QK=proposal_QK,
        scored_Q=found.scored_Q + tried_Q + added_QC.sum(axis=1),
        row_versions_S=row_versions_S,
        index_versions_S=found.index_versions_S,
    )


def random_slots(
    source: Candidates,
    next_slot: int,
    count: int,
    tree: Filter | None,
    rng: np.random.Generator,
) -> Slots:
    """Draws live slots that pass, uniformly without replacement; all of them where there are fewer.

    The draw depends on `rng` and on which slots these are, not on the number of shards. Numbers
    are drawn from all slots ever given until enough of them stand, so that it costs no more in
    a large memory; only where hardly any do are the live ones listed.
    """
    taken = np.empty(0, np.int64)
    rounds = ROUNDS if count * FEW < next_slot else 0
    for _ in range(rounds):
        if len(taken) >= count:
            return taken[:count]
        drawn_B = rng.integers(0, next_slot, 2 * count)
        taken = np.concatenate([taken, drawn_B[source.standing(drawn_B, tree)]])
        taken = taken[np.sort(np.unique(taken, return_index=True)[1])]
    if len(taken) >= count:
        return taken[:count]
    rest = np.setdiff1d(source.live_passing(tree), taken, assume_unique=True)
    more = rng.choice(np.sort(rest), min(count - len(taken), len(rest)), replace=False)
    return np.concatenate([taken, more])


class ShardCandidates:
    """The candidates of shards in this process.  count: of all shards of the memory."""

    def __init__(self, shards: Sequence[Shard], count: int) -> None:
        self._shards, self._count = shards, count

    def sampled(
        self, queries_QD: Array, k: int, options: SearchOptions, seed: int
    ) -> tuple[Slots, Array, npt.NDArray[np.int64]]:
        slots, scores, tried = [], [], []
        for shard in self._shards:
            rng = np.random.default_rng([1, shard.number, seed])
            rows_QK, scores_QK, tried_Q = shard.sample(queries_QD, k, options, rng)
            slots.append(routing.slots_of(rows_QK, shard.number, self._count))
            scores.append(scores_QK)
            tried.append(tried_Q)
        best = top_k(np.concatenate(slots, axis=1), np.concatenate(scores, axis=1), k)
        return best[0], best[1], np.sum(tried, axis=0)

    def standing(self, slots_B: Slots, tree: Filter | None) -> npt.NDArray[np.bool_]:
        standing_B = np.zeros(len(slots_B), bool)
        for shard in self._shards:
            rows_B = self._rows(shard, slots_B)
            shard.strike(rows_B, tree)
            standing_B |= rows_B != NO_SLOT
        return standing_B

    def live_passing(self, tree: Filter | None) -> Slots:
        rows = [shard.live(tree) * self._count + shard.number for shard in self._shards]
        return np.concatenate(rows)

    def scored(
        self, queries_QD: Array, slots_QC: Slots, tree: Filter | None
    ) -> tuple[Slots, Array, npt.NDArray[np.int64]]:
        found_QC = np.full(slots_QC.shape, NO_SLOT)
        scores_QC = np.full(slots_QC.shape, -np.inf, queries_QD.dtype)
        versions_S = np.full(self._count, routing.NOT_SEARCHED)
        for shard in self._shards:
            rows_QC = self._rows(shard, slots_QC)
            own_QC = rows_QC != NO_SLOT
            part_QC, versions_S[shard.number] = shard.score(queries_QD, rows_QC, tree)
            scores_QC[own_QC] = part_QC[own_QC]
            found_QC = np.where(rows_QC != NO_SLOT, slots_QC, found_QC)
        return found_QC, scores_QC, versions_S

    def _rows(self, shard: Shard, slots_QC: Slots) -> Slots:
        """The rows of those slots that live in the shard; `NO_SLOT` for others."""
        here_QC = (slots_QC % self._count == shard.number) & (slots_QC != NO_SLOT)
        return np.where(here_QC, slots_QC // self._count, NO_SLOT)
