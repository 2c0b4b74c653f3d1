"""memtrain … --cluster NAMESPACE/NAME: a run whose memories are those of a cluster, on Ray."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import memstore
from memstore import files
from memstore.errors import InvalidArgument, Unsupported
from workers import cluster_cli, folders, showing
from workers.group import Pace
from workers.recipe import Recipe
from workers.run import Run, check_built, is_built
from workers.showing import console

EVERY_STEPS = 200
"""From one checkpoint to the next, unless it is told."""

DEADLINE_S = 300.0
"""Of each call: so long a part that is away is waited for."""


def add_where(sub: Any) -> None:
    """Adds what says in which cluster the memories of a run are."""
    sub.add_argument(
        "--cluster", metavar="NAMESPACE/NAME", help="whose memories are those of the run"
    )
    sub.add_argument("--ray", default="auto", metavar="ADDRESS", help="of a running Ray")


def add_options(sub: argparse.ArgumentParser) -> None:
    """Adds what says where, and by how many, a run is trained."""
    on = sub.add_argument_group("on a cluster, with the run folder on storage that all nodes share")
    add_where(on)
    on.add_argument("--trainers", type=int, default=1, metavar="N", help="share each batch (1)")
    on.add_argument("--cpus", type=float, default=1.0, help="kept for each trainer (1)")
    on.add_argument(
        "--staleness-steps", type=int, default=0, metavar="S", help="0 keeps them in step (0)"
    )
    on.add_argument(
        "--prefetch", action="store_true", help="propose facts a step ahead: one of the S steps"
    )


def fit(options: argparse.Namespace, folder: Path, recipe: Recipe) -> None:
    """Builds in the cluster what is not built yet, trains, and tests what was learnt."""
    distributed = _distributed()
    namespace = _namespace(options.cluster)
    if options.refresh_share:
        raise InvalidArgument(
            "the memory of a cluster is refreshed by the cluster",
            got=f"--refresh-share {options.refresh_share:g}",
            hint="memtrain cluster up --refresh-share",
        )
    job = distributed.Job(
        folder=folder.absolute(),
        memory=f"ray:{options.cluster}",
        trainers=options.trainers,
        pace=Pace(options.staleness_steps, options.prefetch),
        cpus=options.cpus,
        checkpoint_steps=EVERY_STEPS
        if options.checkpoint_steps is None
        else options.checkpoint_steps,
        deadline_s=DEADLINE_S,
    )
    cluster_cli.connect(options.ray, namespace)
    base = None
    if not is_built(folder):
        folders.make(folder, "the run folder")
        base = showing.reading(recipe)
        with (
            files.lock(folder / "LOCK"),
            memstore.connect(job.memory, deadline_s=job.deadline_s) as client,
            showing.building() as told,
        ):
            Run.build(folder, recipe, base, told, client)
    console.print(f"Training {folder} on {job.memory} by {job.trainers} …")
    distributed.fit(job, watch=showing.trained)
    with distributed.opened(job) as run:
        console.print(f"All {run.recipe.steps} steps are done.")
        showing.figures(recipe, run.figures or run.evaluate(base or run.base()))


@contextlib.contextmanager
def opened(options: argparse.Namespace, folder: Path) -> Iterator[Run]:
    """Opens a run, whose memories are in its folder, or in the cluster that is told."""
    if options.cluster is None:
        with Run(folder) as run:
            yield run
        return
    _distributed()
    namespace = _namespace(options.cluster)
    check_built(folder)
    cluster_cli.connect(options.ray, namespace)
    with (
        files.lock(folder / "LOCK"),  # Who opens it puts the memories back to the last checkpoint.
        memstore.connect(f"ray:{options.cluster}", deadline_s=DEADLINE_S) as client,
        Run(folder, client) as run,
    ):
        yield run


def _namespace(cluster: str) -> str:
    namespace, slash, _ = cluster.partition("/")
    if not slash:
        raise InvalidArgument("not a cluster", got=cluster, expected="NAMESPACE/NAME")
    return namespace


def _distributed() -> Any:
    """What needs Ray; raises `Unsupported` where that is not installed."""
    try:
        from workers import distributed
    except ImportError as error:
        raise Unsupported(str(error)) from error
    return distributed
