"""What the machines of verbs draw: configurations, filters, rows and records."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st

from memstore import And, Compare, Filter, In, IndexConfig, MemoryConfig, Not, OptimizerConfig, Or
from memstore.config import LEAST_RESIDENT, Codec, DType, OptimizerKind
from memstore.dtypes import storage
from memstore.memory import Array

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


def with_master(config: MemoryConfig, master: bool, budget: bool) -> MemoryConfig:
    """Everything may be looked up; narrow rows may have a master, and rows in files a budget."""
    values = config.to_dict() | {"lookup": list(config.records)}
    if budget and config.storage == "mapped":
        values["resident_bytes"] = 16 * LEAST_RESIDENT  # some tests make more shards
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
configs = st.builds(with_master, configs, st.booleans(), st.booleans())


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
