"""Training while a shard, a trainer or a node is killed: every run ends, and has learnt as much.

Two trainers and two parts of a memory on storage that their two nodes share; a task of made-up
places, small enough that a run is mostly the start of its processes. In each run one thing is
killed, behind a step drawn at random: a shard's process or a trainer's by `kill -9`,
a node with all that runs on it, in whose place another is added. hits@1 is set beside a run that
was left alone: updates are logged, so that nothing that was learnt is lost with a shard. Beside
them a client counts in a memory of its own, of logged updates too, on parts that are killed with
the others: what was acknowledged is to be there, once.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

import memstore
from memstore import MemoryConfig
from memstore.errors import MemstoreError, StoreClosed
from tests.benchmarks import started
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.cluster_train import CPUS, LONG_S, POINTS, Learnt, on_cluster
from tests.benchmarks.on_ray import NAMESPACE, nodes
from tests.benchmarks.runner import Figure, Measured, at_least, at_most
from tests.training import small
from workers.metrics import Live

if TYPE_CHECKING:
    from workers.cluster import ClusterSpec

PARTS, NODES, NODE_CPUS = 2, 2, 4
KINDS = ("shard", "trainer", "node")
"""In turn."""

RECIPE = replace(
    small.recipe(),
    places=600,
    dim=32,
    shards=PARTS,
    probe=64,
    batch=64,
    updates="logged",
    steps=120,
    hashed_steps=90,
    questions=2_000,
    test_questions=1_000,
)
"""Search visits as many lists as a shard has: one that was killed has its facts in other lists than
before, until they are next clustered, and by some of the lists it would propose others."""
COUNTED, EVERY_S = 8, 0.2
"""Rows that are counted in, and how often: a put on shared storage for each part each time."""

EARLIEST, LATEST = 0.05, 0.8
"""Of the steps, behind which something is killed."""


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread; so are servers and trainers."""
    import ray  # noqa: F401 - where it is missing, this cannot run

    yield from measured_alone("tests.benchmarks.cluster_chaos", len(KINDS) if quick else 50)


@dataclass(frozen=True)
class Outcome:
    """What became of a run. learnt: None where it failed.  lost: updates that were acknowledged and
    are not there, or are there twice."""

    kind: str
    learnt: Learnt | None
    lost: int


def measure(runs: int) -> Iterator[Measured]:
    from workers.cluster import ClusterSpec, down, up

    base = small.base(RECIPE.places)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".cluster-") as scratch:
        folder = Path(scratch)
        with nodes(count=NODES, cpus=NODE_CPUS) as cluster:
            shared: dict[str, Any] = {
                "folder": folder / "disk",
                "namespace": NAMESPACE,
                "shared": str(folder / "shared"),
                "parts": PARTS,
                "cpus": CPUS,
            }
            specs = [ClusterSpec(name=name, **shared) for name in ("learnt", "counted")]
            for spec in specs:
                up(spec, LONG_S)
            alone = on_cluster(folder / "alone", RECIPE, base, specs[0], started.train)
            print(f"left alone: {alone}", file=sys.stderr, flush=True)
            outcomes = []
            with (
                memstore.connect(specs[1].address, deadline_s=LONG_S) as client,
                ThreadPoolExecutor(1) as pool,
            ):
                for number in range(runs):
                    kind, rng = KINDS[number % len(KINDS)], random.Random(number)
                    home = folder / f"run-{number}"
                    counting = Counting(client, f"counts-{number}")
                    step = int(rng.uniform(EARLIEST, LATEST) * RECIPE.steps)
                    run = pool.submit(on_cluster, home, RECIPE, base, specs[0], started.train)
                    if not disturbed(kind, step, rng, home, specs, cluster, run):
                        kind = "nothing"
                    try:
                        learnt = run.result()
                    except (MemstoreError, RuntimeError) as error:
                        print(f"run {number}, {kind}: {error}", file=sys.stderr)
                        learnt = None
                    outcomes.append(Outcome(kind, learnt, counting.end()))
                    print(f"run {number}: {outcomes[-1]}", file=sys.stderr, flush=True)
                    shutil.rmtree(home, ignore_errors=True)
            for spec in specs:
                down(spec.name, NAMESPACE)
    yield from _figures(outcomes, alone, base.facts.num_rows)


