"""How a memory on several servers scales: shards 1, 2, 4, 8 by trainers 1, 2, 4, and beyond.

Each shard is a server of its own and has as many rows as any other, so more shards are more rows;
trainers are processes that search, gather and update, each for itself (`stepping`). All of them
share the two cores of one machine, which most of it is bounded by: `cores_used` says how much of
the cores servers and trainers took; what is near 1 says nothing of a cluster of machines.

What is measured with few shards and one trainer, and once with trainers that keep all cores at
work, calibrates a model (`scaling_model`), which predicts the other points, and by how much it is
wrong there is said; then 64 and 256 shards on networks whose latency and bandwidth are given, each
server and trainer a machine of one core. Where others take more than a tenth of the cores nothing
is predicted.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import memstore
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.data import mixture
from tests.benchmarks.parted import CORES, TICKS, Parts, crossed, parted
from tests.benchmarks.runner import Curve, Figure, Measured, Missing
from tests.benchmarks.scaling_model import Costs, Network, Point, requests
from tests.benchmarks.stepping import BATCH, EXACT, LR, WIDTH, K, Stepped, config, filled, trainers

CALIBRATING = (1, 2, 4)
"""Shards of the points of one trainer that the model is told."""

MOST_OTHERS = 0.1
"""Of the cores, what others may take: what is measured beside more of them says nothing of the
clock, and little of the processor, of which a second does less."""

NETWORKS = (
    Network("100 us there and back, 25 Gbit/s", 100e-6, 25e9 / 8),
    Network("500 us there and back, 10 Gbit/s", 500e-6, 10e9 / 8),
)
BEYOND = ((64, 16), (64, 64), (256, 16), (256, 64))
"""Shards and trainers that are predicted."""


@dataclass(frozen=True)
class Plan:
    """rows: of a shard.  seconds: that steps are taken for, so many `times` each.  calls: of which
    it is measured what a byte costs."""

    rows: int
    seconds: float
    times: int
    calls: int
    shards: tuple[int, ...]
    trainers: tuple[int, ...]


QUICK = Plan(2_000, 1.0, 1, 100, (1, 2, 4), (1, 2))
FULL = Plan(20_000, 5.0, 3, 400, (1, 2, 4, 8), (1, 2, 4))


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread; so are servers and trainers."""
    yield from measured_alone("tests.benchmarks.cluster_scaling", *(["quick"] if quick else []))


def measure(plan: Plan) -> Iterator[Measured]:
    points: list[Point] = []
    for shards in plan.shards:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".cluster-") as folder:
            for point, figures in _of_shards(Path(folder), shards, plan):
                points.append(point)
                yield from figures
    yield from _predictions(points, _search_s(plan.rows), _byte_s(plan), plan)
    for count in plan.trainers:
        rates = [(p.shards, count / p.seconds) for p in points if p.trainers == count]
        yield Curve("steps a second", f"{count} trainers", "shards", "steps/s", rates)


def _of_shards(folder: Path, shards: int, plan: Plan) -> Iterator[tuple[Point, list[Figure]]]:
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(parted(folder, shards))
        with memstore.connect(servers.connected, deadline_s=300.0) as client:
            filled(client, shards, shards * plan.rows)
        crew = stack.enter_context(trainers(servers, max(plan.trainers)))
        for count in plan.trainers:
            runs = []
            for _ in range(plan.times):
                before, busy_s, begun = servers.used_s(), _busy_s(), time.perf_counter()
                for trainer in crew[:count]:
                    trainer.begin(plan.seconds)
                told = [trainer.end() for trainer in crew[:count]]
                busy_s, wall_s = _busy_s() - busy_s, time.perf_counter() - begun
                there_s = servers.used_s() - before
                others_s = busy_s - there_s - sum(trainer.used_s for trainer in told)
                runs.append(Ran(told, there_s, others_s / wall_s / len(CORES)))
            yield _point(shards, runs, plan)


@dataclass(frozen=True)
class Ran:
    """What trainers did at once.  there_s: of processor, of all servers.  others: of the cores,
    what processes took that are no part of it."""

    told: Sequence[Stepped]
    there_s: float
    others: float


def _busy_s() -> float:
    """Seconds that the cores of this machine have worked, for whomever."""
    # user nice system idle iowait irq softirq steal, of all cores together.
    line = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0]
    fields = [int(field) for field in line.split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


def _point(shards: int, runs: Sequence[Ran], plan: Plan) -> tuple[Point, list[Figure]]:
    """Sums over all runs but for the rate, of which it is the median."""
    crew = len(runs[0].told)
    rate = statistics.median(sum(t.steps / t.seconds for t in run.told) for run in runs)
    each = [trainer for run in runs for trainer in run.told]
    steps, wall_s = sum(t.steps for t in each), sum(t.seconds for t in each) / crew
    there_s, own_s = sum(run.there_s for run in runs), sum(t.used_s for t in each)
    moved, updated = sum(t.sent + t.got for t in each), sum(t.updated for t in each)
    point = Point(
        shards=shards,
        trainers=crew,
        requests=requests(shards),
        bytes=moved / steps,
        seconds=crew / rate,
        trainer_s=own_s / steps,
        servers_s=there_s / steps,
        others=max(statistics.mean(run.others for run in runs), 0.0),
    )
    case = f"{shards} shards, {crew} trainers, {shards * plan.rows:,} x {WIDTH} rows"
    figures = [
        Figure("steps", case, rate, "steps/s"),
        Figure("queries", case, rate * BATCH, "queries/s"),
        Figure("updates", case, rate * updated / steps, "rows/s"),
        Figure("step_bytes", f"{case}; both ways", moved / steps, "bytes"),
        Figure("step_processor", f"{case}; trainer", 1e3 * point.trainer_s, "ms"),
        Figure("step_processor", f"{case}; servers", 1e3 * point.servers_s, "ms"),
        Figure("cores_used", case, (there_s + own_s) / (wall_s * len(CORES)), "share"),
        Figure("cores_of_others", case, point.others, "share"),
    ]
    return point, figures


def _search_s(rows: int) -> float:
    """Seconds of processor that a search of one shard takes, without a server."""
    keys_ND, queries_QD = mixture(rows, BATCH, width=WIDTH)
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".cluster-") as folder,
        memstore.open(folder) as store,
    ):
        memory = store.create("m", config(1))
        memory.append(keys_ND)
        memory.search(queries_QD, K, EXACT)
        begun = time.process_time()
        for _ in range(50):
            memory.search(queries_QD, K, EXACT)
        return (time.process_time() - begun) / 50


