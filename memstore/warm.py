"""Compiles ahead: `warm(configs)` before a server takes its first call, `python -m memstore.warm`
when an image is built, with `MEMSTORE_CACHE` naming a folder that goes into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import get_args

import numpy as np

from memstore.config import DType, IndexConfig, MemoryConfig, OptimizerConfig, OptimizerKind
from memstore.dtypes import counting, storage
from memstore.embedded import EmbeddedMemory
from memstore.memory import SearchOptions

FEW, ROWS = 64, 512
"""Rows that are multiplied as they are, and so many that matrix units are asked, if there are."""


def warm(configs: Iterable[MemoryConfig]) -> None:
    """Compiles every kernel that memories like these will call, or loads it where it is kept.

    Without it the first calls of a process take 6 s longer in all, or 0.2 s where the kernels
    are kept. No file but those is written.
    """
    for config in configs:
        _call_each_verb(config)


def _call_each_verb(config: MemoryConfig) -> None:
    """Calls, on a memory of a few rows, each verb that reaches a kernel."""
    plain = replace(
        config,
        dim=16,
        value_dim=16,
        shards=1,
        records={},
        lookup=(),
        encoding=None,
        capacity=None,
        # Both ways that sealed rows are searched: clustered with lists, and then with a graph too.
        index=IndexConfig(kind="graph", clusters=1, probe=1),
    )
    memory = EmbeddedMemory("warm", plain)
    keys_ND = (
        np.random.default_rng(0)
        .standard_normal((ROWS, plain.dim))
        .astype(counting(storage(config.dtype)))
    )
    slots_N = memory.append(keys_ND[:FEW], keys_ND[:FEW])
    memory.search(keys_ND, 4, SearchOptions(exact=True))
    slots_N = np.concatenate([slots_N, memory.append(keys_ND[FEW:], keys_ND[FEW:])])
    memory.update(slots_N, keys_ND, keys_ND)
    memory.blend(slots_N[:1], [0.5], np.abs(np.tanh(keys_ND[:1])), keys_ND[:1])
    memory.search(keys_ND, 4, SearchOptions(exact=True))
    memory.reindex()
    memory.update(slots_N[::-1], keys_ND, keys_ND)
    memory.write(slots_N[:1], keys_ND[:1])
    memory.search(keys_ND, 4)


if __name__ == "__main__":
    warm(
        MemoryConfig(dim=1, dtype=dtype, optimizer=OptimizerConfig(kind=kind))
        for dtype in get_args(DType)
        for kind in get_args(OptimizerKind)
    )
