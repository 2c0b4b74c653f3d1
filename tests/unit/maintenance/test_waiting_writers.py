"""Writers that outrun the jobs wait, then are refused; others never are."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from memstore import Memory, Store
from memstore.errors import DeadlineExceeded, MemstoreError, Overloaded
from memstore.index import clustered, maintenance
from tests.congruence.oracle import settle
from tests.unit.maintenance.jobs import LIMIT, Gate, check, keys, make, state


def overfill(memory: Memory) -> None:
    """Leaves as many rows fresh as may be before writers wait, and some more."""
    memory.append(keys(maintenance.OVERFLOW * LIMIT + 1, 1))


MUTATIONS: dict[str, Callable[[Memory], object]] = {
    "append": lambda memory: memory.append(keys(1)),
    "write": lambda memory: memory.write([0], keys(1)),
    "blend": lambda memory: memory.blend([0], [1.0], keys(1) * 0, keys(1)),
    "update": lambda memory: memory.update([0], keys(1)),
    "allocate": lambda memory: memory.allocate(1),
}


@pytest.mark.parametrize("verb", MUTATIONS)
def test_writers_are_refused_while_too_many_rows_are_fresh(
    store: Store, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    memory = make(store, 300, patience_s=0.02)
    gate = Gate(monkeypatch, clustered, "seal")
    overfill(memory)
    gate.wait()
    gathered = memory.gather(np.arange(300)).keys_BD
    before = memory.describe()  # its bytes count pages that a gather read first
    with pytest.raises(DeadlineExceeded, match="waited for rows to be sealed"):
        memory.append(keys(1), deadline_s=0.001)
    with pytest.raises(Overloaded, match="try again in") as caught:
        MUTATIONS[verb](memory)
    assert isinstance(caught.value, MemstoreError)
    assert caught.value.retryable
    assert 0 < caught.value.retry_after_s < 60
    assert memory.describe() == before
    assert memory.gather(np.arange(300)).keys_BD.tolist() == gathered.tolist()  # type: ignore[union-attr]
    assert state(memory).overloaded == 1
    # What makes nothing fresh goes on, reads with it.
    memory.touch([0], 1)
    memory.erase([1])
    check(memory)
    gate.open()
    settle(memory)
    MUTATIONS[verb](memory)
    settle(memory)
    check(memory)


def test_a_writer_waits_until_there_is_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = make(store, 300)
    gate = Gate(monkeypatch, clustered, "seal")
    overfill(memory)
    gate.wait()
    threading.Timer(1.0, gate.open).start()
    done = memory.write([0], keys(1))
    assert 0.1 < done.delay_s < 30
    assert memory.write([0], keys(1)).delay_s == 0
    settle(memory)
    check(memory)


def test_values_alone_and_a_memory_that_does_not_drift_never_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store, 300, patience_s=0, drift_limit=None)
    gate = Gate(monkeypatch, clustered, "seal")
    overfill(memory)
    gate.wait()
    assert memory.update([0], keys(1)).applied == 1
    gate.open()
    settle(memory)


def test_appending_block_by_block_never_waits_before_the_first_clustering(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(store, patience_s=0)
    gate = Gate(monkeypatch, clustered, "train")
    for seed in range(10):
        memory.append(keys(100, seed))
    gate.wait()
    check(memory)
    gate.open()
    settle(memory)
    assert state(memory).fresh <= LIMIT
    assert state(memory).jobs[3].runs <= 3
    check(memory)
