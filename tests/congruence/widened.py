"""What a search for training must give, told from the plain search of the same memory."""

from __future__ import annotations

import numpy as np

from memstore import NO_SLOT, Proposal, SearchOptions, SearchResult
from memstore.memory import Array


def by_mark(result: SearchResult, *marks: Proposal) -> list[set[int]]:
    """The slots of each query that came by one of the marks."""
    chosen_QK = np.isin(result.proposal_QK, marks)
    pairs = zip(result.slots_QK, chosen_QK, strict=True)
    return [set(slots_K[chosen_K].tolist()) for slots_K, chosen_K in pairs]


def check_widened(
    result: SearchResult, plain: SearchResult, options: SearchOptions, slots_N: list[int], k: int
) -> None:
    """The k best of each query are there as the plain search has them, and besides them what the
    options ask for, no more and no less. slots_N: those that may be found."""
    queries = range(len(plain.slots_QK))
    assert result.slots_QK.shape[1] == max(k, result.counts_Q.max(initial=0))
    own = by_mark(result, Proposal.SEALED, Proposal.FRESH, Proposal.EXACT)
    assert own == [set(slots[slots != NO_SLOT].tolist()) for slots in plain.slots_QK]
    assert tiers(result) == tiers(plain)
    sampled = by_mark(result, Proposal.SAMPLED_CLUSTER)
    assert all(len(slots) <= k for slots in sampled)
    assert options.sample_clusters or not any(sampled)

    union = set().union(*own, *sampled) if options.union else set()
    others = by_mark(result, Proposal.UNION)
    assert others == [union - own[q] - sampled[q] for q in queries]
    random = by_mark(result, Proposal.RANDOM)
    drawn = min(options.sample_random, len(slots_N))
    assert len(set().union(*random)) <= drawn
    for q in queries:
        found = own[q] | sampled[q] | others[q]
        assert drawn - len(found) <= len(random[q]) <= min(drawn, len(slots_N) - len(found))
        assert result.counts_Q[q] == len(found) + len(random[q])
    if options.sample_random >= len(slots_N):
        assert result.counts_Q.tolist() == [len(slots_N)] * len(queries)
    assert (result.scored_Q >= plain.scored_Q).all()
    same(result.row_versions_S, plain.row_versions_S)
    same(result.index_versions_S, plain.index_versions_S)


def tiers(result: SearchResult) -> list[dict[int, int]]:
    """Which tier gave each of the k best of a query."""
    pairs = zip(result.slots_QK.tolist(), result.proposal_QK.tolist(), strict=True)
    return [
        {s: mark for s, mark in zip(slots, marks, strict=True) if 0 < mark <= Proposal.EXACT}
        for slots, marks in pairs
    ]


def same(found: Array, expected: Array) -> None:
    np.testing.assert_array_equal(found, expected)
