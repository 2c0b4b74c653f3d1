"""Half an hour of mixed load at 80 % of what a server can do: errors, latency, memory and log.

The load is a process of its own. How calls are mixed, how capacity is found, and how the load
follows the speed of the core, is said in `tests.faults.soaking`; calls begin at times drawn at
random, and are timed from then, so that one that waits behind another counts. What else ran on the
cores meanwhile is told beside. Every change is logged. `make test-long` does ten minutes of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.runner import Figure, Measured, at_least, at_most
from tests.faults.soaking import READ, SEARCHED, SHARE, VERBS, WIDTH, Plan, soak

STABLE = 2.0
"""p99 of the last third of the time over that of the first."""

GROWTH = 1.05

QUICK = Plan(rows=20_000, capacity_s=6, warm_s=5, seconds=20, log_bytes=1 << 23)
FULL = Plan(rows=500_000, capacity_s=120, warm_s=300, seconds=1_800, log_bytes=1 << 28)


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of its own, of one thread; so is the server."""
    yield from measured_alone("tests.benchmarks.service_soak", *(["quick"] if quick else []))


def measure(plan: Plan) -> Iterator[Measured]:
    """Soaks a server of a store in the working directory, on whose disk its log lies."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".service_soak-") as folder:
        seen = soak(Path(folder), plan)
    case = f"{plan.rows:,} x {WIDTH} float32, {plan.seconds:,.0f} s"
    for error in seen.errors:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    done = sum(map(len, seen.took.values()))
    calls = f"{case}; {SHARE:.0%} of {seen.capacity:,.0f} calls/s; {done:,} calls, {seen.late} late"
    yield at_most(0, Figure("service_soak_errors", calls, len(seen.errors), "errors"))
    if seen.errors:
        return
    rates = seen.rates(plan.seconds)
    words = f"{case}; in each third {', '.join(f'{rate:,.0f}' for rate in rates)}"
    yield Figure(
        "service_soak_rate", f"{words}; peer: capacity", rates[-1], "calls/s", seen.capacity
    )
    for line in seen.slowest():
        print(line, file=sys.stderr)
    yield at_least(0.95, Figure("service_soak_done", calls, _done(done, seen.late), "share"))
    for verb in VERBS:
        first, middle, last = seen.percentiles(verb, 99)
        size = {"search": f"{SEARCHED} queries", "gather": f"{READ} rows"}.get(verb, "")
        words = f"{case}; {verb} {size}".rstrip()
        words = f"{words}; the middle third {1e3 * middle:.1f} ms; peer: the first third"
        figure = Figure("service_soak_p99", words, 1e3 * last, "ms", 1e3 * first)
        yield at_most(STABLE, figure)
    shares = [float(np.mean(part)) for part in np.array_split(seen.others, 3)]
    words = f"{case}; of the cores, by others, in each third {_told(shares)}"
    yield Figure("service_soak_others", words, float(np.mean(seen.others)), "share")
    speeds = [float(np.mean(part)) for part in np.array_split(seen.speeds, 3)]
    words = f"{case}; of the core beside what it was first, in each third {_told(speeds)}"
    yield Figure("service_soak_speed", words, float(np.mean(seen.speeds)), "share")
    words = f"{case}; the last tenth over the first, beyond the rows' own {seen.tables[-1]:,} bytes"
    yield at_most(GROWTH, Figure("service_soak_memory", words, seen.growth(), "ratio"))
    words = f"{case}; {seen.checkpoints} checkpoints, one after {plan.log_bytes / 1e6:,.0f} MB"
    longest = Figure("service_soak_log", words, max(seen.log) / 1e6, "MB")
    yield at_most(plan.log_bound / 1e6, longest)


def _told(shares: list[float]) -> str:
    return ", ".join(f"{share:.1%}" for share in shares)


def _done(done: int, late: int) -> float:
    return done / max(done + late, 1)


if __name__ == "__main__":
    tell(measure(QUICK if sys.argv[1:] else FULL))
