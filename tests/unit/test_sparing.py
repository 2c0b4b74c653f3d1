"""What may be left out is ended once others tell that it is too slow, and no sooner."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")

from memstore.errors import Unreachable
from memstore.rpc import sparing
from memstore.rpc.sparing import Spare, spared


class Call:
    """A call of gRPC that hangs until it is cancelled."""

    def __init__(self, future: Future[Any], spare: Spare, number: int) -> None:
        self._future = future
        future.set_running_or_notify_cancel()
        spare.number = number
        spare.waits_for(self)

    def cancel(self) -> None:
        self._future.set_result(Unreachable("cancelled"))


def asked(*outcomes: Any) -> tuple[list[Future[Any]], list[Spare]]:
    """Calls that have come to that; of None, one that hangs."""
    futures, spares = [Future[Any]() for _ in outcomes], [Spare() for _ in outcomes]
    for number, outcome in enumerate(outcomes):
        if outcome is None:
            Call(futures[number], spares[number], number)
        else:
            futures[number].set_result(outcome)
    return futures, spares


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparing, "LEAST_S", 0.05)
    monkeypatch.setattr(sparing, "LEAST_AGAIN_S", 0.01)


@pytest.mark.parametrize(("late", "told"), [({5}, [1, 3]), ({1}, [3]), ({1, 3}, [])])
def test_what_hangs_is_ended_and_told_once(late: set[int], told: list[int]) -> None:
    futures, spares = asked("found", None, "found", None)
    assert sorted(spared(futures, spares, late)) == told
    assert [spare.over.is_set() for spare in spares] == [False, True, False, True]
    assert all(future.done() for future in futures)
    Call(Future(), spares[1], 1)  # what is begun later ends at once


def test_nothing_is_ended_as_long_as_nobody_has_answered() -> None:
    futures, spares = asked(Unreachable("gone"), None)
    timer = threading.Timer(0.2, lambda: futures[1].set_result("found"))
    timer.start()
    assert spared(futures, spares, set()) == []
    assert not spares[1].over.is_set()
    timer.join()


def test_all_that_answer_are_waited_for() -> None:
    futures, spares = asked("found", Unreachable("gone"), "found")
    assert spared(futures, spares, {0, 1, 2}) == []
    assert not any(spare.over.is_set() for spare in spares)
