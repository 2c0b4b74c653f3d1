"""Optimizer steps of 8,192 rows in a memory of a million, beside torch.optim on an embedding.

Ours is the whole public call, `Memory.update` of one embedded shard: arguments checked, equal
slots summed, rows stepped, drift counted. The peer is `optimizer.step()` alone on
`nn.Embedding(sparse=True)` of equal size, with the gradients of the same rows ready as a sparse
tensor. One thread; rows are drawn anew for each call, and both take the same ones.

FBGEMM is not among the peers: pip finds `fbgemm-gpu-cpu` 1.9.0 and installs it beside torch 2.13,
but there its `fbgemm_gpu_tbe_index_select.so` does not load (undefined symbol).

Rows of float16 and bfloat16, rounded by chance or beside a float32 master, stand beside float32.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import torch

import memstore
from memstore import Memory, MemoryConfig, OptimizerConfig
from memstore.config import DType, OptimizerKind
from memstore.memory import Array
from tests.benchmarks.runner import Figure, at_least, paired_medians

WIDTH, BATCH, ROUNDS = 128, 8_192, 60
LR = 0.01

LEAST_RATE = {"adagrad": 1e6, "rowwise_adagrad": 3e6}
LEAST_RATIO = {"adagrad": 2.0, "rowwise_adagrad": 2.0, "adam": 2.0}
PEERS: dict[OptimizerKind, str] = {
    "sgd": "SGD",
    "adagrad": "Adagrad",
    "rowwise_adagrad": "Adagrad",
    "adam": "SparseAdam",
    "rowwise_adam": "SparseAdam",
}
"""Adagrad and SparseAdam also stand beside the row-wise kinds, which torch does not have."""

NARROW: list[tuple[DType, bool]] = [("float16", False), ("bfloat16", False), ("bfloat16", True)]
"""Dtype, and whether there is a master."""


def run(quick: bool) -> Iterator[Figure]:
    """Times each optimizer and its peer in turn."""
    torch.set_num_threads(1)
    torch.sparse.check_sparse_tensor_invariants.disable()
    rows = 100_000 if quick else 1_000_000
    size = f"{rows // 1_000}k" if quick else "1M"
    rng = np.random.default_rng(0)
    keys_ND = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    grads_BD = rng.normal(scale=0.01, size=(BATCH, WIDTH)).astype(np.float32)
    for kind, peer in PEERS.items():
        case = f"{kind}, {BATCH:,} rows of {WIDTH} in {size}, float32, one thread"
        with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
            optimizer = OptimizerConfig(kind=kind, lr=LR)
            config = MemoryConfig(dim=WIDTH, index="none", optimizer=optimizer)
            memory = store.create("rows", config)
            memory.append(keys_ND)
            timed = paired_medians(
                _ours(memory, rows, grads_BD), _torchs(peer, keys_ND, grads_BD), ROUNDS
            )
            # What closing would write is of no use to anybody.
            store.drop("rows")
        rate = Figure("update_rate", case, BATCH / timed.a_s, "rows/s")
        yield rate if kind not in LEAST_RATE else at_least(LEAST_RATE[kind], rate)
        beside = Figure(
            "update_rate_beside_torch",
            f"{case}; peer torch.optim.{peer}, sparse gradients",
            BATCH / timed.a_s,
            "rows/s",
            BATCH / timed.b_s,
            ratio=1 / timed.ratio,
        )
        yield beside if kind not in LEAST_RATIO else at_least(LEAST_RATIO[kind], beside)
    for kind in ("rowwise_adagrad", "adam"):
        for dtype, master in NARROW:
            yield _beside_float32(kind, dtype, master, keys_ND, grads_BD, size)


def _beside_float32(
    kind: OptimizerKind, dtype: DType, master: bool, keys_ND: Array, grads_BD: Array, size: str
) -> Figure:
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        calls = []
        for name, its_dtype, its_master in (("a", dtype, master), ("b", "float32", False)):
            optimizer = OptimizerConfig(kind=kind, lr=LR, master=its_master)
            config = MemoryConfig(dim=WIDTH, dtype=its_dtype, index="none", optimizer=optimizer)
            memory = store.create(name, config)
            memory.append(keys_ND)
            calls.append(_ours(memory, len(keys_ND), grads_BD))
        timed = paired_medians(calls[0], calls[1], ROUNDS)
        store.drop("a")
        store.drop("b")
    kept = "beside a float32 master" if master else "rounded by chance"
    return Figure(
        "update_rate_beside_float32",
        f"{kind}, {BATCH:,} rows of {WIDTH} in {size}, {dtype} {kept}, one thread; peer float32",
        BATCH / timed.a_s,
        "rows/s",
        BATCH / timed.b_s,
        ratio=1 / timed.ratio,
    )


def _ours(memory: Memory, rows: int, grads_BD: Array) -> Callable[[], object]:
    # Every row has state before the clock runs: its first page is the system's work, not ours.
    for first in range(0, rows, BATCH):
        some = np.arange(first, min(first + BATCH, rows))
        memory.update(some, grads_BD[: len(some)])
    batches = _batches(rows)
    return lambda: memory.update(next(batches), grads_BD)


def _torchs(name: str, keys_ND: Array, grads_BD: Array) -> Callable[[], object]:
    table = torch.nn.Embedding.from_pretrained(
        torch.from_numpy(keys_ND.copy()), freeze=False, sparse=True
    )
    optimizer = getattr(torch.optim, name)(table.parameters(), lr=LR)
    grads, batches = torch.from_numpy(grads_BD), _batches(len(keys_ND))

    def step() -> None:
        at = torch.from_numpy(next(batches))[None]
        table.weight.grad = torch.sparse_coo_tensor(at, grads, table.weight.shape)
        optimizer.step()

    every = torch.arange(len(keys_ND))
    for some in every.split(BATCH):
        table.weight.grad = torch.sparse_coo_tensor(
            some[None], grads[: len(some)], table.weight.shape
        )
        optimizer.step()
    return step


def _batches(rows: int) -> Iterator[Array]:
    """The same draws for both: with replacement, so that some rows stand twice."""
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, rows, BATCH) for _ in range(ROUNDS + 1)]
    return itertools.cycle(drawn)
