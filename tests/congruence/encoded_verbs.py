"""EncodedVerbs: any run of the verbs of an encoded memory and its parts, beside the oracle."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import memstore
from memstore import (
    EncodingConfig,
    Filter,
    IndexConfig,
    MemoryConfig,
    OptimizerConfig,
    SearchOptions,
)
from memstore.dtypes import counting, storage
from memstore.memory import Array
from tests.congruence.drawn import (
    EVERY_LIST,
    counts,
    dtypes,
    fact_filters,
    grid,
    indexes,
    ks,
    picks,
    seeds,
    widenings,
)
from tests.congruence.oracle import (
    EncodedOracle,
    Oracle,
    SummedOracle,
    best,
    fingerprint,
    inner_products,
    live_slots,
    settle,
)
from tests.congruence.verbs import check_found, search_widely


class EncodedVerbs(RuleBasedStateMachine):
    """A memory of facts over two memories of parts, beside the oracle."""

    opened: Any = staticmethod(memstore.open)
    stored = True

    @staticmethod
    def fact_shards(shards: int) -> int:
        return 4 - shards

    @initialize(
        shards=st.sampled_from([1, 3]),
        dtype=dtypes,
        index=indexes,
        kind=st.sampled_from(["int64", "list<int64>"]),
    )
    def make(self, shards: int, dtype: Any, index: IndexConfig, kind: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="memstore-")
        self.store = self.opened(self.folder.name)
        part = MemoryConfig(
            dim=5, dtype=dtype, shards=shards, index="none", optimizer=OptimizerConfig(kind="sgd")
        )
        fact = MemoryConfig(
            dim=5,
            dtype=dtype,
            shards=self.fact_shards(shards),
            index=index,
            records={"subject": "int64", "relation": "int64", "object": kind},
            lookup=("subject", "object"),
            encoding=EncodingConfig(
                key={"subject": "entities", "relation": "relations"},
                value={"object": "entities"},
                stored=self.stored,
            ),
        )
        self.config = fact
        configurations = {"entities": part, "relations": part, "facts": fact}
        self.memories = {n: self.store.create(n, c) for n, c in configurations.items()}
        self.parts = {"entities": Oracle(part), "relations": Oracle(part)}
        self.facts = (EncodedOracle if self.stored else SummedOracle)(fact, self.parts)
        for name in self.parts:
            self.append_parts(name, 3, 0)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    def grid(self, seed: int, rows: int) -> Array:
        return grid(seed, rows, 5, self.config.dtype)

    def queries(self, seed: int, rows: int) -> Array:
        return self.grid(seed, rows).astype(counting(storage(self.config.dtype)))

    def make_facts(self, seed: int, rows: int) -> dict[str, list]:
        rng = np.random.default_rng(seed)
        entities, relations = self.parts["entities"].next_slot, self.parts["relations"].next_slot
        objects: list = rng.integers(0, entities, rows).tolist()
        if self.config.records["object"] != "int64":
            objects = [rng.integers(0, entities, rng.integers(0, 4)).tolist() for _ in objects]
        return {
            "subject": rng.integers(0, entities, rows).tolist(),
            "relation": rng.integers(0, relations, rows).tolist(),
            "object": objects,
        }

    @rule(name=st.sampled_from(["entities", "relations"]), count=st.integers(0, 5), seed=seeds)
    def append_parts(self, name: str, count: int, seed: int) -> None:
        keys = self.grid(seed, count)
        slots = self.memories[name].append(keys)
        assert slots.tolist() == self.parts[name].append(keys, None, {})

    @rule(
        name=st.sampled_from(["entities", "relations"]),
        wanted=picks,
        seed=seeds,
        step=st.booleans(),
    )
    def move_parts(self, name: str, wanted: list[int], seed: int, step: bool) -> None:
        slots = [i % self.parts[name].next_slot for i in wanted]
        slots = slots if step else list(dict.fromkeys(slots))
        change = self.grid(seed, len(slots))
        if step:
            self.memories[name].update(np.array(slots, int), change, lr=0.5)
            grads = change.astype(counting(change.dtype))
            self.parts[name].update(slots, grads, None, 0.5)
            self.parts[name].settle(slots, self.memories[name])
        else:
            self.memories[name].write(np.array(slots, int), change)
            self.parts[name].write(slots, change)

    @rule(count=counts, seed=seeds)
    def append(self, count: int, seed: int) -> None:
        records = self.make_facts(seed, count)
        slots = self.memories["facts"].append(records=records)
        assert slots.tolist() == self.facts.append(self.facts.encode(records), None, records)

    @rule(wanted=picks, seed=seeds)
    def write(self, wanted: list[int], seed: int) -> None:
        live = self.facts.slots
        slots = list(dict.fromkeys(live[i % len(live)] for i in wanted)) if live else []
        records = self.make_facts(seed, len(slots))
        self.memories["facts"].write(np.array(slots, int), records=records)
        self.facts.write(slots, self.facts.encode(records), None, records)

    @rule(wanted=picks)
    def erase(self, wanted: list[int]) -> None:
        live = self.facts.slots
        slots = list(dict.fromkeys(live[i % len(live)] for i in wanted)) if live else []
        self.memories["facts"].erase(np.array(slots, int))
        self.facts.erase(slots)

    @rule()
    def refresh(self) -> None:
        done = self.memories["facts"].refresh()
        assert done.drift_after == 0.0
        stale = self.stale() if self.stored else []  # of an index, keys do not tell
        assert len(stale) <= done.encoded <= len(self.facts.slots)
        assert bool(stale) <= (done.drift_before > 0.0)
        self.facts.encode_again(self.facts.slots)

    @rule(limit=st.integers(1, 10))
    def refresh_some(self, limit: int) -> None:
        done = self.memories["facts"].refresh(limit)
        assert done.drift_after <= done.drift_before
        if not self.stored:
            return  # Of which rows the index knows, keys do not tell.
        slots = self.facts.slots
        keys_ND = self.memories["facts"].gather(np.array(slots, int)).keys_BD
        assert keys_ND is not None
        renewed = []
        for slot, key in zip(slots, keys_ND, strict=True):
            if key.tolist() != self.facts.rows[slot].key.tolist():
                renewed.append(slot)
        assert len(renewed) <= done.encoded
        self.facts.encode_again(renewed)  # and `agree` says whether their keys are the sums now

    def stale(self) -> list[int]:
        """The slots whose key is not the sum of their parts as these are now."""
        slots = self.facts.slots
        columns = ("subject", "relation")
        records = {c: [self.facts.rows[slot].record[c] for slot in slots] for c in columns}
        now = self.facts.encode(records)
        return [
            s for s, key in zip(slots, now, strict=True) if (key != self.facts.rows[s].key).any()
        ]

    @rule(seed=seeds, k=ks)
    def search(self, seed: int, k: int) -> None:
        queries_QD = self.queries(seed, 3)
        result = self.memories["facts"].search(queries_QD, k, SearchOptions(exact=True))
        expected = self.facts.search(queries_QD, k)
        assert (result.slots_QK.tolist(), result.scores_QK.tolist()) == expected

    @precondition(lambda self: self.config.index_config.sealed)
    @rule(seed=seeds, k=ks, probe=st.sampled_from([None, EVERY_LIST]))
    def search_lists(self, seed: int, k: int, probe: int | None) -> None:
        queries_QD = self.queries(seed, 3)
        result = self.memories["facts"].search(queries_QD, k, SearchOptions(probe=probe))
        keys_ND = self.facts.keys(self.facts.slots).astype(queries_QD.dtype)
        scores_QN = inner_products(queries_QD, keys_ND)
        check_found(result, scores_QN, self.facts.slots, k)
        if probe == EVERY_LIST and self.config.index_config.codec == "flat":
            assert result.scores_QK.tolist() == self.facts.search(queries_QD, k)[1]

    @rule(tree=fact_filters, seed=seeds, k=ks)
    def search_filtered(self, tree: Filter, seed: int, k: int) -> None:
        queries_QD = self.queries(seed, 2)
        options = SearchOptions(exact=self.config.index_config.kind == "none", filter=tree)
        result = self.memories["facts"].search(queries_QD, k, options)
        slots = self.facts.passing(tree)
        scores_QN = inner_products(queries_QD, self.facts.keys(slots).astype(queries_QD.dtype))
        expected = [best(np.array(slots), scores_N, k) for scores_N in scores_QN]
        assert result.slots_QK.tolist() == [slots for slots, _ in expected]

    @rule(tree=st.none() | fact_filters, seed=seeds, k=ks, more=widenings)
    def search_for_training(
        self, tree: Filter | None, seed: int, k: int, more: dict[str, Any]
    ) -> None:
        slots = self.facts.slots if tree is None else self.facts.passing(tree)
        queries_QD, facts = self.queries(seed, 3), self.memories["facts"]
        scores_QN = inner_products(queries_QD, self.facts.keys(slots).astype(queries_QD.dtype))
        search_widely(facts, queries_QD, k, tree, more | {"seed": seed}, scores_QN, slots)

    @rule(column=st.sampled_from(["subject", "object"]), limit=st.integers(1, 4))
    def lookup(self, column: str, limit: int) -> None:
        asked = list(range(self.parts["entities"].next_slot))
        result = self.memories["facts"].lookup(column, asked, limit)
        expected = [self.facts.lookup(column, value, limit) for value in asked]
        found = np.split(result.slots, result.offsets[1:-1])
        assert [slots.tolist() for slots in found] == [slots for slots, _ in expected]
        assert result.truncated_Q.tolist() == [more for _, more in expected]

    @rule()
    def reopen(self) -> None:
        for memory in self.memories.values():
            settle(memory)
        before = {name: fingerprint(memory) for name, memory in self.memories.items()}
        self.store.close()
        self.store = self.opened(self.folder.name)
        self.memories = {name: self.store.memory(name) for name in self.memories}
        assert {name: fingerprint(memory) for name, memory in self.memories.items()} == before

    @invariant()
    def agree(self) -> None:
        for name, oracle in (*self.parts.items(), ("facts", self.facts)):
            slots = oracle.slots
            assert live_slots(self.memories[name]).tolist() == slots
            keys_ND = self.memories[name].gather(np.array(slots, int)).keys_BD
            np.testing.assert_array_equal(keys_ND, oracle.keys(slots), err_msg=name)
