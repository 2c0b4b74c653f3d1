"""Rows in files within a budget of main memory: is it kept, and what does it cost?

A memory of float32 rows of 128 with Adagrad's state lies in files, an eighth of their bytes in main
memory at most. A trainer reads 256 rows a step and moves them; one row in 200 is hot, and is
named in nineteen of twenty cases; wherever one lies, with its state it takes two pages. Beside it,
by turns, learns the same memory all of which is in main memory, and what both answer is compared.

Then rows are read that are in no memory: as a budget has them, all of a call together, beside one
page after the other, and beside a mapping by itself, with which the system reads what lies around.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

import memstore
from memstore import MemoryConfig
from memstore.kernels.pages import PAGE
from memstore.kernels.sequence import quiet
from memstore.kernels.whole import copies
from memstore.memory import Array, Memory, Slots
from memstore.shard.region import Region
from memstore.shard.residency import SWEPT, Residency
from tests.benchmarks.runner import Figure, Measured, at_least, at_most, paired_seconds

ROWS, QUICK_ROWS, DIM = 2_000_000, 200_000, 128
LOADED, BATCH = 10_000, 256
STEPS, QUICK_STEPS = 2_000, 200
HOT, NAMED = 0.005, 0.95

PART = 8
"""Of the bytes of rows and state, in main memory at most one part."""

COLD, QUICK_COLD, OF, ROUNDS = 20_000, 2_000, 8, 5
"""Pages that are read, and of how many times as many."""


def run(quick: bool) -> Iterator[Measured]:
    rows, steps = (QUICK_ROWS, QUICK_STEPS) if quick else (ROWS, STEPS)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".tiers-") as folder:
        yield from _learning(Path(folder), rows, steps)
        yield from _cold(Path(folder), QUICK_COLD if quick else COLD)


def _learning(folder: Path, rows: int, steps: int) -> Iterator[Measured]:
    size = 2 * rows * DIM * 4
    budget = size // PART
    case = f"{rows:,} rows of {DIM}, {budget / 1e6:,.0f} MB for {size / 1e6:,.0f}"
    with memstore.open(folder) as store:
        same = {"dim": DIM, "optimizer": "adagrad", "index": "none"}
        tiers = {"storage": "mapped", "resident_bytes": budget}
        ample = store.create("ample", MemoryConfig.from_dict(same))
        tight = store.create("tight", MemoryConfig.from_dict(same | tiers))
        rng, held = np.random.default_rng(0), list[float]()
        for first in range(0, rows, LOADED):
            keys_BD = rng.standard_normal((min(LOADED, rows - first), DIM), dtype=np.float32)
            for memory in (ample, tight):
                memory.append(keys_BD)
            held.append(_held(tight) / budget)
        hot = rng.permutation(rows)[: int(rows * HOT)]
        ours, other, equal = list[float](), list[float](), list[np.bool_]()
        for step in range(steps):
            slots, grads = _drawn(rng, hot, rows)
            answers = []
            turns = ((tight, ours), (ample, other))
            for memory, seconds in turns if step % 2 else turns[::-1]:
                begun = time.perf_counter()
                answers.append(memory.gather(slots).keys_BD)
                memory.update(slots, grads, lr=0.01)
                seconds.append(time.perf_counter() - begun)
            equal.append(np.asarray(answers[0] == answers[1]).all())
            held.append(_held(tight) / budget)
    most = Figure("held_most", f"{case}, loaded and learnt", max(held), "of the budget")
    yield at_most(1.0, most)
    yield at_least(1.0, Figure("answers_equal", case, float(np.mean(equal)), "share"))
    # Of the second half, when the hot rows were seen.
    late = [[1e3 * second for second in each[steps // 2 :]] for each in (ours, other)]
    words = f"a step of {BATCH} rows, {case}; peer: all in main memory"
    for name, of in (("median", statistics.median), ("mean", statistics.fmean), ("longest", max)):
        yield Figure(f"step_{name}", words, of(late[0]), "ms", of(late[1]))


def _held(memory: Memory) -> int:
    return sum(shard.row_bytes for shard in memory.describe().shards)


def _drawn(rng: np.random.Generator, hot: Slots, rows: int) -> tuple[Slots, Array]:
    """What a step names, and its gradients."""
    hot_B = rng.random(BATCH) < NAMED
    slots = np.where(hot_B, rng.choice(hot, BATCH), rng.integers(0, rows, BATCH))
    return slots, rng.standard_normal((BATCH, DIM), dtype=np.float32)


def _cold(folder: Path, pages: int) -> Iterator[Measured]:
    """Rows of a page each, at random."""
    rows, rng = OF * pages, np.random.default_rng(1)
    singly, plain = (Region((PAGE // 4,), np.float32, folder, singly=how) for how in (True, False))
    for region in (singly, plain):
        region.grow(rows)
        for first in range(0, rows, LOADED):
            region.view(rows)[first : first + LOADED] = first

    def read(region: Region, *, together: bool = False) -> float:
        region.give_back(np.arange(rows), waits=True)
        # Of a budget that lets all of them stay.
        kept = Residency(2 * SWEPT * rows * PAGE, lambda: 0)
        kept.watch({"keys": region}, rows)
        slots = rng.permutation(rows)[:pages]
        begun = time.perf_counter()
        if together:
            kept.want(slots, "keys")
        copies(region.view(rows), quiet(rows), slots)
        return time.perf_counter() - begun

    case = f"{pages:,} pages of {rows:,} read at random, all of a call together"
    for words, region in (("one after the other", singly), ("as a mapping reads them", plain)):
        peer = partial(read, region)
        timed = paired_seconds(lambda: read(singly, together=True), peer, ROUNDS)
        rates = pages / timed.a_s, pages / timed.b_s
        ratio = 1 / timed.ratio
        figure = Figure("cold", f"{case}; peer: {words}", rates[0], "pages/s", rates[1], ratio)
        yield at_least(2.0, figure)
