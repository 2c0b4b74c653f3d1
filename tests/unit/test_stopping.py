"""An interrupt ends a training run between two steps, wherever in a step it comes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.stopping import interrupted, whole


@pytest.fixture(autouse=True)
def heard_by_python() -> Iterator[None]:
    """Other tests of this process, and what they call, may have left a handler of their own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def steps(taken: list[int], interrupts: dict[int, int]) -> Iterator[int]:
    """Endless steps that are done once they are in `taken`; interrupts: how many come in which."""
    for number in range(100):
        for _ in range(interrupts.get(number, 0)):
            # One after the other: of two that are pending, one is lost.
            heard = signal.getsignal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            while signal.getsignal(signal.SIGINT) is heard:
                time.sleep(0.001)
        taken.append(number)
        yield number


def test_a_step_is_finished_before_an_interrupt_is_heard() -> None:
    taken: list[int] = []
    seen: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        seen.extend(whole(steps(taken, {3: 1})))
    assert taken == [0, 1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_stops_in_mid_step() -> None:
    taken: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        list(whole(steps(taken, {3: 2})))
    assert taken == [0, 1, 2]


def test_steps_that_nobody_interrupts_all_come() -> None:
    assert list(whole(iter(range(5)))) == [0, 1, 2, 3, 4]
    with ThreadPoolExecutor(1) as pool:  # which none comes to
        assert pool.submit(lambda: list(whole(iter(range(5))))).result() == [0, 1, 2, 3, 4]


def wrapped() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise SystemError("returned a result with an exception set") from error


def test_an_interrupt_is_known_behind_the_errors_that_wrap_it() -> None:
    with pytest.raises(SystemError) as caught:
        wrapped()
    assert interrupted(caught.value)
    assert not interrupted(SystemError("something else"))
