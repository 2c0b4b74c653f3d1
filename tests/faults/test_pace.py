"""The clock that runs as fast as a core."""

from __future__ import annotations

import time

import pytest

from tests.faults.pace import SMOOTHED, Pace


def looked(pace: Pace, times: int) -> None:
    for _ in range(times):
        pace.look()


def test_it_runs_as_fast_as_the_core_beside_what_was_usual() -> None:
    pace = Pace()
    begun = time.monotonic()
    looked(pace, 3)
    pace.usual(begun)
    assert sorted(pace.speeds(begun))[1] == 1.0
    usual = sorted(speed for _, speed in pace.looks)[1]
    pace.looks += [(time.monotonic(), usual / 2)] * SMOOTHED
    assert pace.speed == pytest.approx(0.5)
    shown = pace.now()
    assert pace.when(shown + 1) - pace.when(shown) == pytest.approx(2.0)
    # What was shown before does not change by that.
    looked(pace, 1)
    before = pace.when(shown)
    looked(pace, SMOOTHED)
    assert pace.when(shown) == before
    assert begun < before < time.monotonic()


def test_it_never_goes_back() -> None:
    pace = Pace()
    shown = [pace.now()]
    for _ in range(5):
        pace.look()
        shown += [pace.now(), pace.now()]
    assert shown == sorted(shown)
    when = [pace.when(each) for each in shown]
    assert when == sorted(when)
