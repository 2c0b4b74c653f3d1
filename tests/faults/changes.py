"""Changes to a memory, one after the other, the same whoever makes them; and what came of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import memstore
from memstore import IndexConfig, MemoryConfig, RequestId, SearchOptions
from memstore.durable.checkpoints import base_of
from memstore.memory import Array, Memory

WIDTH, VALUES, AT_A_TIME = 8, 3, 16
MOST = 1_024
"""With more rows than these, what erases takes half of them: long runs stay as quick as short."""

RECORDS = {"name": "string", "year": "int64"}
CLIENT = "somebody"


def config(dtype: str, updates: str, optimizer: str, shards: int) -> MemoryConfig:
    return MemoryConfig(
        dim=WIDTH,
        value_dim=VALUES,
        dtype=dtype,  # type: ignore[arg-type]
        shards=shards,
        records=RECORDS,
        lookup=("year",),
        optimizer=optimizer,  # type: ignore[arg-type]
        updates=updates,  # type: ignore[arg-type]
        index=IndexConfig(fresh_limit=64, maintenance="inline"),
    )


class Script:
    """Which change comes when: the same whatever memory it is made to, and whoever makes it."""

    def __init__(self) -> None:
        self.number = 0
        self._live = np.empty(0, np.int64)
        self._next = 0

    def skip(self, number: int) -> Script:
        """Goes on to that change."""
        while self.number < number:
            self.draw()
        return self

    def draw(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """The next change: a verb and its arguments."""
        number, self.number = self.number, self.number + 1
        rng = np.random.default_rng(number)

        def rows(width: int, count: int = AT_A_TIME) -> Array:
            return rng.standard_normal((count, width), np.float32)

        def records(count: int) -> dict[str, Any]:
            years = rng.integers(0, 9, count)
            return {"name": [f"{number}-{year}" for year in years], "year": years}

        some = rng.choice(self._live, AT_A_TIME) if len(self._live) else self._live
        once = np.unique(some)
        kind = rng.integers(8) if len(self._live) > 4 * AT_A_TIME else 0
        step = {"step": number}
        if kind <= 1:
            new = np.arange(self._next, self._next + AT_A_TIME)
            self._live, self._next = np.concatenate([self._live, new]), self._next + AT_A_TIME
            return "append", (rows(WIDTH), rows(VALUES), records(AT_A_TIME)), step
        if kind == 2:
            count = len(once)
            return "write", (once, rows(WIDTH, count), rows(VALUES, count), records(count)), {}
        if kind == 3:
            weights, erase = rng.random(len(some)), rng.random((len(some), WIDTH))
            return "blend", (some, weights, erase, rows(WIDTH)), step
        if kind == 4:
            return "update", (some, rows(WIDTH), rows(VALUES), 0.1), {}
        if kind == 5:
            return "touch", (some, number), {}
        if kind == 6:
            return "allocate", (5,), {"records": records(5), **step}
        gone = once[: 2 * AT_A_TIME // 8 * int(rng.integers(1, 4))]
        if len(self._live) > MOST:
            gone = self._live[: MOST // 2]
        self._live = np.setdiff1d(self._live, gone)
        return "erase", (gone,), {}


def change(memory: Memory, script: Script) -> str:
    """Makes the next change, under its number; returns a digest of the reply."""
    number = script.number + 1
    verb, arguments, options = script.draw()
    reply = getattr(memory, verb)(*arguments, **options, request_id=RequestId(CLIENT, number))
    return _digest([reply.tolist() if isinstance(reply, np.ndarray) else reply])


def state(memory: Memory) -> str:
    """A digest of all that can be read."""
    return _digest(_read(memory))


def _read(memory: Memory) -> Iterator[Any]:
    slots = memory.live_slots()  # type: ignore[attr-defined]
    yield slots.tolist()
    rows = memory.gather(slots, columns=tuple(RECORDS))
    assert rows.keys_BD is not None
    assert rows.values_BV is not None
    assert rows.records is not None
    yield rows.generations_B.tolist()
    yield rows.keys_BD.tobytes()
    yield rows.values_BV.tobytes()
    yield rows.records.to_pydict()
    yield memory.lookup("year", range(9), 10**6).slots.tolist()
    exact = memory.search(np.ones((1, WIDTH), np.float32), 5, SearchOptions(exact=True))
    yield exact.slots_QK.tolist()


def _digest(parts: Any) -> str:
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode())
    return found.hexdigest()


def changed(memory: Memory, changes: int) -> None:
    """Makes the first so many changes."""
    script = Script()
    for _ in range(changes):
        change(memory, script)


def told(memory: Memory) -> list[Any]:
    """All that can be asked of a memory; changes it, to see what it keeps besides."""
    found = list(_read(memory))
    slots = memory.live_slots()  # type: ignore[attr-defined]
    if len(slots):
        # What optimizers and usage keep shows in what comes next.
        memory.update(slots, np.ones((len(slots), WIDTH)), np.ones((len(slots), VALUES)), 0.1)
        count = min(9, len(slots))
        memory.allocate(count, records={"name": ["new"] * count, "year": [1] * count})
    return found + list(_read(memory))


def expected(folder: Path, how: MemoryConfig, changes: int) -> list[Any]:
    """What is told of a memory that came to so many changes in peace."""
    with memstore.open(folder / f"expected-{changes}") as store:
        memory = store.create("m", how)
        changed(memory, changes)
        return told(memory)


def died(store: memstore.Store) -> None:
    """Lets go of a store as the death of its process would."""
    for memory in store._contents.memories.values():
        base_of(memory).settle()
    store._ended.set()
    if store._tender is not None:
        store._tender.join()
    store._lock.close()
