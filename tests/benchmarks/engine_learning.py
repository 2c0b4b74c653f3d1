"""Recall and search times while every row learns: half its norm away, in 41 updates each.

A million rows of the mixture; each update steps 8,192 of them, drawn anew, so that in the end a
row has gone half its norm on average, straight to a place drawn before, with noise as long as the
step. Updates come at an even rate from one thread, another searches all the time, and the store
seals, merges and clusters anew beside both. Now and then the updates pause: recall@10 is measured
against exact search of the rows as they then are, beside an index built at that moment, searched
with an equal probe, and beside the index that the run began with, never sealed again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions
from memstore.embedded import EmbeddedMemory
from memstore.index import jobs
from memstore.index.two_tier import TwoTierIndex, Version
from memstore.kernels.score import score_rows
from memstore.memory import NO_SLOT, Array
from memstore.shard.shard import Shard
from tests.benchmarks.data import WIDTH, mixture
from tests.benchmarks.runner import Curve, Figure, Measured, at_least, at_most

K, BATCH, QUERIES = 10, 8_192, 512
VISITS = 41
"""Updates of a row: of 5,000 batches among a million rows."""

MOVE = 0.5
NOISE = 1.0
"""Length of the noise of a step over that of the step."""

SEARCHED = 16
"""Queries of the search that is timed."""

RATE = 150_000
"""Rows a second that are offered; the target is to take 100,000."""

TARGET = 0.96

CORES = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Moment:
    """What was measured after so many updates.

    seconds: of updating, pauses left out.  recall: of the store; never: of the index that the run
    began with; rebuilt: of one built now, NaN where none was.  probe: lists visited by all three.
    p99_s: of the searches since the moment before; apart: whether they had a core of their own.
    """

    updates: int
    seconds: float
    recall: float
    never: float
    rebuilt: float
    probe: int
    fresh: int
    p99_s: float
    apart: bool
    clusterings: int


@dataclass(frozen=True)
class Learning:
    """A run: its moments, and what holds for all of it.

    busy_p99_s: with a core of their own, and without.
    """

    moments: list[Moment]
    idle_p99_s: float
    busy_p99_s: tuple[float, float]
    moved: float
    rate: float
    delayed_s: float
    jobs: dict[str, tuple[int, int, float]]


def run(quick: bool) -> Iterator[Measured]:
    """Runs it once, and says what was the worst of it."""
    rows, moments = (100_000, 6) if quick else (1_000_000, 10)
    done = learn(rows, moments, rebuilt_every=3 if quick else 5)
    case = f"{rows:,} x {WIDTH}, {VISITS} updates a row, moved {done.moved:.2f} of the norm"
    yield at_least(100_000, Figure("update_rate_learning", case, done.rate, "rows/s"))
    least = min(moment.recall for moment in done.moments)
    yield at_least(0.95, Figure("recall_learning_least", case, least, "share"))
    under = max(
        moment.rebuilt - moment.recall
        for moment in done.moments
        if moment.rebuilt == moment.rebuilt
    )
    yield at_most(0.02, Figure("recall_under_rebuilt", f"{case}; equal probe", under, "share"))
    never = done.moments[-1]
    yield Figure("recall_never_sealed_again", f"{case}; probe {never.probe}", never.never, "share")
    apart_s, together_s = done.busy_p99_s
    asked = f"{case}; {SEARCHED} queries, peer: idle"
    idle_ms = 1e3 * done.idle_p99_s
    apart = Figure(
        "search_p99_learning", f"{asked}, a core of their own", 1e3 * apart_s, "ms", idle_ms
    )
    yield at_most(3.0, apart)
    yield Figure("search_p99_learning", f"{asked}, any core", 1e3 * together_s, "ms", idle_ms)
    plot = f"{rows:,} rows of {WIDTH} learn, moved {done.moved:.2f} of the norm"
    for label, name in (("memstore", "recall"), ("never sealed again", "never")):
        points = [(float(m.updates), float(getattr(m, name))) for m in done.moments]
        yield Curve(plot, label, f"updates of {BATCH:,} rows", f"recall@{K}", points)
    for kind, (runs, count, seconds) in done.jobs.items():
        yield Figure(f"job_{kind}", f"{case}; {runs} runs, {count:,} rows", seconds, "s")


def learn(
    rows: int,
    moments: int,
    *,
    rebuilt_every: int,
    index: IndexConfig = IndexConfig(recall_target=TARGET),
    noise: float = NOISE,
    rate: float = RATE,
) -> Learning:
    """Lets all rows learn, and measures at so many moments, evenly apart."""
    rng = np.random.default_rng(1)
    keys_ND, queries = mixture(rows, 3 * QUERIES)
    asked, timed, tuned = np.split(queries, 3)
    steps_ND = _steps(keys_ND, rng)
    pool = rng.standard_normal((4 * BATCH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    updates = rows * VISITS // BATCH
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        store = stack.enter_context(memstore.open(folder))
        config = MemoryConfig(dim=WIDTH, index=index, optimizer="sgd")
        memory = store.create("rows", config)
        assert isinstance(memory, EmbeddedMemory)
        stack.callback(store.drop, "rows")  # What closing would write is of no use to anybody.
        memory.append(keys_ND)
        for at in range(0, QUERIES, 8):
            memory.shards[0].index.recent.saw(tuned[at : at + 8])
        memory.reindex()
        memory.settle()
        first = memory.shards[0].index.version
        search = partial(_search, memory, timed)
        for _ in range(20):
            search()
        idle_s = np.array([search() for _ in range(300)])

        stop, going = threading.Event(), threading.Event()
        times: list[float] = []
        searcher = threading.Thread(target=_keep_searching, args=(search, stop, going, times))
        searcher.start()
        by_place: tuple[list[float], list[float]] = [], []
        found, spent_s, delayed_s, seen = [], 0.0, 0.0, 0
        for moment in range(moments):
            apart = moment % 2 == 0
            _place(searcher, apart)
            going.set()
            begun = time.perf_counter()
            for update in range(updates * moment // moments, updates * (moment + 1) // moments):
                some = rng.integers(0, rows, BATCH)
                move_BD = steps_ND[some]
                off = rng.integers(0, len(pool) - BATCH)
                lengths_B1 = np.linalg.norm(move_BD, axis=1, keepdims=True)
                move_BD += noise * lengths_B1 * pool[off : off + BATCH]
                delayed_s += memory.update(some, -move_BD, lr=1.0).delay_s
                due = begun + (update + 1 - updates * moment // moments) * BATCH / rate
                time.sleep(max(0.0, due - time.perf_counter()))
            spent_s += time.perf_counter() - begun
            going.clear()
            _place(searcher, False)
            window = np.array(times[seen:])
            seen += len(window)
            by_place[not apart].extend(window)
            state = memory.describe().shards[0]
            shard = memory.shards[0]
            rebuilt = np.nan
            true = memory.search(asked, K, SearchOptions(exact=True)).scores_QK[:, -1]
            at_moment = (
                _found(shard, shard.index.version, asked, true, state.probe),
                _found(shard, first, asked, true, state.probe),
            )
            if (moment + 1) % rebuilt_every == 0:
                rebuilt = _found(shard, _built(shard, tuned), asked, true, state.probe)
            found.append(
                Moment(
                    updates * (moment + 1) // moments,
                    spent_s,
                    *at_moment,
                    rebuilt,
                    state.probe,
                    state.fresh,
                    float(np.percentile(window, 99)),
                    apart,
                    next(job.runs for job in state.jobs if job.kind == "cluster"),
                )
            )
            print(found[-1], file=sys.stderr)
        stop.set()
        going.set()
        searcher.join()
        costs = memory.describe().shards[0].jobs
        now_ND = memory.shards[0].rows.keys_ND[:rows]
        moved = np.linalg.norm(now_ND - keys_ND, axis=1) / np.linalg.norm(keys_ND, axis=1)
        return Learning(
            found,
            float(np.percentile(idle_s, 99)),
            (float(np.percentile(by_place[0], 99)), float(np.percentile(by_place[1], 99))),
            float(moved.mean()),
            updates * BATCH / spent_s,
            delayed_s,
            {job.kind: (job.runs, job.rows, job.seconds) for job in costs},
        )


def _steps(keys_ND: Array, rng: np.random.Generator) -> Array:
    """What one update adds to each row, so that `VISITS` of them move it by `MOVE` on average."""
    places_ND, _ = mixture(len(keys_ND), 0, seed=1)
    places_ND -= keys_ND
    places_ND /= np.linalg.norm(places_ND, axis=1, keepdims=True)
    share_N = rng.uniform(0, 2 * MOVE, len(keys_ND)) / VISITS
    places_ND *= (share_N * np.linalg.norm(keys_ND, axis=1)).astype(np.float32)[:, None]
    return places_ND


def _search(memory: EmbeddedMemory, queries: Array) -> float:
    """Times one search of some of the queries."""
    at = int(time.perf_counter() * 1e4) % (len(queries) - SEARCHED)
    begun = time.perf_counter()
    memory.search(queries[at : at + SEARCHED], K)
    return time.perf_counter() - begun


def _place(searcher: threading.Thread, apart: bool) -> None:
    """Gives the searches a core of their own, and all other threads the others; or any core."""
    assert searcher.native_id is not None
    apart = apart and len(CORES) > 1
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # Threads end.
            os.sched_setaffinity(int(task.name), CORES[:-1] if apart else CORES)
    if apart:
        os.sched_setaffinity(searcher.native_id, CORES[-1:])


def _keep_searching(
    search: partial[float], stop: threading.Event, going: threading.Event, times: list[float]
) -> None:
    while not stop.is_set():
        going.wait()
        taken = search()
        if going.is_set():
            times.append(taken)
        time.sleep(0.002)


def _found(shard: Shard, version: Version, asked: Array, floor_Q: Array, probe: int) -> float:
    """Recall of one version of the index, scored from the rows as they are."""
    options = SearchOptions(probe=probe)
    rows_QC = shard.index.propose(version, asked, K, options).rows_QC
    fresh_QF = np.broadcast_to(version.fresh_F, (len(asked), len(version.fresh_F)))
    hit, view = 0.0, shard.rows.view
    for some in np.array_split(np.arange(len(asked)), 32):
        rows_SC = np.concatenate([rows_QC[some], fresh_QF[some]], axis=1)
        scores_SC = np.empty(rows_SC.shape, np.float32)
        score_rows(asked[some], view.keys_ND, view.marks, rows_SC, scores_SC)
        right = (scores_SC >= floor_Q[some, None] * (1 - 1e-6)) & (rows_SC != NO_SLOT)
        hit += np.minimum(right.sum(axis=1), K).sum() / K
    return float(hit / len(asked))


def _built(shard: Shard, tuned: Array) -> Version:
    """An index of the rows as they are, with as many clusters."""
    rows = shard.rows.size
    now_ND = shard.rows.keys_ND[:rows].copy()
    config = IndexConfig(recall_target=TARGET, clusters=shard.index.version.clusters)
    index = TwoTierIndex(config, WIDTH, lambda rows_R: now_ND[rows_R])
    for at in range(0, QUERIES, 8):
        index.recent.saw(tuned[at : at + 8])
    source = jobs.Source(
        read=lambda rows_R: now_ND[rows_R],
        live=lambda: np.arange(rows),
        count=lambda: rows,
        alive=lambda rows_R: rows_R < rows,
        writers=contextlib.nullcontext(),
    )
    jobs.cluster(index, source)
    return index.version
