"""Rows read and rows trained through the service, beside Redis MGET and MSET on loopback.

Both servers and both loads are processes of their own, on two cores; a load is one caller that
waits for each answer. Redis holds the same rows, 512 bytes each, under their numbers, and is asked
by redis-py with hiredis: by one command a call and by a pipeline of several, of which the faster
counts. What is read ends in one array. An update steps row-wise Adagrad in the server; MSET only
stores what the caller has worked out itself. Both are also set beside a bare gRPC call, one that
moves as many bytes and does nothing. By turns, medians of ratios.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import memstore
from memstore import MemoryConfig
from memstore.memory import Array, Memory, Slots
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.bare import bare
from tests.benchmarks.data import WIDTH
from tests.benchmarks.peers.client import Keys, Peer, PeerFailed
from tests.benchmarks.runner import (
    Figure,
    Measured,
    Missing,
    Unavailable,
    at_least,
    paired_seconds,
)
from tests.benchmarks.served import served

GATHERED, UPDATED = 1_024, 8_192
SLOT_BYTES = 8
PARTS = (1, 4)
"""Commands that the rows of a call are dealt out to: one, or a pipeline of as many."""


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread."""
    yield from measured_alone(
        "tests.benchmarks.service_rows", *((20_000, 3) if quick else (1_000_000, 11))
    )


def measure(rows: int, rounds: int) -> Iterator[Measured]:
    """Times reads and updates of a memory whose steps are not logged, then of one whose are."""
    rng = np.random.default_rng(0)
    keys_ND = rng.standard_normal((rows, WIDTH), np.float32)
    shared = Keys(keys_ND)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".service_rows-") as folder:
        with memstore.open(folder) as store:
            for name in ("checkpointed", "logged"):
                config = MemoryConfig(
                    dim=WIDTH, index="none", optimizer="rowwise_adagrad", updates=name
                )
                store.create(name, config).append(keys_ND)
        with (
            served(folder, "--fsync", "interval") as address,
            memstore.connect(address) as client,
        ):
            memory = client.memory("checkpointed")
            yield from _gathers(memory, shared, rows, rounds)
            for name in ("checkpointed", "logged"):
                yield from _updates(client.memory(name), name, shared, rows, rounds)


def _gathers(memory: Memory, shared: Keys, rows: int, rounds: int) -> Iterator[Measured]:
    slots_CB = np.random.default_rng(1).integers(0, rows, (20, GATHERED))

    def ours() -> float:
        return _seconds(lambda: [memory.gather(slots_B) for slots_B in slots_CB])

    case = f"{rows:,} x {WIDTH} float32; {GATHERED:,} rows a call"
    there, back = GATHERED * SLOT_BYTES, GATHERED * (SLOT_BYTES + 4 * WIDTH)
    yield _processor("service_gather_processor", case, ours, len(slots_CB), rounds)
    yield _beside_bare("service_gather_rate", case, ours, slots_CB, there, back, rounds)
    yield from _beside(
        "service_gather_rate", case, "MGET", ours, lambda redis: redis.gather(slots_CB),
        shared, {}, slots_CB.size, 4.0, rounds,
    )  # fmt: skip


def _updates(memory: Memory, name: str, shared: Keys, rows: int, rounds: int) -> Iterator[Measured]:
    rng = np.random.default_rng(2)
    slots_CB = rng.integers(0, rows, (4, UPDATED))
    grads_BD = rng.standard_normal((UPDATED, WIDTH), np.float32) * np.float32(1e-6)
    keys_CBD: Array = np.tile(grads_BD, (len(slots_CB), 1, 1))

    def ours() -> float:
        return _seconds(lambda: [memory.update(slots_B, grads_BD, lr=1e-3) for slots_B in slots_CB])

    logged = name == "logged"
    how = "updates=logged, fsync=interval" if logged else "updates=checkpointed"
    case = f"{rows:,} x {WIDTH} float32; {UPDATED:,} rows a call, row-wise Adagrad, {how}"
    there = UPDATED * (SLOT_BYTES + 4 * WIDTH)
    yield _processor("service_update_processor", case, ours, len(slots_CB), rounds)
    yield _beside_bare("service_update_rate", case, ours, slots_CB, there, 8, rounds)
    for measured in _beside(
        "service_update_rate", case, "MSET", ours, lambda redis: redis.replace(slots_CB, keys_CBD),
        shared, {"durable": logged}, slots_CB.size, 3.0, rounds,
    ):  # fmt: skip
        if isinstance(measured, Figure):
            alone = Figure("service_update_rate", case, measured.value, "rows/s")
            yield at_least(300_000, alone)
        yield measured


def _beside(
    figure: str,
    case: str,
    command: str,
    ours: Callable[[], float],
    theirs: Callable[[Peer], float],
    shared: Keys,
    options: dict[str, bool],
    moved: int,
    bound: float,
    rounds: int,
) -> Iterator[Measured]:
    """The rate beside that of the faster way to ask Redis; both are timed in one run."""
    timed = []
    try:
        for parts in PARTS:
            with Peer("servers.redis_rows", shared, cached=False, parts=parts, **options) as redis:
                pair = paired_seconds(ours, functools.partial(theirs, redis), rounds)
                timed.append((pair.ratio, pair, redis.about))
    except (Unavailable, PeerFailed) as missing:
        rate = moved / float(np.median([ours() for _ in range(rounds)]))
        yield Figure(figure, case, rate, "rows/s")
        yield Missing(figure, str(missing))
        return
    slowest, pair, about = max(timed, key=lambda one: one[0])
    words = f"{case}; peer: {command}, {about}"
    rate, other = moved / pair.a_s, moved / pair.b_s
    yield at_least(bound, Figure(figure, words, rate, "rows/s", other, ratio=1 / slowest))


def _beside_bare(
    figure: str,
    case: str,
    ours: Callable[[], float],
    slots_CB: Slots,
    there: int,
    back: int,
    rounds: int,
) -> Figure:
    with bare() as call:
        pair = paired_seconds(
            ours, lambda: _seconds(lambda: [call(there, back) for _ in slots_CB]), rounds
        )
    rate, other = slots_CB.size / pair.a_s, slots_CB.size / pair.b_s
    words = f"{case}; peer: a bare gRPC call of {there:,} bytes, {back:,} back"
    return Figure(figure, words, rate, "rows/s", other, ratio=1 / pair.ratio)


def _processor(
    figure: str, case: str, ours: Callable[[], float], calls: int, rounds: int
) -> Figure:
    """What a call takes of processors, here and in the server, whatever else the machine does."""
    ours()
    before = _used_s()
    for _ in range(rounds):
        ours()
    used_s = (_used_s() - before) / (rounds * calls)
    return Figure(figure, f"{case}; load and server, a call", 1e3 * used_s, "ms")


def _used_s() -> float:
    """Seconds of processor of this process and of its children that live, which is the server."""
    ticks = 0
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text(encoding="utf-8").split():
            # The fields behind the name, which may hold spaces; user and system are 14 and 15.
            fields = (
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            )
            ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    tell(measure(*map(int, sys.argv[1:])))
