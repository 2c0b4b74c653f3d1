"""Compiles ahead: `warm(configs)` before a server takes its first call, `python -m memstore.warm`
when an image is built, with `MEMSTORE_CACHE` naming a folder that goes into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from memstore.config import DType, IndexConfig, MemoryConfig, OptimizerConfig, OptimizerKind
from memstore.dtypes import counting, storage
from memstore.embedded import EmbeddedMemory
from memstore.kernels.branch import highest_columns, keep_highest
from memstore.kernels.select import best_found
from memstore.memory import SearchOptions
from memstore.shard.values import Texts

FEW, ROWS = 64, 512
"""Rows that are multiplied as they are, and so many that bfloat16 is asked for, if there is."""


def warm(configs: Iterable[MemoryConfig]) -> None:
    """Compiles every kernel that memories like these will call, or loads it where it is kept.

    Without it the first calls of a process take 6 s longer in all, or 0.2 s where the kernels
    are kept. No file but those is written, so what only a log asks for is left out: rows of half
    precision that are blended, or updated with `updates="logged"`.
    """
    # A memory has several segments to choose from, and a tree of clusters, only later.
    scores = np.zeros((1, 2), np.float32)
    best_found(np.zeros((1, 2), np.int64), scores, 1)
    columns = highest_columns(scores, 1)
    keep_highest(scores, columns[0], np.zeros(2, np.int64), scores[0, :1], columns[0])
    text = Texts(pa.array(["a"]))
    text.ranges(text)
    for config in configs:
        # What comes over the wire, or out of the log, cannot be written to: other kernels.
        for writeable in (True, False):
            _call_each_verb(config, writeable=writeable)


def _call_each_verb(config: MemoryConfig, *, writeable: bool) -> None:
    """Calls, on a memory of a few rows, each verb that reaches a kernel."""

    def given(array: Any) -> Any:
        copy = np.array(array)
        copy.flags.writeable = writeable
        return copy

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
        index=IndexConfig(kind="graph", clusters=1, probe=1, codec=config.index_config.codec),
    )
    memory = EmbeddedMemory("warm", plain)
    keys_ND = given(
        np.random.default_rng(0)
        .standard_normal((ROWS, plain.dim))
        .astype(counting(storage(config.dtype)))
    )
    # Clients send rows in the memory's dtype, and the log has them so.
    rows_ND = keys_ND if writeable else given(keys_ND.astype(storage(config.dtype)))
    slots_N = memory.append(rows_ND[:FEW], rows_ND[:FEW])
    memory.search(keys_ND, 4, SearchOptions(exact=True))
    slots_N = given(np.concatenate([slots_N, memory.append(rows_ND[FEW:], rows_ND[FEW:])]))
    memory.update(slots_N, keys_ND, keys_ND)
    erase_BD = given(np.abs(np.tanh(keys_ND[:1])))
    memory.blend(slots_N[:1], given([0.5]), erase_BD, keys_ND[:1])
    memory.search(keys_ND, 4, SearchOptions(exact=True))
    memory.reindex()
    memory.update(given(slots_N[::-1]), keys_ND, keys_ND)
    memory.write(slots_N[:1], rows_ND[:1])
    memory.write(slots_N[:1], rows_ND[:1], rows_ND[:1])
    memory.search(keys_ND, 4)
    EmbeddedMemory("warm", replace(plain, value_dim=None)).append(rows_ND[:FEW])


if __name__ == "__main__":
    warm(
        MemoryConfig(dim=1, dtype=dtype, optimizer=OptimizerConfig(kind=kind))
        for dtype in get_args(DType)
        for kind in get_args(OptimizerKind)
    )
