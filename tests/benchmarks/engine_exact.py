"""Exact search of a million rows, beside faiss: every row scored, one thread, batch 256.

Ours is the whole public call, whose scores are those of the one scoring kernel. Where the
processor multiplies in bfloat16 the products that propose are of it; elsewhere they are those of
numpy in float32.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator

import faiss

import memstore
from memstore import MemoryConfig
from memstore.kernels.near import halving_units
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.runner import Figure, Measured, at_least, paired_medians

K, BATCH, ROUNDS = 10, 256, 9

LEAST_RATIO = {"amx_bf16": 3.0, "avx512_bf16": 1.0, None: 1.0}
"""By what multiplies in bfloat16: matrix units, vectors, nothing."""


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread."""
    yield from measured_alone("tests.benchmarks.engine_exact", 100_000 if quick else 1_000_000)


def measure(rows: int) -> Iterator[Figure]:
    """Times both on the same rows by turns, and compares what they find."""
    keys_ND, queries_QD = mixture(rows, BATCH)
    peer = faiss.IndexFlatIP(WIDTH)
    peer.add(keys_ND)
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        memory = store.create("m", MemoryConfig(dim=WIDTH, index="exact"))
        memory.append(keys_ND)
        timed = paired_medians(
            lambda: memory.search(queries_QD, K), lambda: peer.search(queries_QD, K), ROUNDS
        )
        found = memory.search(queries_QD, K)
        store.drop("m")
    case = f"{rows:,} x {WIDTH}, k {K}, batch {BATCH}, 1 thread, {halving_units() or 'float32'}"
    floor_Q1 = peer.search(queries_QD, K)[0][:, -1:] * (1 - 1e-6)
    recall = float((found.scores_QK >= floor_Q1).mean())
    yield at_least(1.0, Figure("recall", case, recall, "share"))
    rate = Figure(
        "exact_rate",
        f"{case}; peer: faiss IndexFlatIP",
        BATCH / timed.a_s,
        "queries/s",
        BATCH / timed.b_s,
        ratio=1 / timed.ratio,
    )
    yield at_least(LEAST_RATIO[halving_units()], rate)


if __name__ == "__main__":
    tell(measure(int(sys.argv[1])))
