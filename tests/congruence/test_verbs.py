"""Any run of verbs leaves a memory and the oracle with the same rows, records and answers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import memstore
from memstore import (
    NO_SLOT,
    And,
    Compare,
    EncodingConfig,
    Filter,
    In,
    IndexConfig,
    Memory,
    MemoryConfig,
    Not,
    OptimizerConfig,
    Or,
    SearchOptions,
    SearchResult,
)
from memstore.config import Codec, DType, OptimizerKind
from memstore.dtypes import counting, storage
from memstore.index import two_tier
from memstore.memory import Array
from tests.congruence.oracle import (
    EncodedOracle,
    Oracle,
    best,
    fingerprint,
    inner_products,
    live_slots,
    settle,
)
from tests.congruence.served import (
    AsyncPiecesStore,
    AsyncServedStore,
    AsyncSessionStore,
    PiecesStore,
    ServedStore,
    SessionStore,
)
from tests.congruence.spread import (
    AsyncSpreadStore,
    ForwardedStore,
    SpreadSessionStore,
    SpreadStore,
)
from tests.congruence.widened import check_widened

RUNS = settings(
    max_examples=30,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.generate],
)

EVERY_LIST = 1_000_000
"""More lists than any clustered index here has."""

NAMES = ["", "a", "ab", "b", "é", "日本", "a\0", "a\0b", "a name of more than 15 bytes"]
RECORDS = {
    "number": "int64",
    "small": "int32",
    "name": "string",
    "tags": "list<string>",
    "marks": "list<int64>",
}

seeds = st.integers(0, 2**20)
counts = st.integers(0, 24)
ks = st.integers(1, 12)
picks = st.lists(st.integers(0, 2**20), min_size=0, max_size=12)

numbers = {"number": st.integers(-3, 4), "small": st.integers(-1, 3)}
texts = st.sampled_from([*NAMES, "zz"])
items = numbers | {"name": texts, "tags": texts, "marks": st.integers(-1, 3)}


def trees(values: dict[str, Any]) -> st.SearchStrategy[Filter]:
    """Filters over columns of which `values` draws values."""

    def over(column: str) -> st.SearchStrategy[Filter]:
        several = column in ("tags", "marks")
        ops = st.sampled_from(["=="] if several else ["==", "!=", "<", "<=", ">", ">="])
        some = st.lists(values[column], min_size=1, max_size=3).map(tuple)
        return st.one_of(
            st.builds(Compare, st.just(column), ops, values[column]),
            st.builds(In, st.just(column), some),
        )

    def joined(child: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
        some = st.lists(child, min_size=1, max_size=3).map(tuple)
        return st.one_of(st.builds(And, some), st.builds(Or, some), st.builds(Not, child))

    return st.recursive(st.sampled_from(list(values)).flatmap(over), joined, max_leaves=5)


filters = trees(items)
fact_filters = trees({"subject": st.integers(0, 5), "relation": st.integers(0, 3)})

widenings = st.fixed_dictionaries(
    {
        "union": st.booleans(),
        "sample_clusters": st.sampled_from([0, 1, EVERY_LIST]),
        "sample_random": st.sampled_from([0, 2, 7, 10_000]),
    }
)

indexes = st.one_of(
    st.sampled_from([IndexConfig(kind="none"), IndexConfig(kind="exact")]),
    st.builds(
        IndexConfig,
        kind=st.sampled_from(["clustered", "graph", "auto"]),
        clusters=st.sampled_from([None, 1, 4]),
        probe=st.sampled_from([1, 3]),
        codec=st.sampled_from(get_args(Codec)),
        fresh_limit=st.sampled_from([4, 16]),
        maintenance=st.sampled_from(["inline", "background"]),
        drift_limit=st.sampled_from([None, 0.3]),
    ),
)
kinds = st.sampled_from(get_args(OptimizerKind))
optimizers = st.one_of(
    st.builds(OptimizerConfig, kind=kinds, lr=st.just(0.25)),
    st.builds(
        OptimizerConfig,
        kind=kinds,
        lr=st.just(0.25),
        # A gradient that decay alone makes may be a rounding error, which a small eps magnifies.
        eps=st.just(0.01),
        betas=st.sampled_from([(0.9, 0.999), (0.5, 0.5), (0.0, 0.0)]),
        weight_decay=st.sampled_from([0.0, 0.1]),
        clip_norm=st.sampled_from([None, 1.0]),
        max_norm=st.sampled_from([None, 2.0]),
    ),
)
dtypes = st.sampled_from(get_args(DType))


def with_master(config: MemoryConfig, master: bool) -> MemoryConfig:
    """Everything may be looked up; and narrow rows may have a master."""
    values = config.to_dict() | {"lookup": list(config.records)}
    values["optimizer"]["master"] = master and config.dtype in ("float16", "bfloat16")
    return MemoryConfig.from_dict(values)


configs = st.builds(
    MemoryConfig,
    dim=st.sampled_from([1, 5, 35]),
    value_dim=st.sampled_from([None, 2]),
    dtype=dtypes,
    shards=st.sampled_from([1, 3]),
    records=st.sampled_from([{}, RECORDS]),
    index=indexes,
    optimizer=optimizers,
    storage=st.sampled_from(["memory", "mapped"]),
).map(lambda config: MemoryConfig.from_dict(config.to_dict() | {"lookup": list(config.records)}))
configs = st.builds(with_master, configs, st.booleans())


def grid(seed: int, rows: int, width: int, dtype: str) -> Array:
    """Rows of small quarters: sums of products are exact, and equal scores are common."""
    return (np.random.default_rng(seed).integers(-6, 7, (rows, width)) / 4).astype(storage(dtype))


def make_records(seed: int, rows: int) -> dict[str, list]:
    rng = np.random.default_rng(seed)
    return {
        "number": rng.integers(-2, 3, rows).tolist(),
        "small": rng.integers(0, 3, rows).tolist(),
        "name": [NAMES[i] for i in rng.integers(0, len(NAMES), rows)],
        "tags": [[NAMES[i] for i in rng.integers(0, 4, rng.integers(0, 4))] for _ in range(rows)],
        "marks": [rng.integers(0, 3, rng.integers(0, 4)).tolist() for _ in range(rows)],
    }


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


class EncodedVerbs(RuleBasedStateMachine):
    """A memory of facts over two memories of parts, beside the oracle."""

    opened: Any = staticmethod(memstore.open)

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
                key={"subject": "entities", "relation": "relations"}, value={"object": "entities"}
            ),
        )
        self.config = fact
        configurations = {"entities": part, "relations": part, "facts": fact}
        self.memories = {n: self.store.create(n, c) for n, c in configurations.items()}
        self.parts = {"entities": Oracle(part), "relations": Oracle(part)}
        self.facts = EncodedOracle(fact, self.parts)
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
        stale = self.stale()
        assert len(stale) <= done.encoded <= len(self.facts.slots)
        assert bool(stale) <= (done.drift_before > 0.0)
        self.facts.encode_again(self.facts.slots)

    @rule(limit=st.integers(1, 10))
    def refresh_some(self, limit: int) -> None:
        done = self.memories["facts"].refresh(limit)
        assert done.drift_after <= done.drift_before
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


def test_a_memory_is_the_oracle() -> None:
    run_state_machine_as_test(Verbs, settings=RUNS)


def test_an_encoded_memory_is_the_oracle() -> None:
    run_state_machine_as_test(EncodedVerbs, settings=RUNS)


SERVED = [ServedStore, SessionStore, PiecesStore]
AWAITED = [AsyncServedStore, AsyncSessionStore, AsyncPiecesStore]


@pytest.mark.parametrize("store", [*SERVED, *AWAITED])
@pytest.mark.parametrize("verbs", [Verbs, EncodedVerbs])
def test_a_served_memory_is_the_oracle(store: type, verbs: type[RuleBasedStateMachine]) -> None:
    served = type(f"{store.__name__}{verbs.__name__}", (verbs,), {"opened": store})
    run_state_machine_as_test(served, settings=settings(RUNS, max_examples=10))


SPREAD = [SpreadStore, ForwardedStore, SpreadSessionStore, AsyncSpreadStore]


class SpreadVerbs(Verbs):
    """The same over four servers, with more shards than these, and fewer."""

    @initialize(config=configs, shards=st.sampled_from([1, 3, 4, 9]))
    def make(self, config: MemoryConfig, shards: int) -> None:
        super().make(MemoryConfig.from_dict(config.to_dict() | {"shards": shards}))


@pytest.mark.parametrize("store", SPREAD)
def test_a_memory_on_four_servers_is_the_oracle(store: type) -> None:
    spread = type(f"{store.__name__}Verbs", (SpreadVerbs,), {"opened": store})
    run_state_machine_as_test(spread, settings=settings(RUNS, max_examples=8))


class SpreadEncodedVerbs(EncodedVerbs):
    """Facts on as many of four servers as their parts, or on more."""

    @staticmethod
    def fact_shards(shards: int) -> int:
        return shards + 2


@pytest.mark.parametrize("store", SPREAD)
def test_an_encoded_memory_on_four_servers_is_the_oracle(store: type) -> None:
    spread = type(f"{store.__name__}EncodedVerbs", (SpreadEncodedVerbs,), {"opened": store})
    run_state_machine_as_test(spread, settings=settings(RUNS, max_examples=8))


def rows_by_score(rows: int) -> Array:
    """Keys whose inner product with (1, 0) is rows, rows − 1, …: slot 0 scores highest."""
    return np.stack([np.arange(rows, 0, -1), np.zeros(rows)], axis=1).astype(np.float32)


QUERY = np.array([[1, 0]], np.float32)


def make_clustered(
    path: Path, rows: int, fresh_limit: int
) -> tuple[memstore.Store, memstore.Memory]:
    index = IndexConfig(
        clusters=4,
        probe=EVERY_LIST,
        codec="flat",
        fresh_limit=fresh_limit,
        maintenance="inline",
    )
    store = memstore.open(path)
    memory = store.create("m", MemoryConfig(dim=2, index=index))
    memory.append(rows_by_score(rows))
    memory.reindex()
    return store, memory


def test_erasing_the_best_rows_leaves_the_next_best(tmp_path: Path) -> None:
    store, memory = make_clustered(tmp_path, 2_000, 4_000)
    with store:
        memory.erase(np.arange(1_000))
        assert memory.search(QUERY, 5).slots_QK.tolist() == [[1000, 1001, 1002, 1003, 1004]]


def test_rewriting_the_best_rows_leaves_the_next_best_while_they_are_fresh(tmp_path: Path) -> None:
    store, memory = make_clustered(tmp_path, 400, 200)
    with store:
        memory.write(np.arange(100), np.zeros((100, 2), np.float32))
        assert memory.describe().shards[0].fresh == 100
        assert memory.search(QUERY, 5).slots_QK.tolist() == [[100, 101, 102, 103, 104]]


def test_rewriting_the_best_rows_leaves_the_next_best_once_they_are_sealed(tmp_path: Path) -> None:
    store, memory = make_clustered(tmp_path, 400, 50)
    with store:
        memory.write(np.arange(100), np.zeros((100, 2), np.float32))
        assert memory.describe().shards[0].fresh == 0
        assert memory.search(QUERY, 5).slots_QK.tolist() == [[100, 101, 102, 103, 104]]


@pytest.mark.parametrize("shards", [1, 3])
def test_exact_search_finds_the_best_where_scores_cancel(tmp_path: Path, shards: int) -> None:
    # Sums of ±1e4 leave differences of 1e-3: a matrix product may rank them otherwise.
    rng = np.random.default_rng(0)
    keys = rng.choice([-1e4, 1e4], (500, 32)).astype(np.float32)
    keys += rng.normal(scale=1e-3, size=keys.shape).astype(np.float32)
    queries = np.ones((3, 32), np.float32)
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=32, shards=shards, index="exact"))
        memory.append(keys)
        found = memory.search(queries, 20)
    slots, _ = best(np.arange(500), inner_products(queries, keys)[0], 20)
    assert found.slots_QK.tolist() == [slots] * 3
