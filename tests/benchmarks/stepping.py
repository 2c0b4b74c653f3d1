"""Training steps on a memory of rows alone, as trainers of their own take them; no benchmark.

    python -m tests.benchmarks.stepping HOST:PORT,HOST:PORT… SEED

connects, says `ready`, and for each number of seconds that it is told takes steps for so long and
says what became of them. A step searches for a batch of queries, gathers the rows found, each once,
and updates them by gradients: what training asks of a memory, without a network that it is for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import memstore
from memstore import MemoryConfig, SearchOptions
from memstore.memory import NO_SLOT, Array, Memory
from tests.benchmarks.data import mixture
from tests.benchmarks.parted import Parts, crossed
from tests.benchmarks.peers.client import ROOT

WIDTH, BATCH, K = 64, 64, 16
QUERIES = 4_096
EXACT = SearchOptions(exact=True)
LR = 1e-4
WARM = 10
"""Steps that are not counted."""


def config(shards: int) -> MemoryConfig:
    return MemoryConfig(
        dim=WIDTH, shards=shards, index="exact", optimizer="rowwise_adagrad", value_dim=None
    )


def filled(client: Any, shards: int, rows: int) -> Memory:
    """The memory that is stepped on, over so many shards."""
    memory: Memory = client.create("m", config(shards))
    keys_ND, _ = mixture(rows, 1, width=WIDTH)
    for first in range(0, rows, 1 << 15):
        memory.append(keys_ND[first : first + (1 << 15)])
    return memory


def stepper(memory: Memory, seed: int) -> Callable[[], int]:
    """What takes a step, and returns how many rows it updated."""
    _, queries_QD = mixture(1, QUERIES, width=WIDTH, seed=seed + 1)
    rng = np.random.default_rng(seed)
    noise_BD: Array = rng.standard_normal((BATCH * K, WIDTH), np.float32)

    def step() -> int:
        first = int(rng.integers(0, QUERIES - BATCH))
        found = memory.search(queries_QD[first : first + BATCH], K, EXACT)
        slots_B = np.unique(found.slots_QK[found.slots_QK != NO_SLOT])
        rows = memory.gather(slots_B)
        assert rows.keys_BD is not None
        return memory.update(slots_B, rows.keys_BD + noise_BD[: len(slots_B)], lr=LR).applied

    return step


@dataclass(frozen=True)
class Stepped:
    """What one trainer did.

    updated: rows.  used_s: of processor, of its own.  sent, got: bytes, as its kernel counts.
    """

    steps: int
    seconds: float
    updated: int
    used_s: float
    sent: int
    got: int


class Trainer:
    """A trainer in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def wait(self) -> None:
        """Until it is ready."""
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError("a trainer did not get ready; standard error says why")

    def begin(self, seconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()

    def end(self) -> Stepped:
        assert self._process.stdout is not None
        return Stepped(**json.loads(self._process.stdout.readline()))


@contextlib.contextmanager
def trainers(servers: Parts, count: int) -> Iterator[list[Trainer]]:
    """So many of them, ready; they end with it."""
    command = [sys.executable, "-m", "tests.benchmarks.stepping", servers.connected]
    with contextlib.ExitStack() as stack:
        made = []
        for seed in range(count):
            process = stack.enter_context(
                subprocess.Popen(
                    [*command, str(seed)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            assert process.stdin is not None
            stack.callback(process.stdin.close)
            made.append(Trainer(process))
        for trainer in made:
            trainer.wait()
        yield made


def _train(addresses: str, seed: int) -> None:
    with memstore.connect(addresses, deadline_s=120.0) as client:
        step = stepper(client.memory("m"), seed)
        for _ in range(WARM):
            step()
        print("ready", flush=True)
        for line in sys.stdin:
            told = _stepped(step, float(line), addresses.split(","))
            print(json.dumps(dataclasses.asdict(told)), flush=True)


def _stepped(step: Callable[[], int], seconds: float, addresses: list[str]) -> Stepped:
    before, used = crossed(addresses), time.process_time()
    begun, steps, updated = time.perf_counter(), 0, 0
    while time.perf_counter() - begun < seconds:
        updated += step()
        steps += 1
    took_s, used = time.perf_counter() - begun, time.process_time() - used
    sent, got = (b - a for a, b in zip(before, crossed(addresses), strict=True))
    return Stepped(steps, took_s, updated, used, sent, got)


if __name__ == "__main__":
    _train(sys.argv[1], int(sys.argv[2]))
