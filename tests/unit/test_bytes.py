"""What rows and their index take of memory, beside the arrays that are meant to be there."""

from __future__ import annotations

import contextlib
import tracemalloc
from dataclasses import replace

import numpy as np

from memstore import IndexConfig, MemoryConfig
from memstore.index import clustered, jobs, tuning
from memstore.index.drift import Drift, Sealing
from memstore.index.two_tier import TwoTierIndex
from memstore.memory import NO_SLOT, Array, Slots
from memstore.shard.rows import RowTable
from tests.benchmarks.data import mixture

ROWS, WIDTH = 100_000, 4


def test_beside_two_indexes_a_clustering_holds_little_a_row() -> None:
    """8 bytes of a row's number, 1 of its list, 12 of its length and travel, and a block's work."""
    keys = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    encoding = False

    def travel(rows_R: Slots) -> Array:
        nonlocal encoding
        if not encoding:
            # The first row is encoded: the old lists and the new ones are there from now on.
            tracemalloc.reset_peak()
            encoding = True
        return np.zeros(len(rows_R))

    source = jobs.Source(
        read=lambda rows_R: keys[rows_R],
        live=lambda: np.arange(ROWS),
        count=lambda: ROWS,
        alive=lambda rows_R: rows_R < ROWS,
        writers=contextlib.nullcontext(),
        travel=travel,
    )
    index = TwoTierIndex(IndexConfig(clusters=64, probe=4), WIDTH, source.read)
    jobs.cluster(index, source)
    encoding = False
    tracemalloc.start()
    try:
        jobs.cluster(index, source)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert encoding
    assert peak / ROWS < 34


def test_what_no_row_used_takes_no_memory() -> None:
    table = RowTable(MemoryConfig(dim=WIDTH))
    rows_B = np.arange(ROWS)
    table.put(rows_B, np.ones((ROWS, WIDTH), np.float32), None)
    # Keys, whether they live, when they were used, and the marks; no travel, no generation.
    assert table.bytes < ROWS * (4 * WIDTH + 1 + 8 + 1)
    table.put(rows_B[:1], np.zeros((1, WIDTH), np.float32), None, tenants=1)
    assert table.travel_N[:2].tolist() == [WIDTH**0.5, 0]
    assert table.usage.generation_N[:2].tolist() == [1, 0]


def test_bounds_of_drift_grow_by_little() -> None:
    drift = Drift(0.3)
    for rows_B in np.array_split(np.arange(ROWS), 9):
        sealing = Sealing(lambda rows: np.ones((len(rows), 1), np.float32), np.zeros_like)
        sealing(rows_B)
        drift.sealed(sealing)
    assert ROWS <= len(drift.sealed_N) == len(drift.norm_N) <= ROWS * 9 / 8


def test_recall_is_measured_as_a_search_of_each_probe_finds() -> None:
    keys, queries = mixture(4_000, tuning.QUERIES, width=16)
    index = TwoTierIndex(IndexConfig(clusters=48, probe=4), 16, lambda rows_R: keys[rows_R])
    for start in range(0, len(queries), 8):
        index.recent.saw(queries[start : start + 8])
    source = jobs.Source(
        read=lambda rows_R: keys[rows_R],
        live=lambda: np.arange(2_500),
        count=lambda: 2_500,
        alive=lambda rows_R: rows_R < len(keys),
        writers=contextlib.nullcontext(),
    )
    jobs.cluster(index, source)
    book = index.version.codebook
    assert book is not None
    # Two segments, one of them with stale rows.
    later = clustered.seal(book, source.read, np.arange(2_500, 4_000))
    segments = (index.version.segments[0].without(np.arange(0, 2_500, 9)), later)
    live = np.setdiff1d(np.arange(4_000), np.arange(0, 2_500, 9))
    known = tuning.truth(source.read, live, index.recent, 0)
    measured = tuning.measure(book, segments, source.read, known, wanted=1.0)
    assert measured.probes_P.tolist() == [1, 2, 4, 8, 16, 32, 48]
    floor_Q1 = tuning.scores(known.queries_QD, source.read, known.rows_QK).min(1, keepdims=True)
    for probe, recall in zip(measured.probes_P, measured.recalls_P, strict=True):
        if probe > 32:  # beyond that fewer queries are asked
            asked = known.queries_QD[:: tuning.FEWER].copy(), known.rows_QK[:: tuning.FEWER]
            known = replace(known, queries_QD=asked[0], rows_QK=asked[1])
            floor_Q1 = floor_Q1[:: tuning.FEWER]
        found = clustered.propose(book, segments, known.queries_QD, tuning.K, int(probe))
        rows_QC = found.rows_QC
        scores_QC = tuning.scores(known.queries_QD, source.read, rows_QC)
        right_Q = ((scores_QC >= floor_Q1) & (rows_QC != NO_SLOT)).sum(1)
        assert recall == (np.minimum(right_Q, tuning.K) / tuning.K).mean()
