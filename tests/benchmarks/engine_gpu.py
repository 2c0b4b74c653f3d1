"""Search on a GPU, in lists and exactly, beside plain faiss-gpu in the same run.

The peers hold the same rows on the same GPU: inverted lists as faiss builds them, whole rows and a
byte a dimension, and `GpuIndexFlat`. memstore's calls are whole: what the GPU proposes is scored
again from the rows of the host. Beside sealing, a thread rewrites rows as fast as it is let, and
segments are sealed, joined and copied; beside the peer, its lists are copied again and again.

One size alone: `python -m tests.benchmarks.engine_gpu 1000000`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch

import memstore
from memstore import IndexConfig, Memory, MemoryConfig, SearchOptions
from memstore.memory import Array, Slots
from memstore.torch import RowTable
from tests.benchmarks.alone import tell
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.peers.ivf import Engine
from tests.benchmarks.runner import (
    Figure,
    Measured,
    Missing,
    Paired,
    at_least,
    paired_medians,
    paired_seconds,
)
from tests.benchmarks.sweeps import Sweep, Truth

K, ASKED, ROUNDS = 10, 1_024, 7
BATCHES = (64, 1_024)
LEVELS = (0.95, 0.98)
WANTED = 0.98
MOST_PROBE = 2_048
"""Lists that faiss visits at most on a GPU."""
WRITTEN = 8_192
GATHERED = 65_536
SIZES, QUICK = (1_000_000, 10_000_000), (100_000,)
CASES = ("recall", "search_rate", "exact_rate", "search_p99_beside_sealing", "gather_rate")
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Gpu:
    """name: who it is.  place: what torch calls it.  copied: copies an index of faiss to it."""

    name: str
    place: str
    copied: Callable[[faiss.Index], faiss.Index]

    def wait(self) -> None:
        """Waits for what torch has begun."""
        if self.place != "cpu":
            torch.cuda.synchronize(self.place)


def run(quick: bool) -> Iterator[Measured]:
    """Measures each size, or says what is lacking."""
    lacking = _lacking()
    for rows in QUICK if quick else SIZES:
        if lacking:
            yield from (Missing(f"{case} of {rows:,} rows", lacking) for case in CASES)
        else:
            yield from measure(rows, _cuda(), seconds=2.0 if quick else 10.0)


def measure(rows: int, gpu: Gpu, seconds: float) -> Iterator[Figure]:
    """Builds one memory and its peers, and times them by turns."""
    keys_ND, queries_QD = mixture(rows, 2 * ASKED)
    seen, asked = queries_QD[:ASKED], queries_QD[ASKED:]
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        index = IndexConfig(recall_target=WANTED, device="cuda:0")
        memory = store.create("m", MemoryConfig(dim=WIDTH, index=index))
        start = time.perf_counter()
        memory.append(keys_ND)
        for first in range(0, ASKED, 64):
            memory.search(seen[first : first + 64], K)
        memory.reindex()
        _progress(f"memstore: built in {time.perf_counter() - start:.0f} s")
        floor_Q = memory.search(asked, K, SearchOptions(exact=True)).scores_QK[:, -1]
        truth = Truth(asked, keys_ND, floor_Q)
        case = f"{rows:,} x {WIDTH}, k {K}, {gpu.name}"
        yield from _exactly(memory, truth, gpu, case)
        lists = {codec: _lists(keys_ND, codec) for codec in ("Flat", "SQ8")}
        yield from _in_lists(memory, truth, lists, gpu, case)
        yield _gathering(memory, gpu, case)
        yield from _beside_sealing(memory, truth, lists["SQ8"], gpu, case, seconds)
        # What closing would write is of no use to anybody.
        store.drop("m")


def _exactly(memory: Memory, truth: Truth, gpu: Gpu, case: str) -> Iterator[Figure]:
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(truth.keys_ND)
    peer = gpu.copied(flat)
    options = SearchOptions(exact=True)
    for batch in BATCHES:
        queries_QD = truth.queries_QD[:batch]
        timed = paired_medians(
            partial(memory.search, queries_QD, K, options),
            partial(peer.search, queries_QD, K),
            ROUNDS,
        )
        words = f"{case}, batch {batch}; peer: faiss Flat"
        yield _rate("exact_rate", words, batch, timed)
    found = truth.recall(memory.search(truth.queries_QD, K, options).slots_QK)
    theirs = truth.recall(peer.search(truth.queries_QD, K)[1])
    yield at_least(1.0, Figure("recall", f"{case}, exact", found, "share"))
    yield Figure("recall", f"{case}, faiss Flat", theirs, "share")


def _in_lists(
    memory: Memory, truth: Truth, lists: dict[str, Any], gpu: Gpu, case: str
) -> Iterator[Figure]:
    shard = memory.describe().shards[0]
    tuned = f"{case}; as it tunes itself: probe {shard.probe} of {shard.clusters}"
    found = memory.search(truth.queries_QD, K)
    yield at_least(WANTED, Figure("recall", tuned, truth.recall(found.slots_QK), "share"))
    copies = {name: (gpu.copied(index), index.nlist) for name, index in lists.values()}
    for batch in BATCHES:
        most = min(shard.clusters, MOST_PROBE)
        ours = Sweep("memstore", _asking(memory, truth, batch), truth, 1, most)
        peers = [
            Sweep(name, _asking_lists(copy, truth, batch), truth, 1, min(clusters, MOST_PROBE))
            for name, (copy, clusters) in copies.items()
        ]
        for level in LEVELS:
            yield _at_level(f"{case}, batch {batch}", level, ours, peers)


def _at_level(case: str, level: float, ours: Sweep, peers: list[Sweep]) -> Figure:
    """Times memstore and the fastest peer by turns, both at the least probes that reach it."""
    effort, name = ours.reaching(level), f"search_rate_at_{level}"
    if effort is None:
        most = max(recall for recall, _ in ours.points)
        return at_least(level, Figure("recall", f"{case}; no probe reaches it", most, "share"))
    recall, rate = ours.at(effort)
    words = f"{case}; probe {effort}: {recall:.4f}"
    reached = [(peer, peer.reaching(level)) for peer in peers]
    able = [(peer, least) for peer, least in reached if least is not None]
    if not able:
        return Figure(name, f"{words}; no peer reaches {level}", rate, "queries/s")
    peer, least = max(able, key=lambda pair: pair[0].rate(pair[1]))
    timed = paired_seconds(lambda: ours.ask(effort)[1], lambda: peer.ask(least)[1], ROUNDS)
    words = f"{words}; {peer.name} at {least}: {peer.at(least)[0]:.4f}"
    return _rate(name, words, len(ours.truth.queries_QD), timed)


def _gathering(memory: Memory, gpu: Gpu, case: str) -> Figure:
    rows = memory.describe().next_slot
    slots = np.random.default_rng(2).integers(0, rows, GATHERED)
    table, there = RowTable(memory, gpu.place), torch.empty(GATHERED, WIDTH, device=gpu.place)
    here = torch.ones(GATHERED, WIDTH)

    def gather() -> None:
        with torch.no_grad():
            table(slots)
        gpu.wait()

    def copy() -> None:
        there.copy_(here)
        gpu.wait()

    timed, size = paired_medians(gather, copy, ROUNDS), here.nbytes
    words = f"{case}, {GATHERED:,} rows at random from the host; peer: torch copy_ of as many bytes"
    return Figure("gather_rate", words, size / timed.a_s, "bytes/s", size / timed.b_s)


def _beside_sealing(
    memory: Memory, truth: Truth, lists: Any, gpu: Gpu, case: str, seconds: float
) -> Iterator[Figure]:
    name, on_host = lists
    held = [gpu.copied(on_host)]
    queries_QD, rng = truth.queries_QD[: BATCHES[0]], np.random.default_rng(3)
    rows = len(truth.keys_ND)

    def write() -> None:
        slots = rng.choice(rows, min(WRITTEN, rows), replace=False)
        memory.write(slots, truth.keys_ND[slots])

    def copy() -> None:
        held[1:] = [gpu.copied(on_host)]

    probe = memory.describe().shards[0].probe
    held[0].nprobe = min(probe, MOST_PROBE, on_host.nlist)
    before = _sealings(memory)
    ours, written = _times(lambda: memory.search(queries_QD, K), write, seconds)
    sealings = _sealings(memory) - before
    theirs, copied = _times(lambda: held[0].search(queries_QD, K), copy, seconds)
    words = (
        f"{case}, batch {len(queries_QD)}, probe {probe}; {written * min(WRITTEN, rows):,} rows "
        f"rewritten, {sealings} times sealed; peer: {name}, {copied} times copied"
    )
    for percent in (50, 99):
        mine, other = (1e3 * float(np.percentile(times, percent)) for times in (ours, theirs))
        yield Figure(f"search_p{percent}_beside_sealing", words, mine, "ms", other)


def _times(
    search: Callable[[], object], work: Callable[[], None], seconds: float
) -> tuple[list[float], int]:
    """Seconds of each search while another thread works, and how often that was done."""
    ended, done, failed = threading.Event(), 0, []

    def working() -> None:
        nonlocal done
        try:
            while not ended.is_set():
                work()
                done += 1
        except Exception as error:  # noqa: BLE001 - raised again where it is seen
            failed.append(error)

    thread = threading.Thread(target=working)
    thread.start()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not (done or failed):
        start = time.perf_counter()
        search()
        times.append(time.perf_counter() - start)
    ended.set()
    thread.join()
    if failed:
        raise failed[0]
    return times, done


def _sealings(memory: Memory) -> int:
    jobs = (job for shard in memory.describe().shards for job in shard.jobs)
    return sum(job.runs for job in jobs if job.kind == "seal")


def _asking(memory: Memory, truth: Truth, batch: int) -> Callable[[int], tuple[Slots, float]]:
    def ask(effort: int) -> tuple[Slots, float]:
        options = SearchOptions(probe=effort)
        return _asked(lambda some_BD: memory.search(some_BD, K, options).slots_QK, truth, batch)

    return ask


def _asking_lists(copy: Any, truth: Truth, batch: int) -> Callable[[int], tuple[Slots, float]]:
    def ask(effort: int) -> tuple[Slots, float]:
        copy.nprobe = effort
        return _asked(lambda some_BD: copy.search(some_BD, K)[1], truth, batch)

    return ask


def _asked(search: Callable[[Array], Slots], truth: Truth, batch: int) -> tuple[Slots, float]:
    start = time.perf_counter()
    queries_QD = truth.queries_QD
    parts = [search(queries_QD[i : i + batch]) for i in range(0, len(queries_QD), batch)]
    return np.concatenate(parts), time.perf_counter() - start


def _lists(keys_ND: Array, codec: str) -> tuple[str, faiss.Index]:
    start = time.perf_counter()
    clusters = 2 ** round(np.log2(2 * len(keys_ND) ** 0.5))
    engine = Engine(WIDTH, clusters, codec)
    engine.build(keys_ND, CORES)
    faiss.omp_set_num_threads(CORES)
    _progress(f"{engine.about}: built in {time.perf_counter() - start:.0f} s")
    engine.index.referenced_objects = [engine]
    return engine.about, engine.index


def _rate(name: str, case: str, queries: int, timed: Paired) -> Figure:
    ours, theirs = queries / timed.a_s, queries / timed.b_s
    return Figure(name, case, ours, "queries/s", theirs, ratio=1 / timed.ratio)


def _lacking() -> str | None:
    """What there is not, or None."""
    if not hasattr(faiss, "StandardGpuResources"):
        return "this faiss is for CPUs"
    if not faiss.get_num_gpus() or not torch.cuda.is_available():
        return f"faiss sees {faiss.get_num_gpus()} GPUs, torch {torch.cuda.device_count()}"
    return None


def _cuda() -> Gpu:
    def copied(index: faiss.Index) -> faiss.Index:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)

    return Gpu(torch.cuda.get_device_name(0), "cuda:0", copied)


def _progress(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    tell(measure(int(sys.argv[1]), _cuda(), seconds=10.0))
