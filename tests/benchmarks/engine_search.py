"""Search while rows change: tuned clusters against raw faiss and graphs, one thread, batch 64."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import faiss
import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions
from memstore.memory import Array, Memory, Slots
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.runner import Figure, at_least, paired_medians

K, BATCH, FRESH, ROUNDS = 10, 64, 2_000, 15

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

Search = Callable[[Array], Array]
"""Gives row numbers `[Q, K]` of queries; numbers are places in the table of live rows."""


def run(quick: bool) -> Iterator[Figure]:
    """Measures in a process of its own: libraries read their number of threads when they load."""
    command = [sys.executable, "-m", "tests.benchmarks.engine_search"]
    for rows, bound in ((100_000, 1.0), (1_000_000, 1.6))[: 1 if quick else 2]:
        with subprocess.Popen(
            [*command, str(rows), str(bound)],
            cwd=Path(__file__).parents[2],
            env=os.environ | ONE_THREAD,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            for line in child.stdout or ():
                yield Figure(**json.loads(line))
        if child.returncode:
            raise RuntimeError(f"{command} ended with {child.returncode}")


def measure(rows: int, bound: float) -> Iterator[Figure]:
    """Builds all of them over the same live rows, then times each against memstore by turns."""
    keys, queries = mixture(rows + rows // 100 + FRESH, 3_072)
    seen, asked = queries[:2_048], queries[2_048:]
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        memory = store.create("m", MemoryConfig(dim=WIDTH, index=IndexConfig(maintenance="inline")))
        live, keys_ND = _changed(memory, keys, seen, rows)
        state = memory.describe().shards[0]
        faiss.omp_set_num_threads(1)

        def ours(queries_QD: Array) -> Array:
            return memory.search(queries_QD, K).slots_QK

        true = memory.search(asked, K, SearchOptions(exact=True))
        floor_Q = true.scores_QK[:, -1]

        def recall(search: Search, slots: Slots | None) -> float:
            found = _batches(search, asked)
            at = found if slots is None else np.searchsorted(slots, found)
            scores = np.einsum("qd,qkd->qk", asked, keys_ND[at])
            return float((scores >= floor_Q[:, None] * (1 - 1e-6)).mean())

        reached = recall(ours, live)
        case = f"{rows:,} x {WIDTH}, k {K}, batch {BATCH}, {state.fresh:,} fresh, 1 thread"
        chosen = f"alpha {state.alpha}, M {state.reach:.2f}, probe {state.probe} of "
        chosen += f"{state.clusters}, measured {state.recall:.3f}"
        yield at_least(0.95, Figure("recall", f"{case}; {chosen}", reached, "share"))

        peers: list[tuple[str, float, Search, float]] = []
        for name, search, settings in _peers(keys_ND):
            # The least effort that finds as much as memstore does.
            for setting in settings:
                found = recall(partial(search, effort=setting), None)
                if found >= reached - 0.001:
                    call = partial(search, effort=setting)
                    timed = paired_medians(
                        partial(_batches, ours, asked), partial(_batches, call, asked), ROUNDS
                    )
                    peers.append((f"{name} at {setting}", found, call, 1 / timed.ratio))
                    yield Figure(
                        "search_rate",
                        f"{case}; recall {reached:.3f} against {name} at {setting}: {found:.3f}",
                        len(asked) / timed.a_s,
                        "queries/s",
                        len(asked) / timed.b_s,
                        ratio=1 / timed.ratio,
                    )
                    break
            else:
                print(f"{name} never finds {reached:.3f}: {found:.3f}", file=sys.stderr)
        raw = [peer for peer in peers if peer[0].startswith("faiss IVF")]
        name, found, fastest, _ = min(raw, key=lambda peer: peer[3])
        timed = paired_medians(
            partial(_batches, ours, asked), partial(_batches, fastest, asked), ROUNDS
        )
        best = Figure(
            "search_rate_best_ivf",
            f"{case}; recall {reached:.3f} against {name}: {found:.3f}",
            len(asked) / timed.a_s,
            "queries/s",
            len(asked) / timed.b_s,
            ratio=1 / timed.ratio,
        )
        yield at_least(bound, best)


def _changed(memory: Memory, keys: Array, seen: Array, rows: int) -> tuple[Slots, Array]:
    """Fills a memory, tunes it, then erases 1 %, rewrites 1 % and leaves `FRESH` rows fresh.

    Returns the live slots and their keys, as the peers are given them.
    """
    memory.append(keys[:rows])
    _batches(lambda q: memory.search(q, K).slots_QK, seen)
    memory.reindex()
    some = np.random.default_rng(1).permutation(rows)
    erased, rewritten = some[: rows // 100], some[rows // 100 : rows // 50]
    table = keys.copy()
    memory.erase(erased)
    table[rewritten] = keys[rows : rows + len(rewritten)]
    memory.write(rewritten, table[rewritten])
    added = FRESH - memory.describe().shards[0].fresh
    table[rows : rows + added] = keys[-added:]
    memory.append(table[rows : rows + added])
    live = np.setdiff1d(np.arange(rows + added), erased)
    return live, table[live]


def _batches(search: Search, queries_QD: Array) -> Array:
    return np.concatenate(
        [search(queries_QD[i : i + BATCH]) for i in range(0, len(queries_QD), BATCH)]
    )


def _peers(keys_ND: Array) -> Iterator[tuple[str, Callable[..., Array], list[int]]]:
    """Indexes of the same live rows, all in one piece, and how hard each can be asked to look."""
    efforts = sorted({round(2 ** (i / 3)) for i in range(31)})
    usual = 2 ** round(np.log2(2 * len(keys_ND) ** 0.5))
    for clusters in (c for c in (usual, 2 * usual, 4 * usual) if c <= 4_096):
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        kmeans = faiss.Kmeans(
            WIDTH, clusters, niter=8, spherical=True, seed=0, max_points_per_centroid=48
        )
        kmeans.train(keys_ND)
        quantizer = faiss.IndexFlatIP(WIDTH)
        quantizer.add(kmeans.centroids)
        metric = faiss.METRIC_INNER_PRODUCT
        kind = faiss.ScalarQuantizer.QT_8bit
        for name, index in (
            ("Flat", faiss.IndexIVFFlat(quantizer, WIDTH, clusters, metric)),
            ("SQ8", faiss.IndexIVFScalarQuantizer(quantizer, WIDTH, clusters, kind, metric, False)),
        ):
            faiss.omp_set_num_threads(os.cpu_count() or 1)
            index.train(keys_ND[:100_000])
            index.add(keys_ND)
            faiss.omp_set_num_threads(1)

            def ivf(queries_QD: Array, effort: int, index: faiss.IndexIVF = index) -> Array:
                index.nprobe = effort
                return index.search(queries_QD, K)[1]

            yield f"faiss IVF{clusters} {name}", ivf, efforts
    for maker in (_hnswlib, _usearch):
        try:
            yield maker.__name__[1:], maker(keys_ND), [e for e in efforts if e >= K]
        except ModuleNotFoundError as missing:
            print(f"{missing.name} is not installed", file=sys.stderr)


def _hnswlib(keys_ND: Array) -> Callable[[Array, int], Array]:
    index = importlib.import_module("hnswlib").Index(space="ip", dim=WIDTH)
    index.init_index(max_elements=len(keys_ND), M=16, ef_construction=200, random_seed=0)
    index.add_items(keys_ND, num_threads=os.cpu_count() or 1)

    def search(queries_QD: Array, effort: int) -> Array:
        index.set_ef(effort)
        return index.knn_query(queries_QD, k=K, num_threads=1)[0].astype(np.int64)

    return search


def _usearch(keys_ND: Array) -> Callable[[Array, int], Array]:
    library = importlib.import_module("usearch.index")
    index = library.Index(ndim=WIDTH, metric="ip", dtype="f32", connectivity=16)
    index.add(np.arange(len(keys_ND)), keys_ND, threads=os.cpu_count() or 1)

    def search(queries_QD: Array, effort: int) -> Array:
        index.expansion_search = effort
        return index.search(queries_QD, K, threads=1).keys.astype(np.int64)

    return search


if __name__ == "__main__":
    for figure in measure(int(sys.argv[1]), float(sys.argv[2])):
        print(json.dumps(dataclasses.asdict(figure), default=float), flush=True)
