"""A step of sparse access memory, forward and backward, beside a neural Turing machine.

LSTM of 100, words of 32, 4 heads, K = 4; words distinct and random. Rae et al. 2016, figure 1: at a
million words 1,600 times as fast as an NTM; at 65,536 words 7.8 MiB for 100 steps against 29 GiB.

A step of SAM is a tenth of an episode of 10, with backpropagation through all of it. Of the NTM,
whose step copies the memory several times, an episode has 10 steps up to 4,096 words, and one from
there on: that one has no gradient of its memory to take further back, so it is a step at its
cheapest. Both use all cores, but for SAM's dense part, whose products are too short for two. Ratios
are medians of pairs, by turns.

Recall is that of words looked up under noise of 0.2 σ, found among the 4 best.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from memstore.episodic import EpisodicMemory
from memstore.memory import Array
from models.ntm import NTM
from models.sam import SAM
from tests.benchmarks.runner import Curve, Figure, Measured, at_least, at_most, paired_seconds

WIDTH, INPUTS, K = 32, 8, 4
STEPS, FEW_WORDS, KEPT_STEPS = 10, 4_096, 100
BATCH, LOOKED_UP, NOISE = 8, 500, 0.2
PROBE, DEEP_PROBE = (8, 16), (8, 32)
"""Groups and leaves entered up to a million words, and in the comparison of sizes up to 16."""

CORES = len(os.sched_getaffinity(0))

MILLION = 1_000_000
SMALL, LARGE = 65_536, 16_000_000
LONG = 200_000
SIZES = (64, 1_024, 16_384, SMALL, 262_144, MILLION)
ALONE_SIZES = (SMALL, 262_144, MILLION, 4_000_000, LARGE)


def run(quick: bool) -> Iterator[Measured]:
    """Batches of 8 beside the NTM, one memory at a time, bytes, and a long episode."""
    sizes = (64, FEW_WORDS) if quick else SIZES
    times: dict[str, list[tuple[float, float]]] = {"memstore SAM": [], "NTM": []}
    for words in sizes:
        yield from _beside_ntm(words, 3 if words >= MILLION else 5, times)
    for label, points in times.items():
        yield Curve(
            f"A step forward and backward, batch {BATCH}",
            label,
            "words, log2",
            "ms",
            points,
            log_y=True,
        )
    yield from _alone((FEW_WORDS, SMALL) if quick else ALONE_SIZES, 5 if quick else 15)
    yield from _kept(FEW_WORDS if quick else SMALL, sizes if quick else SIZES[:4])
    yield from _long(2_000 if quick else LONG, SMALL if quick else 2_000_000)


def _beside_ntm(
    words: int, rounds: int, times: dict[str, list[tuple[float, float]]]
) -> Iterator[Measured]:
    memory, slots_BR = _filled(BATCH, words, PROBE)
    ntm_steps = STEPS if words <= FEW_WORDS else 1
    timed = paired_seconds(_sam_step(memory, STEPS), _ntm_step(memory.rows_BND, ntm_steps), rounds)
    case = f"{words:,} words, batch {BATCH}; peer NTM, {ntm_steps} steps"
    figure = Figure("step", case, timed.a_s * 1e3, "ms", timed.b_s * 1e3)
    speedup = Figure(
        "steps_a_second", case, 1 / timed.a_s, "steps/s", 1 / timed.b_s, ratio=1 / timed.ratio
    )
    yield figure
    yield at_least(2_500, speedup) if words == MILLION else speedup
    yield at_least(0.95, _recall(memory, slots_BR, f"{words:,} words, batch {BATCH}", PROBE))
    for label, seconds in zip(times, (timed.a_s, timed.b_s), strict=True):
        times[label].append((float(np.log2(words)), seconds * 1e3))


def _alone(sizes: tuple[int, ...], rounds: int) -> Iterator[Measured]:
    """One memory of each size beside one of the smallest."""
    small, _ = _filled(1, sizes[0], DEEP_PROBE)
    small_step = _sam_step(small, STEPS)
    points = []
    for words in sizes[1:]:
        memory, slots_BR = _filled(1, words, DEEP_PROBE)
        timed = paired_seconds(_sam_step(memory, STEPS), small_step, rounds)
        case = f"{words:,} words, batch 1; peer {sizes[0]:,} words"
        figure = Figure(
            "step_alone", case, timed.a_s * 1e3, "ms", timed.b_s * 1e3, ratio=timed.ratio
        )
        yield at_most(2, figure) if words == LARGE else figure
        case = f"{words:,} words, batch 1"
        yield at_least(0.95, _recall(memory, slots_BR, case, DEEP_PROBE))
        points.append((float(np.log2(words)), timed.a_s * 1e3))
        first = (float(np.log2(sizes[0])), timed.b_s * 1e3)
        del memory, slots_BR
    yield Curve(
        "A step forward and backward, batch 1",
        "memstore SAM",
        "words, log2",
        "ms",
        [first, *points],
    )


def _kept(words: int, sizes: tuple[int, ...]) -> Iterator[Measured]:
    """What an episode keeps for its backward pass, a memory, beside the memory itself."""
    curves: dict[str, list[tuple[float, float]]] = {"memstore SAM": [], "NTM": []}
    for size in sorted({*sizes, words}):
        memory, _ = _filled(BATCH, size, PROBE)
        kept = _kept_bytes(_sam_forward(memory, KEPT_STEPS)) + memory.journal_bytes
        # The second step is as any other: its memory has gone through the network.
        forward = _ntm_forward(memory.rows_BND[:1])
        dense = KEPT_STEPS * (_kept_bytes(forward(2)) - _kept_bytes(forward(1))) / 2**20
        kept /= BATCH * 2**20
        for label, mebibytes in zip(curves, (kept, dense), strict=True):
            curves[label].append((float(np.log2(size)), mebibytes))
        if size == words:
            case = f"{KEPT_STEPS} steps, {words:,} words, a memory; peer NTM, {KEPT_STEPS} × a step"
            yield Figure("kept", case, kept, "MiB", dense)
            yield at_most(1.5, Figure("kept", f"{KEPT_STEPS} steps, {words:,} words", kept, "MiB"))
    for label, points in curves.items():
        plot = f"Kept for the backward pass of {KEPT_STEPS} steps, a memory"
        yield Curve(plot, label, "words, log2", "MiB", points, log_y=True)


def _long(steps: int, words: int) -> Iterator[Measured]:
    """An episode from empty, without a backward pass: what a step takes late beside early."""
    memory, sam = EpisodicMemory(1, words, WIDTH, probe=PROBE), _network(SAM)
    assert isinstance(sam, SAM)
    torch.set_num_threads(1)
    generator, state = torch.Generator().manual_seed(0), sam.begin(memory)
    tenths = []
    with torch.no_grad():
        for _ in range(10):
            seconds = []
            for inputs_BX in torch.randn(steps // 10, 1, INPUTS, generator=generator):
                start = time.perf_counter()
                state = sam.step(inputs_BX, state)
                seconds.append(time.perf_counter() - start)
            tenths.append((sum(seconds) / len(seconds) * 1e3, memory.journal_bytes))
    (early, some), (late, most) = tenths[1], tenths[-1]
    case = f"step {steps:,} of an episode in {words:,} words; peer step {steps // 5:,}"
    figure = Figure("long_episode", case, late, "ms", early)
    # Short ones compare a time before rows are filed with one after it.
    yield at_most(2, figure) if steps >= LONG else figure
    kept = Figure("long_episode_kept", case, most / steps, "bytes/step", some / (steps // 5))
    # Room is made for half as much again each time that it is full.
    yield at_most(2, kept) if steps >= LONG else kept
    ends = [steps // 10 * tenth / 1_000 for tenth in range(1, 11)]
    for plot, unit, values in (
        ("A step of one long episode, forward", "ms", [ms for ms, _ in tenths]),
        ("Kept by one long episode", "MiB", [held / 2**20 for _, held in tenths]),
    ):
        points = list(zip(ends, values, strict=True))
        yield Curve(plot, "memstore SAM", "thousand steps", unit, points)
    memory.rollback(0)
    left = float(np.abs(memory.rows_BND).max())
    yield at_most(0, Figure("left_after_rollback", case, left, "largest number"))


def _filled(batch: int, words: int, probe: tuple[int, int]) -> tuple[EpisodicMemory, Array]:
    rows_BND = np.random.default_rng(words).standard_normal((batch, words, WIDTH), np.float32)
    memory = EpisodicMemory(batch, words, WIDTH, probe=probe, threads=CORES)
    return memory, memory.fill(rows_BND, copy=False)


def _recall(memory: EpisodicMemory, slots_BR: Array, case: str, probe: tuple[int, int]) -> Figure:
    rng = np.random.default_rng(1)
    right_BQ = rng.integers(0, memory.words, (memory.batch, LOOKED_UP))
    stored_BQD = memory.gather(right_BQ)
    queries_BQD = stored_BQD + NOISE * rng.standard_normal(stored_BQD.shape)
    found_BQK = memory.search(queries_BQD, K).slots_BQK
    recall = float((found_BQK == right_BQ[..., None]).any(2).mean())
    return Figure("recall", f"{case}, {probe[0]} groups, {probe[1]} leaves", recall, "share")


def _network(kind: type[SAM] | type[NTM]) -> nn.Module:
    torch.manual_seed(0)
    return kind(INPUTS, INPUTS, width=WIDTH)


def _sam_forward(memory: EpisodicMemory, steps: int) -> Callable[[], Tensor]:
    sam = _network(SAM)
    assert isinstance(sam, SAM)
    inputs_TBX = torch.randn(steps, memory.batch, INPUTS)
    return lambda: sam(inputs_TBX, sam.begin(memory))[0].square().sum()


def _ntm_forward(rows_BND: Array) -> Callable[[int], Callable[[], Tensor]]:
    ntm, words_BND = _network(NTM), torch.from_numpy(rows_BND.copy())
    assert isinstance(ntm, NTM)
    inputs_TBX = torch.randn(STEPS, len(rows_BND), INPUTS)
    return lambda steps: lambda: ntm(inputs_TBX[:steps], ntm.begin(words_BND))[0].square().sum()


def _sam_step(memory: EpisodicMemory, steps: int) -> Callable[[], float]:
    return _seconds_a_step(_sam_forward(memory, steps), steps, threads=1)


def _ntm_step(rows_BND: Array, steps: int) -> Callable[[], float]:
    return _seconds_a_step(_ntm_forward(rows_BND)(steps), steps, CORES)


def _seconds_a_step(forward: Callable[[], Tensor], steps: int, threads: int) -> Callable[[], float]:
    def seconds() -> float:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        forward().backward()
        return (time.perf_counter() - start) / steps

    return seconds


def _kept_bytes(forward: Callable[[], Tensor]) -> float:
    """Bytes that a forward pass leaves for the backward one: what numpy and Python allocated, and
    the storages that torch saved. The journal of a memory is there before: the call is not the
    first."""
    forward().backward()
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    tracemalloc.start()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    kept = tracemalloc.get_traced_memory()[0] + sum(storages.values())
    tracemalloc.stop()
    loss.backward()
    return kept