def _figures(outcomes: list[Outcome], alone: Learnt, facts: int) -> Iterator[Figure]:
    count = Counter(outcome.kind for outcome in outcomes)
    counts = ", ".join(f"{count[kind]} x {kind}" for kind in (*KINDS, "nothing") if count[kind])
    case = f"{len(outcomes)} runs on {facts:,} facts, killed: {counts}"
    ended = [outcome.learnt for outcome in outcomes if outcome.learnt is not None]
    yield at_least(1.0, Figure("runs_ended", case, len(ended) / len(outcomes), "share"))
    lost = sum(outcome.lost for outcome in outcomes)
    yield at_most(0, Figure("updates_lost", f"{case}; acknowledged and logged", lost, "updates"))
    if ended:
        apart = max(learnt.apart(alone) for learnt in ended)
        words = f"{case}; from a run left alone, the most of all"
        yield at_most(POINTS, Figure("hits_at_1_apart", words, apart, "points"))
        took_s = median(learnt.seconds for learnt in ended)
        yield Figure("train_s", f"{case}; median; peer: left alone", took_s, "s", alone.seconds)


class Counting:
    """Counts in rows of a memory whose updates are logged, in a thread, until `end`."""

    def __init__(self, client: Any, name: str) -> None:
        config = MemoryConfig(dim=2, shards=PARTS, index="none", optimizer="sgd", updates="logged")
        self._client, self._name = client, name
        self._memory = client.create(name, config)
        self._slots = self._memory.append(np.zeros((COUNTED, 2), np.float32))
        self._told = self._unsure = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def _count(self) -> None:
        one = np.full((COUNTED, 2), -1.0, np.float32)
        while not self._over.wait(EVERY_S):
            try:
                self._memory.update(self._slots, one, lr=1.0)
                self._told += 1
            except StoreClosed:
                return
            except MemstoreError as error:
                print(f"counting: {error}", file=sys.stderr)
                self._unsure += 1

    def end(self) -> int:
        """By how many updates a row is off what was acknowledged, at most."""
        self._over.set()
        self._thread.join()
        counts_B = self._memory.gather(self._slots).keys_BD[:, 0]
        self._client.drop(self._name)
        few = self._told - float(counts_B.min())
        many = float(counts_B.max()) - self._told - self._unsure
        return int(max(few, many, 0))


def disturbed(
    kind: str,
    step: int,
    rng: random.Random,
    home: Path,
    specs: list[ClusterSpec],
    cluster: Any,
    training: Future[Learnt],
) -> bool:
    """Kills one thing once a run has taken a step; False where it was over before that was told.
    In the main thread, which alone may start nodes."""
    live = Live(home)
    while not (told := live.read()) or told[-1].number < step:
        if training.done():
            return False
        time.sleep(0.1)
    if kind == "trainer":
        if not (trainers := _trainers(home)):
            return False
        os.kill(rng.choice(trainers), signal.SIGKILL)
    elif kind == "shard":
        part = rng.randrange(PARTS)
        for spec in specs:
            for lock in spec.home(f"part-{part}").glob("disk-*/LOCK"):
                os.kill(int(lock.read_text()), signal.SIGKILL)
    else:
        [*others] = cluster.worker_nodes
        cluster.remove_node(rng.choice(others), allow_graceful=False)
        cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=80 << 20)
    return True


def _trainers(home: Path) -> list[int]:
    """Processes of those that run now."""
    numbers = (int(path.name.rpartition("-")[2]) for path in home.glob("trainer-*"))
    return [number for number in numbers if Path(f"/proc/{number}").exists()]


if __name__ == "__main__":
    tell(measure(int(sys.argv[1])))