def _byte_s(plan: Plan) -> tuple[float, float]:
    """Seconds of processor that a server takes for a byte: of rows gathered and of gradients, and
    of what is searched for, in a memory of next to no rows."""
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".cluster-") as folder,
        parted(folder, 1) as servers,
        memstore.connect(servers.connected, deadline_s=300.0) as client,
    ):
        memory = filled(client, 1, 8_192)

        def learn(rows: int) -> None:
            slots_B = np.arange(0, 2 * rows, 2)
            found = memory.gather(slots_B).keys_BD
            memory.update(slots_B, found, lr=LR)

        row_byte_s = _each_byte_s(servers, learn, (16, 4_096), plan.calls)
        empty = client.create("empty", config(1))
        empty.append(mixture(K, 1, width=WIDTH)[0])
        queries_QD = mixture(1, 1_024, width=WIDTH)[1]

        def search(rows: int) -> None:
            empty.search(queries_QD[:rows], K, EXACT)

        return row_byte_s, _each_byte_s(servers, search, (16, 1_024), plan.calls)


def _each_byte_s(
    servers: Parts, call: Callable[[int], None], sizes: tuple[int, int], calls: int
) -> float:
    """What servers take more for the larger of two calls, for each byte that crosses more."""
    each = []
    for size in sizes:
        call(size)
        used, moved = servers.used_s(), sum(crossed(servers.addresses))
        for _ in range(calls):
            call(size)
        used, moved = servers.used_s() - used, sum(crossed(servers.addresses)) - moved
        each.append((used / calls, moved / calls))
    (few_s, few), (many_s, many) = each
    return max(many_s - few_s, 0.0) / (many - few)


def _predictions(
    points: Sequence[Point], search_s: float, byte_s: tuple[float, float], plan: Plan
) -> Iterator[Measured]:
    others = max(point.others for point in points)
    if others > MOST_OTHERS:
        why = f"others took up to {others:.0%} of the cores, at most {MOST_OTHERS:.0%} may"
        yield Missing("predicted_steps", why)
        return
    told = [p for p in points if p.trainers == 1 and p.shards in CALIBRATING]
    [crowd] = [p for p in points if p.shards == 1 and p.trainers == max(plan.trainers)]
    costs = Costs.of(told, crowd, search_s, *byte_s)
    shards = ", ".join(str(point.shards) for point in told)
    where = f"measured with 1 trainer on {shards} shards, and {crowd.trainers} on 1"
    for name, value in (
        ("trainer, a step", costs.step_s),
        ("trainer, a request", costs.request_s),
        ("server, a request", costs.server_request_s),
        ("server, a megabyte of rows", 1e6 * costs.row_byte_s),
        ("server, a megabyte of queries and what they find", 1e6 * costs.query_byte_s),
        (f"server, a search of {plan.rows:,} rows for {BATCH} queries", costs.search_s),
        ("nobody works, a step", costs.wait_s),
    ):
        yield Figure("cost", f"{name}; {where}", 1e3 * value, "ms")
    yield Figure("crowded", f"all cores at work; peer: one; {where}", costs.crowded, "x")
    errors = []
    for point in points:
        if point in told or point == crowd:
            continue
        predicted = costs.on_cores(point.shards, point.trainers, len(CORES))
        rate = point.trainers / point.seconds
        errors.append(abs(predicted / rate - 1))
        case = f"{point.shards} shards, {point.trainers} trainers, {len(CORES)} cores; peer: seen"
        yield Figure("predicted_steps", case, predicted, "steps/s", rate)
    case = f"of {len(errors)} points that the model was not told"
    yield Figure("prediction_error", f"{case}, median", statistics.median(errors), "share")
    yield Figure("prediction_error", f"{case}, largest", max(errors), "share")
    for network in NETWORKS:
        for shards_far, crew in BEYOND:
            rate = costs.on_network(shards_far, crew, network)
            rows = shards_far * plan.rows
            case = f"{shards_far} shards, {crew} trainers, {rows:,} rows, {network.name}"
            yield Figure("predicted_steps", case, rate, "steps/s")
            alone = crew * costs.on_network(shards_far, 1, network)
            words = f"{case}; peer: were they not to wait for each other"
            yield Figure("predicted_steps", words, rate, "steps/s", alone)


if __name__ == "__main__":
    tell(measure(QUICK if sys.argv[1:] else FULL))
