"""Rows that come unlike those before, asked for all along: recall stays, and lists fit again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig, Proposal, SearchOptions
from memstore.index import tuning
from memstore.memory import Array
from tests.benchmarks.data import grouped

WIDTH, GROUPS, ROWS = 16, 8, 24_000


def recall(memory: memstore.Memory, queries_QD: Array) -> float:
    found = memory.search(queries_QD, 10)
    exact = memory.search(queries_QD, 10, SearchOptions(exact=True))
    return float((found.scores_QK >= exact.scores_QK[:, -1:]).mean())


def test_recall_stays_while_groups_of_rows_come(tmp_path: Path) -> None:
    keys_ND, queries_QD = grouped(ROWS, 256, GROUPS, width=WIDTH)
    index = IndexConfig(recall_target=0.95, fresh_limit=512, maintenance="inline")
    with memstore.open(tmp_path, fsync="never") as store:
        memory = store.create("m", MemoryConfig(dim=WIDTH, index=index))
        for number, keys in enumerate(np.split(keys_ND, GROUPS)):
            memory.append(keys)
            found = recall(memory, queries_QD)
            # Before the first queries nobody knew what would be asked.
            assert found >= 0.9 or number == 0, number
        for _ in range(30):
            memory.search(queries_QD, 10)
        tuned = memory.shards[0].index  # type: ignore[attr-defined]
        assert tuned.excess_s > 0
        tuned.excess_s = 1e9  # as after very many searches
        memory.append(keys_ND[: ROWS // GROUPS] + np.float32(0.01))
        state = memory.describe().shards[0]
        assert tuned.excess_s < 1
        assert state.probe < state.clusters / 2
        assert recall(memory, queries_QD) >= 0.9


def test_where_lists_cost_more_all_rows_are_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(9_000, 32)).astype(np.float32)
    queries = rng.normal(size=(256, 32)).astype(np.float32)
    with memstore.open(tmp_path, fsync="never") as store:
        index = IndexConfig(recall_target=0.99, maintenance="inline")
        memory = store.create("m", MemoryConfig(dim=32, index=index))
        memory.append(noise)
        memory.search(queries, 10)
        memory.reindex()
        state = memory.describe().shards[0]
        assert state.probe > state.clusters / 4  # noise has no clusters
        many, one = memory.search(queries, 10), memory.search(queries[:1], 10)
        assert (many.proposal_QK == Proposal.EXACT).all()
        assert (one.proposal_QK == Proposal.SEALED).all()
        told = memory.search(queries, 10, SearchOptions(probe=state.probe))
        assert (told.proposal_QK == Proposal.SEALED).all()
        exact = memory.search(queries, 10, SearchOptions(exact=True))
        np.testing.assert_array_equal(many.slots_QK, exact.slots_QK)
        assert many.scored_Q.tolist() == [len(noise)] * len(queries)


def test_the_first_queries_are_kept_sooner() -> None:
    recent, queries = tuning.Recent(4), np.arange(4_000, dtype=np.float32).reshape(1_000, 4)
    for call in range(4):
        assert not recent.enough()
        recent.saw(queries[64 * call : 64 * call + 64])
    assert recent.enough()
    before = recent.take()
    recent.saw(queries[-64:])
    assert (recent.take() != before).any(axis=1).sum() == 8
