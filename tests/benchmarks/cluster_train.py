"""Training by two trainers over four shard actors, beside training embedded by one: hits@1.

The geography task: of the most populous places, both ways of proposing facts, held-out wordings of
held-out entities. The recipe, the seed and what is asked are the same; in step, two trainers take
what one would draw.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import memstore
from models.tasks.geography import load_geography
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.on_ray import NAMESPACE, nodes
from tests.benchmarks.runner import Figure, Measured, at_most
from workers.networks.kv import KVRecipe, geography
from workers.recipe import Recipe
from workers.run import Run

if TYPE_CHECKING:
    from workers.cluster import ClusterSpec

PARTS, TRAINERS, CPUS = 4, 2, 0.5
POINTS = 0.5
"""Of a hundred, by which hits@1 may be another."""

EVERY = 50
"""Steps from one checkpoint to the next."""

LONG_S = 600.0
"""For processes to start, and for calls, on a machine that is busy."""


@dataclass(frozen=True)
class Learnt:
    """What a run gave: hits@1 by way of proposing facts, and seconds of its steps."""

    hits: dict[str, float]
    seconds: float

    def apart(self, other: Learnt) -> float:
        """Points of a hundred by which hits@1 are another, by either way."""
        return max(100 * abs(hits - other.hits[way]) for way, hits in self.hits.items())


def recipe(quick: bool) -> KVRecipe:
    made = replace(geography(quick=True), shards=PARTS)
    if not quick:
        return replace(made, test_questions=4_000)
    return replace(made, places=600, steps=120, hashed_steps=60, refresh_steps=30, batch=64)


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread; so are servers and trainers."""
    import ray  # noqa: F401 - where it is missing, this cannot run

    load_geography(limit=10)  # raises where its data are missing
    yield from measured_alone("tests.benchmarks.cluster_train", *(["quick"] if quick else []))


def measure(recipe: KVRecipe) -> Iterator[Measured]:
    from workers.cluster import ClusterSpec, down, up

    base = load_geography(limit=recipe.places)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".cluster-") as scratch:
        folder = Path(scratch)
        alone = embedded(folder / "embedded", recipe, base)
        with nodes(cpus=PARTS):
            spec = ClusterSpec(
                folder=folder / "parts", name="m", namespace=NAMESPACE, parts=PARTS, cpus=CPUS
            )
            up(spec, LONG_S)
            spread = on_cluster(folder / "spread", recipe, base, spec)
            down(spec.name, NAMESPACE)
    case = f"{base.facts.num_rows:,} facts, {recipe.steps} steps, batch {recipe.batch}"
    case = f"{case}; {PARTS} shard actors, {TRAINERS} trainers"
    for way, hits in spread.hits.items():
        yield Figure("hits_at_1", f"{case}; {way}; peer: embedded", hits, "share", alone.hits[way])
    yield at_most(POINTS, Figure("hits_at_1_apart", case, spread.apart(alone), "points"))
    words = f"{case}; with the start of the trainers; peer: embedded, one trainer"
    yield Figure("train_s", words, spread.seconds, "s", alone.seconds)


def embedded(folder: Path, recipe: Recipe, base: Any) -> Learnt:
    """Builds, trains and tests by one trainer that has the memories itself."""
    Run.build(folder, recipe, base, _untold)
    begun = time.perf_counter()
    with Run(folder) as run:
        for _ in run.train(base, EVERY):
            pass
        seconds = time.perf_counter() - begun
        return Learnt(_hits(run, base), seconds)


def on_cluster(
    folder: Path,
    recipe: Recipe,
    base: Any,
    spec: ClusterSpec,
    each: Callable[[dict[str, Any]], None] | None = None,
) -> Learnt:
    """Builds, trains and tests on the memories of a cluster, which it is to have for itself."""
    from workers.distributed import Job, fit, opened

    with memstore.connect(spec.address, deadline_s=LONG_S) as client:
        there = [client.memory(name) for name in client.list()]
        # What is encoded before its parts.
        for memory in sorted(there, key=lambda memory: memory.config.encoding is None):
            client.drop(memory.name)
        Run.build(folder, recipe, base, _untold, client)
    job = Job(
        folder=folder,
        memory=spec.address,
        trainers=TRAINERS,
        cpus=CPUS,
        checkpoint_steps=EVERY,
        deadline_s=LONG_S,
    )
    begun = time.perf_counter()
    fit(job, each)
    seconds = time.perf_counter() - begun
    with opened(job) as run:
        return Learnt(_hits(run, base), seconds)


def _hits(run: Run, base: Any) -> dict[str, float]:
    return {found.case: found.hits_1 for found in run.evaluate(base)}


def _untold(what: str, done: int, total: int) -> None:
    """Progress that nobody asks for."""


if __name__ == "__main__":
    tell(measure(recipe(bool(sys.argv[1:]))))
