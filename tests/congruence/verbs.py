"""Verbs: any run of the verbs of a memory with rows of its own, beside the oracle."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import memstore
from memstore import NO_SLOT, Filter, Memory, MemoryConfig, SearchOptions, SearchResult
from memstore.dtypes import counting, storage
from memstore.index import two_tier
from memstore.memory import Array
from tests.congruence.drawn import (
    EVERY_LIST,
    RECORDS,
    configs,
    counts,
    filters,
    grid,
    ks,
    make_records,
    picks,
    seeds,
    widenings,
)
from tests.congruence.oracle import Oracle, best, fingerprint, inner_products, live_slots, settle
from tests.congruence.widened import check_widened


def check_found(result: SearchResult, scores_QN: Array, slots_N: list[int], k: int) -> None:
    """Each slot found is alive, scored as it is now, in order, and found once."""
    scores = [dict(zip(slots_N, scores_N, strict=True)) for scores_N in scores_QN]
    for q, count in enumerate(result.counts_Q):
        slots = result.slots_QK[q].tolist()
        found, rest = slots[:count], slots[count:]
        assert set(found) <= set(slots_N)
        assert best(np.array(found, int), np.array([scores[q][slot] for slot in found]), k) == (
            slots,
            result.scores_QK[q].tolist(),
        )
        assert len(set(found)) == len(found)
        assert rest == [NO_SLOT] * (k - count)
        assert (result.proposal_QK[q] == 0).tolist() == [False] * len(found) + [True] * len(rest)


def search_widely(
    memory: Memory,
    queries_QD: Array,
    k: int,
    tree: Filter | None,
    more: dict[str, Any],
    scores_QN: Array,
    slots_N: list[int],
) -> None:
    """Searches with what training adds, twice, and compares with the plain search."""
    kind = memory.config.index_config.kind
    plain = SearchOptions(exact=kind == "none", filter=tree)
    clusters = more["sample_clusters"] if memory.config.index_config.sealed else 0
    options = replace(plain, **more | {"sample_clusters": clusters})
    settle(memory)
    own, result = memory.search(queries_QD, k, plain), memory.search(queries_QD, k, options)
    check_found(result, scores_QN, slots_N, result.slots_QK.shape[1])
    check_widened(result, own, options, slots_N, k)
    for name, array in vars(memory.search(queries_QD, k, options)).items():
        np.testing.assert_array_equal(getattr(result, name), array, err_msg=name)


class Verbs(RuleBasedStateMachine):
    """A memory with rows of its own, beside the oracle."""

    opened: Any = staticmethod(memstore.open)

    @initialize(config=configs)
    def make(self, config: MemoryConfig) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="memstore-")
        self.store = self.opened(self.folder.name)
        self.memory = self.store.create("m", config)
        self.oracle = Oracle(config)
        self.config = config
        self.dtype = storage(config.dtype)
        self.as_sealed = True
        """Whether no sealed row was updated since it was sealed."""

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    def keys(self, seed: int, rows: int) -> Array:
        return grid(seed, rows, self.config.dim, self.config.dtype)

    def queries(self, seed: int, rows: int) -> Array:
        return grid(seed, rows, self.config.dim, self.config.dtype).astype(counting(self.dtype))

    def values(self, seed: int, rows: int) -> Array | None:
        width = self.config.value_dim
        return None if width is None else grid(seed + 1, rows, width, self.config.dtype)

    def records(self, seed: int, rows: int) -> dict[str, list] | None:
        return make_records(seed, rows) if self.config.records else None

    def pick(self, wanted: list[int]) -> list[int]:
        slots = self.oracle.slots
        return [slots[i % len(slots)] for i in wanted] if slots else []

    @rule(count=counts, seed=seeds)
    def append(self, count: int, seed: int) -> None:
        keys, values = self.keys(seed, count), self.values(seed, count)
        records = self.records(seed, count)
        slots = self.memory.append(keys, values, records)
        assert slots.dtype == np.int64
        assert slots.tolist() == self.oracle.append(keys, values, records or {})

    @rule(wanted=picks, seed=seeds, what=st.sets(st.sampled_from(["keys", "values", "records"])))
    def write(self, wanted: list[int], seed: int, what: set[str]) -> None:
        slots = list(dict.fromkeys(self.pick(wanted)))
        parts: dict[str, Any] = {
            "keys": self.keys(seed, len(slots)),
            "values": self.values(seed, len(slots)),
            "records": self.records(seed, len(slots)),
        }
        parts = {name: part for name, part in parts.items() if name in what and part is not None}
        if parts:
            assert self.memory.write(np.array(slots, int), **parts).applied == len(slots)
            self.oracle.write(slots, **parts)

    @rule(wanted=picks, seed=seeds, lr=st.sampled_from([None, 0.0, 0.5]), both=st.booleans())
    def update(self, wanted: list[int], seed: int, lr: float | None, both: bool) -> None:
        slots = self.pick(wanted)
        keys, values = self.queries(seed, len(slots)), self.values(seed, len(slots))
        wide = None if values is None else values.astype(counting(self.dtype))
        grads = (keys, wide if both else None)
        applied = self.memory.update(np.array(slots, int), *grads, lr=lr)
        rate = self.config.optimizer_config.lr if lr is None else lr
        assert applied.applied == self.oracle.update(slots, *grads, rate)
        self.oracle.settle(slots, self.memory)
        self.as_sealed = False

    @rule(wanted=picks)
    def erase(self, wanted: list[int]) -> None:
        slots = list(dict.fromkeys(self.pick(wanted)))
        assert self.memory.erase(np.array(slots, int)).applied == len(slots)
        self.oracle.erase(slots)

    @rule()
    def reindex(self) -> None:
        self.memory.reindex()
        self.as_sealed = True

    @rule(seed=seeds, queries=st.integers(0, 4), k=ks)
    def search_exactly(self, seed: int, queries: int, k: int) -> None:
        queries_QD = self.queries(seed, queries)
        options = SearchOptions(exact=self.config.index_config.kind != "exact")
        result = self.memory.search(queries_QD, k, options)
        # The scores of the rows as gathered: those of the oracle may differ in the last bit.
        slots = self.oracle.slots
        scores_QN = inner_products(queries_QD, self.gathered(slots))
        expected = [best(np.array(slots), scores_N, k) for scores_N in scores_QN]
        assert result.slots_QK.tolist() == [slots for slots, _ in expected]
        assert result.scores_QK.tolist() == [scores for _, scores in expected]
        _, oracle_scores = self.oracle.search(queries_QD, k)
        np.testing.assert_allclose(
            result.scores_QK, np.reshape(oracle_scores, (queries, k)), rtol=1e-4, atol=1e-4
        )

    @precondition(lambda self: self.config.index_config.sealed)
    @rule(seed=seeds, k=ks, probe=st.sampled_from([None, 1, 2, EVERY_LIST]))
    def search_lists(self, seed: int, k: int, probe: int | None) -> None:
        queries_QD = self.queries(seed, 3)
        result = self.memory.search(queries_QD, k, SearchOptions(probe=probe))
        slots = self.oracle.slots
        scores_QN = inner_products(queries_QD, self.gathered(slots))
        check_found(result, scores_QN, slots, k)
        if probe == EVERY_LIST:
            shards = self.memory.describe().shards
            sealed = max(shard.sealed for shard in shards)
            if result.index_versions_S.tolist() != [shard.index_version for shard in shards]:
                sealed = EVERY_LIST  # It was sealed in between, and had more rows before perhaps.
            expected = [best(np.array(slots), scores_N, k) for scores_N in scores_QN]
            if sealed <= k + k // 2 + 8:  # the index proposes every row it holds
                assert result.slots_QK.tolist() == [slots for slots, _ in expected]
            if self.as_sealed and self.config.index_config.codec == "flat":
                assert result.scores_QK.tolist() == [scores for _, scores in expected]

    @precondition(lambda self: bool(self.config.records))
    @rule(tree=filters, seed=seeds, k=ks, exact=st.booleans())
    def search_filtered(self, tree: Filter, seed: int, k: int, exact: bool) -> None:
        # So few rows pass that all of them are scored: exact, whatever the index.
        queries_QD = self.queries(seed, 2)
        exact = exact or self.config.index_config.kind == "none"
        result = self.memory.search(queries_QD, k, SearchOptions(exact=exact, filter=tree))
        slots = self.oracle.passing(tree)
        scores_QN = inner_products(queries_QD, self.gathered(slots))
        expected = [best(np.array(slots), scores_N, k) for scores_N in scores_QN]
        assert result.slots_QK.tolist() == [slots for slots, _ in expected]
        assert result.scores_QK.tolist() == [scores for _, scores in expected]
        assert result.scored_Q.tolist() == [len(slots)] * 2

    @precondition(lambda self: self.config.records and self.config.index_config.sealed)
    @rule(tree=filters, seed=seeds, k=ks, probe=st.sampled_from([None, 1, EVERY_LIST]))
    def search_filtered_lists(self, tree: Filter, seed: int, k: int, probe: int | None) -> None:
        queries_QD = self.queries(seed, 3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(two_tier.TwoTierIndex, "scans", lambda *_: False)
            result = self.memory.search(queries_QD, k, SearchOptions(probe=probe, filter=tree))
        slots = self.oracle.passing(tree)
        check_found(result, inner_products(queries_QD, self.gathered(slots)), slots, k)
        assert result.counts_Q.tolist() == [min(k, len(slots))] * 3

    @rule(tree=st.none() | filters, seed=seeds, queries=st.integers(0, 4), k=ks, more=widenings)
    def search_for_training(
        self, tree: Filter | None, seed: int, queries: int, k: int, more: dict[str, Any]
    ) -> None:
        tree = tree if self.config.records else None
        slots = self.oracle.slots if tree is None else self.oracle.passing(tree)
        queries_QD = self.keys(seed, queries)
        scores_QN = inner_products(queries_QD, self.gathered(slots))
        search_widely(self.memory, queries_QD, k, tree, more | {"seed": seed}, scores_QN, slots)

    def gathered(self, slots: list[int]) -> Array:
        keys_ND = self.memory.gather(np.array(slots, int)).keys_BD
        assert keys_ND is not None
        assert keys_ND.dtype == self.dtype
        return keys_ND.astype(counting(self.dtype))

    @rule(wanted=picks, list_limit=st.sampled_from([None, 1, 2]), vectors=st.booleans())
    def gather(self, wanted: list[int], list_limit: int | None, vectors: bool) -> None:
        slots = self.pick(wanted)
        columns = list(self.config.records)[::-1]
        rows = self.memory.gather(
            np.array(slots, int), vectors=vectors, columns=columns, list_limit=list_limit
        )
        assert rows.slots_B.tolist() == slots
        assert (rows.keys_BD is not None) == vectors
        if vectors:
            assert rows.keys_BD is not None
            self.check_close(rows.keys_BD, self.oracle.keys(slots))
        if columns:
            assert rows.records is not None
            assert rows.records.column_names == columns
            for name in columns:
                held = [self.oracle.rows[slot].record[name] for slot in slots]
                cut = [item[:list_limit] if isinstance(item, list) else item for item in held]
                assert rows.records[name].to_pylist() == cut

    @precondition(lambda self: bool(self.config.records))
    @rule(column=st.sampled_from(list(RECORDS)), seed=seeds, limit=st.integers(1, 6))
    def lookup(self, column: str, seed: int, limit: int) -> None:
        texts = RECORDS[column] in ("string", "list<string>")
        asked = make_records(seed, 4)["name" if texts else "number"] + (["zz"] if texts else [99])
        result = self.memory.lookup(column, asked, limit)
        expected = [self.oracle.lookup(column, value, limit) for value in asked]
        found = np.split(result.slots, result.offsets[1:-1])
        assert [slots.tolist() for slots in found] == [slots for slots, _ in expected]
        assert result.truncated_Q.tolist() == [more for _, more in expected]
        padded = [row[row != NO_SLOT].tolist() for row in result.padded(limit)]
        assert padded == [slots for slots, _ in expected]

    @precondition(lambda self: bool(self.config.records))
    @rule(
        column=st.sampled_from(list(RECORDS)),
        seed=seeds,
        limit=st.integers(1, 4),
        first=st.lists(st.integers(-1, 40), min_size=4, max_size=4),
    )
    def lookup_from(self, column: str, seed: int, limit: int, first: list[int]) -> None:
        texts = RECORDS[column] in ("string", "list<string>")
        asked = make_records(seed, 4)["name" if texts else "number"]
        result = self.memory.lookup(column, asked, limit, first)
        expected = [
            ([], False) if start == NO_SLOT else self.oracle.lookup(column, value, limit, start)
            for value, start in zip(asked, first, strict=True)
        ]
        found = np.split(result.slots, result.offsets[1:-1])
        assert [slots.tolist() for slots in found] == [slots for slots, _ in expected]
        after = [slots[-1] + 1 if more else NO_SLOT for slots, more in expected]
        assert result.cursor.tolist() == after

    @rule(seed=seeds)
    def reopen(self, seed: int) -> None:
        queries_QD = self.queries(seed, 2)
        options = SearchOptions(exact=self.config.index_config.kind == "none")
        settle(self.memory)
        before = fingerprint(self.memory), self.memory.search(queries_QD, 7, options)
        self.store.close()
        self.store = self.opened(self.folder.name)
        self.memory = self.store.memory("m")
        after = fingerprint(self.memory), self.memory.search(queries_QD, 7, options)
        assert after[0] == before[0]
        for name, array in vars(before[1]).items():
            np.testing.assert_array_equal(getattr(after[1], name), array, err_msg=name)

    @invariant()
    def agree(self) -> None:
        slots = self.oracle.slots
        assert self.memory.describe().next_slot == self.oracle.next_slot
        assert self.memory.describe().rows == len(slots)
        assert live_slots(self.memory).tolist() == slots
        rows = self.memory.gather(np.array(slots, int))
        assert rows.keys_BD is not None
        self.check_close(rows.keys_BD, self.oracle.keys(slots))
        assert (rows.values_BV is None) == (self.config.value_dim is None)
        if rows.values_BV is not None:
            self.check_close(rows.values_BV, self.oracle.values(slots))

    def check_close(self, found_BX: Array, expected_BX: Array) -> None:
        """The rows of the oracle, exactly so where they are narrow."""
        assert found_BX.dtype == expected_BX.dtype
        tolerance = 1e-5 if counting(self.dtype) == self.dtype else 0.0
        np.testing.assert_allclose(
            found_BX.astype(np.float64),
            expected_BX.astype(np.float64),
            rtol=tolerance,
            atol=tolerance,
        )
