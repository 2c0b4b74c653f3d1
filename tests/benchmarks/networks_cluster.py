"""Each network trained by two trainers over four shard actors, beside training embedded by one:
hits@1. The key-value network's is in `cluster_train`, with its times. Sparse access memory reads
facts of the cluster, its episodes' memories are each trainer's own; it is told at the length that
it learnt.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from models.tasks.data import DataMissing
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.cluster_train import (
    CPUS,
    LONG_S,
    PARTS,
    TRAINERS,
    Learnt,
    embedded,
    on_cluster,
)
from tests.benchmarks.on_ray import NAMESPACE, nodes
from tests.benchmarks.runner import Figure, Measured, Missing, at_most
from workers import networks
from workers.networks import factual, hmn, sam, simple
from workers.networks.sequences import SequenceRecipe
from workers.recipe import Recipe

POINTS = 1.0
"""Of a hundred, by which hits@1 may be another."""


def recipes(quick: bool) -> list[Recipe]:
    cells = replace(hmn.geography(quick=True), shards=PARTS)
    facts = replace(factual.metaqa(2), shards=PARTS, steps=200)
    # One name an episode: what is asked for is in the facts alone, and soon learnt.
    named = replace(
        sam.naming(), shards=PARTS, steps=1_500, level=1, longest=1, test_episodes=2_000
    )
    asked = replace(simple.recipe("simple-dbpedia"), shards=PARTS, steps=300)
    if quick:
        cells = replace(cells, places=600, steps=40, batch=64, refresh_steps=20)
        facts = replace(facts, places=4_000, steps=40, questions=4_000, test_questions=500)
        named = replace(named, steps=100)
        asked = replace(asked, steps=30)
    return [asked, named, facts, cells]


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread; so are servers and trainers."""
    import ray  # noqa: F401 - where it is missing, this cannot run

    yield from measured_alone("tests.benchmarks.networks_cluster", *(["quick"] if quick else []))


def measure(quick: bool) -> Iterator[Measured]:
    from workers.cluster import ClusterSpec, down, up

    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".cluster-") as scratch,
        nodes(cpus=PARTS),
    ):
        folder = Path(scratch)
        spec = ClusterSpec(
            folder=folder / "parts", name="m", namespace=NAMESPACE, parts=PARTS, cpus=CPUS
        )
        up(spec, LONG_S)
        for recipe in recipes(quick):
            try:
                base = networks.of(recipe).read(recipe)
            except DataMissing as error:
                yield Missing(f"hits_at_1 of {recipe.network}", str(error))
                continue
            alone = embedded(folder / f"{recipe.network}-embedded", recipe, base)
            spread = on_cluster(folder / recipe.network, recipe, base, spec)
            case = f"{recipe.network} on {recipe.task}, {recipe.steps} steps"
            case += f"; {PARTS} shard actors, {TRAINERS} trainers"
            if isinstance(recipe, SequenceRecipe):
                spread, alone = _first(spread), _first(alone)
            for way, hits in spread.hits.items():
                told = f"{case}; {way}; peer: embedded"
                yield Figure("hits_at_1", told, hits, "share", alone.hits[way])
            yield at_most(POINTS, Figure("hits_at_1_apart", case, spread.apart(alone), "points"))
        down(spec.name, NAMESPACE)


def _first(learnt: Learnt) -> Learnt:
    """At the length that was learnt, without the longer ones."""
    way = next(iter(learnt.hits))
    return replace(learnt, hits={way: learnt.hits[way]})


if __name__ == "__main__":
    tell(measure(bool(sys.argv[1:])))
