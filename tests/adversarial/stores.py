"""A store that holds something of every kind, and what it holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from memstore import (
    EncodingConfig,
    IndexConfig,
    MemoryConfig,
    OptimizerConfig,
    RequestId,
    SearchOptions,
    Store,
)
from tests.congruence.oracle import fingerprint

ROWS, ERASED = 40, 2
EXACT = SearchOptions(exact=True)
RECORDS = {"number": "int64", "small": "int32", "name": "string", "tags": "list<string>"}
MANIFEST = "memstore.json"


def keys(rows: int = 1, width: int = 3, dtype: Any = np.float32, fill: float = 1) -> Any:
    return np.full((rows, width), fill, dtype)


def values(rows: int = 1, width: int = 2) -> Any:
    return keys(rows, width)


def records(rows: int = 1, **columns: Any) -> dict[str, Any]:
    held: dict[str, Any] = {
        "number": [7] * rows,
        "small": [7] * rows,
        "name": ["seven"] * rows,
        "tags": [["a", "b"]] * rows,
    }
    return held | columns


def fill(store: Store, shards: int = 1) -> None:
    """Makes a memory with everything, and facts over two memories of parts."""
    rng = np.random.default_rng(0)
    index = IndexConfig(clusters=2, codec="flat", fresh_limit=5, maintenance="inline")
    config = MemoryConfig(
        dim=3,
        value_dim=2,
        shards=shards,
        records=RECORDS,
        lookup=tuple(RECORDS),
        index=index,
        optimizer=OptimizerConfig(kind="adagrad"),
    )
    memory = store.create("m", config)
    for rows in (ROWS - 6, 6):
        memory.append(rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2)), records(rows))
    memory.update(np.arange(5), keys(5), values(5))
    memory.erase(np.array([ERASED]), request_id=RequestId("somebody", 1))
    part = MemoryConfig(dim=3, index="none")
    for name in ("entities", "relations"):
        store.create(name, part).append(rng.normal(size=(4, 3)))
    facts = MemoryConfig(
        dim=3,
        shards=shards,
        records={"subject": "int64", "relation": "int64", "objects": "list<int64>"},
        lookup=("subject",),
        index="exact",
        encoding=EncodingConfig(
            key={"subject": "entities", "relation": "relations"}, value={"objects": "entities"}
        ),
    )
    store.create("facts", facts).append(records=fact(6))
    store.memory("entities").write(np.array([0]), keys(fill=9))


def fact(rows: int = 1, **columns: Any) -> dict[str, Any]:
    held: dict[str, Any] = {
        "subject": [0] * rows,
        "relation": [1] * rows,
        "objects": [[2, 3]] * rows,
    }
    return held | columns


def fingerprints(store: Store) -> dict[str, Any]:
    return {name: fingerprint(store.memory(name)) for name in store.list()}


def python(code: str, path: Path, status: int = 0, *arguments: str) -> str:
    head = "import memstore, sys; path = sys.argv[1]\n"
    command = [sys.executable, "-W", "error", "-c", head + code, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout.strip()
