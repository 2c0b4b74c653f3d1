"""What Ray adds to a training step: servers that it started beside the same ones started without.

Two parts each, one thread a server, with TLS and tokens as any cluster has; the plain ones are
processes of `memstore serve`. Steps (`stepping`) are taken of both in turn, so that both see the
same machine, with Ray running beside; what its own processes take meanwhile is said apart, since it
is by the node and the second, not by the step. Calls that this process makes to Ray are counted.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import memstore
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.on_ray import NAMESPACE, nodes
from tests.benchmarks.parted import CORES, parted, used_s
from tests.benchmarks.runner import Figure, Measured, at_most, paired_medians
from tests.benchmarks.stepping import BATCH, WARM, WIDTH, K, filled, stepper

PARTS = 2
STEPS = 5
"""Steps of one, before as many of the other."""

RAY_CALLS = ("get", "put", "wait", "get_actor", "kill")


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread; so are the servers, whoever starts them."""
    import ray  # noqa: F401 - where it is missing, this cannot run

    yield from measured_alone(
        "tests.benchmarks.cluster_overhead", *((4_000, 10) if quick else (40_000, 100))
    )


def measure(rows: int, rounds: int) -> Iterator[Measured]:
    from workers.authority import Authority
    from workers.cluster import ClusterSpec, down, up

    with contextlib.ExitStack() as stack:
        kinds = stack.enter_context(nodes(cpus=PARTS)).head_node.all_processes
        daemons = [info.process.pid for kind in kinds.values() for info in kind]
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".cluster-"))
        )
        spec = ClusterSpec(folder=folder, name="m", namespace=NAMESPACE, parts=PARTS, cpus=1.0)
        up(spec, 300.0)
        stack.callback(down, spec.name, NAMESPACE)
        plain = stack.enter_context(
            parted(folder / "plain", PARTS, authority=Authority.make("benchmarks"))
        )
        clients = (
            stack.enter_context(memstore.connect(spec.address, deadline_s=120.0)),
            stack.enter_context(
                memstore.connect(plain.connected, deadline_s=120.0, **plain.secrets)
            ),
        )
        on_ray, without = (stepper(filled(client, PARTS, rows), 0) for client in clients)
        homes = [spec.home(f"part-{number}") for number in range(PARTS)]
        pids = [int(next(home.glob("**/LOCK")).read_text()) for home in homes]

        case = f"{PARTS} parts, {rows:,} x {WIDTH} rows, {BATCH} queries a step, k {K}, TLS"
        for _ in range(WARM):
            on_ray()
            without()
        steps = STEPS * (rounds + 1)
        before = sum(map(used_s, pids)), plain.used_s(), sum(map(used_s, daemons))
        begun = time.perf_counter()
        with _counted() as calls:
            pair = paired_medians(
                lambda: [on_ray() for _ in range(STEPS)],
                lambda: [without() for _ in range(STEPS)],
                rounds,
            )
        wall_s = time.perf_counter() - begun
        there, beside, own = (
            now - then
            for now, then in zip(
                (sum(map(used_s, pids)), plain.used_s(), sum(map(used_s, daemons))),
                before,
                strict=True,
            )
        )
    words = f"{case}; peer: the same servers without Ray"
    step = Figure("step_s", words, pair.a_s / STEPS, "s", pair.b_s / STEPS, ratio=pair.ratio)
    yield at_most(1.05, step)
    used = Figure(
        "step_processor", f"{words}, servers", 1e3 * there / steps, "ms", 1e3 * beside / steps
    )
    yield at_most(1.05, used)
    yield at_most(0, Figure("ray_calls", f"{case}; of {2 * steps} steps", len(calls), "calls"))
    words = f"{len(daemons)} processes of Ray on one node, of {len(CORES)} cores"
    yield Figure("ray_processor", words, own / (wall_s * len(CORES)), "share")


@contextlib.contextmanager
def _counted() -> Iterator[list[str]]:
    """Gives a list that has the name of each call to Ray of this process meanwhile."""
    import ray

    calls: list[str] = []
    owners: list[tuple[Any, str]] = [(ray, name) for name in RAY_CALLS]
    owners += [(ray.actor.ActorMethod, "_remote"), (ray.remote_function.RemoteFunction, "_remote")]
    plain = [(owner, name, getattr(owner, name)) for owner, name in owners]

    def counted(name: str, call: Any) -> Any:
        def count(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return call(*args, **options)

        return count

    for owner, name, call in plain:
        setattr(owner, name, counted(name, call))
    try:
        yield calls
    finally:
        for owner, name, call in plain:
            setattr(owner, name, call)


if __name__ == "__main__":
    tell(measure(*map(int, sys.argv[1:])))
