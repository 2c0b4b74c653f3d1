"""A configuration or a name that is wrong is refused before anything is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import memstore
from memstore import IndexConfig, MemoryConfig, OptimizerConfig
from memstore.errors import InvalidArgument


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        pytest.param(MemoryConfig, {}),
        (MemoryConfig, {"dim": 0}),
        (MemoryConfig, {"dim": -1}),
        (MemoryConfig, {"dim": 2.0}),
        (MemoryConfig, {"dim": True}),
        pytest.param(MemoryConfig, {"dim": None}),
        (MemoryConfig, {"dim": "3"}),
        (MemoryConfig, {"dim": 3, "dimension": 3}),
        (MemoryConfig, {"dim": 3, "value_dim": 0}),
        (MemoryConfig, {"dim": 3, "shards": 0}),
        pytest.param(MemoryConfig, {"dim": 3, "shards": None}),
        (MemoryConfig, {"dim": 3, "dtype": "float8"}),
        (MemoryConfig, {"dim": 3, "dtype": "float32", "optimizer": {"master": True}}),
        (OptimizerConfig, {"master": 1.5}),
        (OptimizerConfig, {"seed": -1}),
        (OptimizerConfig, {"seed": 2**63}),
        (MemoryConfig, {"dim": 3, "index": "flat"}),
        (MemoryConfig, {"dim": 3, "index": 7}),
        (MemoryConfig, {"dim": 3, "index": {"kind": "exact", "lists": 4}}),
        (MemoryConfig, {"dim": 3, "optimizer": "adamax"}),
        (MemoryConfig, {"dim": 3, "records": {"a": "uint8"}}),
        (MemoryConfig, {"dim": 3, "records": {"a": "int64"}, "lookup": ["b"]}),
        (MemoryConfig, {"dim": 3, "records": {"a": "float32"}, "lookup": ["a"]}),
        (MemoryConfig, {"dim": 3, "encoding": {"key": {}}}),
        pytest.param(MemoryConfig, {"dim": 3, "encoding": {"value": {"a": "b"}}}),
        (MemoryConfig, {"dim": 3, "encoding": {"key": {"a": "b"}}}),
        (
            MemoryConfig,
            {"dim": 3, "records": {"a": "string"}, "encoding": {"key": {"a": "b"}}},
        ),
        (
            MemoryConfig,
            {"dim": 3, "value_dim": 2, "records": {"a": "int64"}, "encoding": {"key": {"a": "b"}}},
        ),
        (IndexConfig, {"kind": "tree"}),
        (IndexConfig, {"clusters": 0}),
        (IndexConfig, {"probe": 0}),
        (IndexConfig, {"recall_target": 0}),
        (IndexConfig, {"recall_target": 1.1}),
        (IndexConfig, {"recall_target": float("nan")}),
        (IndexConfig, {"recall_target": 0.9, "probe": 3}),
        (IndexConfig, {"fresh_limit": 0}),
        pytest.param(IndexConfig, {"fresh_limit": None}),
        (IndexConfig, {"maintenance": "never"}),
        (IndexConfig, {"maintenance": None}),
        (IndexConfig, {"patience_s": -1}),
        (IndexConfig, {"patience_s": float("inf")}),
        (IndexConfig, {"patience_s": float("nan")}),
        (IndexConfig, {"drift_limit": 0.0}),
        (IndexConfig, {"drift_limit": -0.3}),
        (IndexConfig, {"drift_limit": 101}),
        (IndexConfig, {"drift_limit": float("nan")}),
        (IndexConfig, {"drift_limit": "0.3"}),
        (IndexConfig, {"drift_limit": True}),
        (IndexConfig, {"codec": "pq"}),
        (OptimizerConfig, {"kind": "adamax"}),
        (OptimizerConfig, {"lr": -1.0}),
        (OptimizerConfig, {"lr": float("nan")}),
        pytest.param(OptimizerConfig, {"lr": float("inf")}),
        (OptimizerConfig, {"lr": "1"}),
        pytest.param(OptimizerConfig, {"lr": None}),
        (OptimizerConfig, {"eps": -1.0}),
        pytest.param(OptimizerConfig, {"eps": float("inf")}),
        (OptimizerConfig, {"eps": 0.0}),
        (OptimizerConfig, {"eps": 1e300}),
        (OptimizerConfig, {"betas": None}),
        (OptimizerConfig, {"betas": 0.9}),
        (OptimizerConfig, {"betas": "09"}),
        (OptimizerConfig, {"betas": [0.9]}),
        (OptimizerConfig, {"betas": [0.9, 0.99, 0.999]}),
        (OptimizerConfig, {"betas": [0.9, 1.0]}),
        (OptimizerConfig, {"betas": [-0.1, 0.9]}),
        (OptimizerConfig, {"betas": [0.9, "0.999"]}),
        (OptimizerConfig, {"betas": [float("nan"), 0.999]}),
        (OptimizerConfig, {"betas": [0.999, 0.9]}),
        (OptimizerConfig, {"weight_decay": -0.1}),
        (OptimizerConfig, {"weight_decay": 1.1}),
        (OptimizerConfig, {"weight_decay": float("nan")}),
        (OptimizerConfig, {"weight_decay": True}),
        pytest.param(OptimizerConfig, {"weight_decay": None}),
        (OptimizerConfig, {"clip_norm": -1.0}),
        (OptimizerConfig, {"clip_norm": float("inf")}),
        (OptimizerConfig, {"clip_norm": 1e-30}),
        (OptimizerConfig, {"clip_norm": False}),
        (OptimizerConfig, {"max_norm": -1.0}),
        (OptimizerConfig, {"max_norm": float("nan")}),
        (OptimizerConfig, {"max_norm": "1"}),
        (OptimizerConfig, {"momentum": 0.9}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_bad_configuration_is_refused(cls: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        cls.from_dict(wrong)


def test_an_optimizer_survives_json() -> None:
    config = OptimizerConfig(kind="adamw", betas=(0.5, 0.9), clip_norm=1.0, weight_decay=0.1)
    assert OptimizerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(OptimizerConfig.from_dict(config.to_dict()))


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "a b", "a/b", "../a", ".", "..", ".a", "-a", "é", "a\n", "a" * 65),
        None,
        pytest.param(7),
    ],
)
def test_a_bad_name_is_refused(tmp_path: Path, name: Any) -> None:
    with memstore.open(tmp_path) as store:
        try:
            with pytest.raises(InvalidArgument):
                store.create(name, MemoryConfig(dim=3))
        finally:
            for made in store.list():
                store.drop(made)
