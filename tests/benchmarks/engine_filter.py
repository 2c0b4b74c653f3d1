"""Filtered search: queries a second and recall from half of the rows down to ten, beside faiss."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator

import faiss
import numpy as np

import memstore
from memstore import Filter, IndexConfig, Memory, MemoryConfig, Proposal, SearchOptions, field
from memstore.memory import Array, Slots
from tests.benchmarks.runner import Figure, at_least, paired_medians

WIDTH, K, BATCH, PROBE = 64, 10, 64, 32
SHARES = (0.5, 0.25, 0.1, 0.01, 1e-4, 1e-5)
TOPICS = 1_000
KEEPS = 0.95
"""Of the recall without a filter, what a filter may not take."""


def run(quick: bool) -> Iterator[Figure]:
    """Searches a mixture of unequal norms by filters that pass ever fewer rows.

    Two kinds of filter: one drawn at random, and one that follows the clusters (`topic`).
    """
    rows, queries, rounds = (100_000, 256, 3) if quick else (1_000_000, 512, 7)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(TOPICS, WIDTH))
    topic = rng.integers(0, TOPICS, rows)
    keys = _mixture(rng, centres[topic])
    asked = _mixture(rng, centres[rng.integers(0, TOPICS, queries)])
    draw = rng.permutation(rows)
    with tempfile.TemporaryDirectory() as scratch, memstore.open(scratch) as store:
        config = MemoryConfig(
            dim=WIDTH,
            records={"draw": "int64", "topic": "int64"},
            index=IndexConfig(probe=PROBE, codec="flat", fresh_limit=2 * rows),
        )
        memory = store.create("m", config)
        memory.append(keys, records={"draw": draw, "topic": topic})
        memory.reindex()
        clusters = memory.describe().shards[0].clusters
        print(f"{rows:,} rows in {clusters} lists", file=sys.stderr)
        peer = _faiss(keys, clusters)
        size = f"{rows:,} x {WIDTH}, batch {BATCH}, k {K}, probe {PROBE} of {clusters}"
        whole = _recall(_find(memory, asked, None), _true(memory, asked, None))
        yield Figure("recall_at_10", f"{size}, no filter", whole, "share")
        for share in SHARES:
            tree = field("draw") < round(share * rows)
            passing = np.flatnonzero(draw < round(share * rows))
            case = f"{size}, {share:.3%} pass at random"
            yield from _compare(memory, peer, asked, tree, passing, case, whole, rounds)
        for topics in (TOPICS // 2, TOPICS // 100):
            tree = field("topic") < topics
            case = f"{size}, the rows of {topics} of {TOPICS} clusters pass"
            passing = np.flatnonzero(topic < topics)
            yield from _compare(memory, peer, asked, tree, passing, case, None, rounds)
        yield _fresh_filter(memory, asked, rows)


def _mixture(rng: np.random.Generator, centres: Array) -> Array:
    points = centres + 0.7 * rng.normal(size=centres.shape)
    norms = rng.lognormal(0.0, 0.25, (len(points), 1))
    return (points * norms).astype(np.float32)


def _faiss(keys: Array, clusters: int) -> faiss.IndexIVFFlat:
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(WIDTH), WIDTH, clusters, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.spherical = True
    index.cp.niter, index.cp.max_points_per_centroid = 8, 48
    index.train(keys)
    index.add(keys)
    return index


def _compare(
    memory: Memory,
    peer: faiss.IndexIVFFlat,
    asked: Array,
    tree: Filter,
    passing: Slots,
    case: str,
    whole: float | None,
    rounds: int,
) -> Iterator[Figure]:
    """Recall and rate beside faiss with a bitmap made before the clock starts: at the probe that
    memstore was given, and at the least that finds as much as memstore does."""
    true = _true(memory, asked, tree)
    bits = np.zeros((memory.describe().next_slot + 7) // 8, np.uint8)
    np.bitwise_or.at(bits, passing >> 3, (1 << (passing & 7)).astype(np.uint8))
    selector = faiss.IDSelectorBitmap(bits)
    found = memory.search(asked, K, SearchOptions(filter=tree))
    recall = _recall(found.slots_QK, true)

    def parameters(probe: int) -> faiss.IVFSearchParameters:
        return faiss.IVFSearchParameters(nprobe=probe, sel=selector)

    def peer_recall(probe: int) -> float:
        return _recall(peer.search(asked, K, params=parameters(probe))[1], true)

    as_good = next((p for p in _probes(peer.nlist) if peer_recall(p) >= recall), peer.nlist)
    for probe in dict.fromkeys((PROBE, as_good)):

        def search_peer(chosen: faiss.IVFSearchParameters = parameters(probe)) -> None:  # noqa: B008
            for start in range(0, len(asked), BATCH):
                peer.search(asked[start : start + BATCH], K, params=chosen)

        timed = paired_medians(lambda: _find(memory, asked, tree), search_peer, rounds)
        measured = Figure(
            "search_rate",
            f"{case}; peer: faiss IVFFlat, probe {probe}, recall {peer_recall(probe):.4f}",
            len(asked) / timed.a_s,
            "queries/s",
            len(asked) / timed.b_s,
            ratio=1.0 / timed.ratio,
        )
        yield at_least(1.0, measured) if probe == as_good else measured
    figure = Figure("recall_at_10", case, recall, "share")
    if (found.proposal_QK == Proposal.EXACT).all():
        yield at_least(1.0, figure)
    else:
        yield figure if whole is None else at_least(KEEPS * whole, figure)


def _probes(clusters: int) -> Iterator[int]:
    """From the probe given on, each a quarter more, to all lists."""
    probe = PROBE
    while probe < clusters:
        yield probe
        probe = -(-probe * 5 // 4)
    yield clusters


def _fresh_filter(memory: Memory, asked: Array, rows: int) -> Figure:
    """The first search by a filter: it is evaluated over all records, and kept."""
    times = []
    for i in range(9):
        options = SearchOptions(filter=field("draw") == rows // 2 + i)
        start = time.perf_counter()
        memory.search(asked[:1], K, options)
        times.append(time.perf_counter() - start)
    return Figure("first_search_s", f"{rows:,} rows, a new filter", float(np.median(times)), "s")


def _find(memory: Memory, asked: Array, tree: Filter | None) -> Slots:
    options = SearchOptions(filter=tree)
    parts = range(0, len(asked), BATCH)
    return np.concatenate([memory.search(asked[i : i + BATCH], K, options).slots_QK for i in parts])


def _true(memory: Memory, asked: Array, tree: Filter | None) -> Slots:
    return memory.search(asked, K, SearchOptions(exact=True, filter=tree)).slots_QK


def _recall(found_QK: Slots, true_QK: Slots) -> float:
    """The share of the true slots that were found; `NO_SLOT` counts on neither side."""
    hits_QK = (found_QK[:, :, None] == true_QK[:, None, :]) & (true_QK[:, None, :] >= 0)
    return float(hits_QK.sum() / max((true_QK >= 0).sum(), 1))
