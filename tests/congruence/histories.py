"""Histories: writers of one memory that know every state they brought it to, and when.

Each has slots of its own, of all shards, and does one change after the other. A cut through all of
them must be a state that the whole had at one moment: of each writer one that it came to, and none
may lack a change that was over before another, which it has, was begun.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memstore import Memory, MemoryConfig, RequestId
from memstore.errors import MemstoreError
from memstore.memory import Array
from tests.congruence.oracle import Oracle

WIDTH = 3
CONFIG = MemoryConfig(dim=WIDTH, shards=5, index="exact", optimizer="sgd", updates="logged")


class Writer:
    """Changes its slots, again and again, each time until it is told that it is done."""

    def __init__(self, memory: Memory, slots: Sequence[int], name: str, pause_s: float) -> None:
        self.memory, self.slots, self.name = memory, [*slots], name
        self._rng, self._pause_s = np.random.default_rng(slots[0]), pause_s
        self._oracle = Oracle(memory.config)
        self._oracle.next_slot = slots[0]
        self._oracle.append(np.zeros((len(slots), WIDTH), np.float32), None, {})
        self.states = [self._state()]
        self.begun, self.ended = [-math.inf], [-math.inf]

    @property
    def done(self) -> int:
        """How many changes were acknowledged."""
        return sum(ended < math.inf for ended in self.ended) - 1

    def run(self, over: threading.Event) -> None:
        while not over.is_set():
            self.step()
            time.sleep(self._pause_s)

    def step(self) -> None:
        """One change, of one slot or of several, and so of one part or of several."""
        count = int(self._rng.choice([1, 2, len(self.slots)]))
        slots = [int(s) for s in self._rng.choice(self.slots, count, replace=False)]
        rows = self._rng.integers(-9, 10, (count, WIDTH)).astype(np.float32)
        do: Callable[..., Any]
        args: tuple[Any, ...]
        if self._rng.integers(2):
            self._oracle.write(slots, rows)
            do, args = self.memory.write, (slots, rows)
        else:
            self._oracle.update(slots, rows, None, 1.0)
            do, args = self.memory.update, (slots, rows, None, 1.0)
        request = RequestId(self.name, len(self.states))
        self.ended.append(math.inf)
        self.begun.append(time.monotonic())
        self.states.append(self._state())
        until_done(lambda: do(*args, request_id=request))
        self.ended[-1] = time.monotonic()

    def at(self, keys_BD: Array, least: int, most: int) -> list[int]:
        """After which of its changes its slots held these keys, of those from `least` to `most`."""
        given = keys_BD.tobytes()
        return [n for n in range(least, most + 1) if self.states[n] == given]

    def _state(self) -> bytes:
        return self._oracle.keys(self.slots).tobytes()


def until_done(call: Callable[[], Any]) -> Any:
    while True:
        try:
            return call()
        except MemstoreError as error:
            if not error.retryable:
                raise


def made(memory: Memory, writers: int, slots: int, pause_s: float = 0.001) -> list[Writer]:
    """Writers of a memory that has nothing yet."""
    memory.append(np.zeros((writers * slots, WIDTH), np.float32))
    ranges = [range(i * slots, (i + 1) * slots) for i in range(writers)]
    return [Writer(memory, own, f"writer-{i}", pause_s) for i, own in enumerate(ranges)]


def check_cut(
    found: Memory, writers: Sequence[Writer], before: Sequence[int], after: Sequence[int]
) -> None:
    """Raises unless a memory is as it was at one moment.

    before: how many changes each writer was told of before the cut was asked for.  after: how many
    it had begun when the cut was there.
    """
    states = []
    for writer, least, most in zip(writers, before, after, strict=True):
        keys_BD = found.gather(writer.slots).keys_BD
        assert keys_BD is not None
        states.append(writer.at(keys_BD, least, most))
        assert states[-1], f"{writer.name} came to no such state from {least} to {most}"
    for one, has in zip(writers, states, strict=True):
        for other, lacks in zip(writers, states, strict=True):
            following = lacks[-1] + 1
            over = other.ended[following] if following < len(other.ended) else math.inf
            assert over >= one.begun[has[0]], (
                f"what {other.name} had done before {one.name} began is missing"
            )
