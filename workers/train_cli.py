"""memtrain fit --cluster NAMESPACE/NAME --trainers N: a run on the memory of a cluster, on Ray."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import memstore
from memstore import files
from memstore.errors import InvalidArgument, Unsupported
from workers import cluster_cli, folders, showing
from workers.group import Pace
from workers.recipe import Recipe
from workers.run import Run, is_built
from workers.showing import console

EVERY_STEPS = 200
"""From one checkpoint to the next, unless it is told."""


def add_options(sub: argparse.ArgumentParser) -> None:
    """Adds what says where, and by how many, a run is trained."""
    on = sub.add_argument_group("on a cluster, with --out on storage that all nodes share")
    on.add_argument(
        "--cluster", metavar="NAMESPACE/NAME", help="whose memory it is that is trained"
    )
    on.add_argument("--trainers", type=int, default=1, metavar="N", help="share each batch (1)")
    on.add_argument("--cpus", type=float, default=1.0, help="kept for each trainer (1)")
    on.add_argument(
        "--staleness-steps", type=int, default=0, metavar="S", help="0 keeps them in step (0)"
    )
    on.add_argument(
        "--prefetch", action="store_true", help="propose facts a step ahead: one of the S steps"
    )
    on.add_argument("--ray", default="auto", metavar="ADDRESS", help="of a running Ray")


def fit(options: argparse.Namespace, folder: Path, recipe: Recipe) -> None:
    """Builds in the cluster what is not built yet, trains, and tests what was learnt."""
    distributed = _distributed()
    namespace, slash, _ = options.cluster.partition("/")
    if not slash:
        raise InvalidArgument("not a cluster", got=options.cluster, expected="NAMESPACE/NAME")
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
    distributed.fit(job)
    with distributed.opened(job) as run:
        console.print(f"All {run.recipe.steps} steps are done.")
        showing.figures(recipe, run.figures or run.evaluate(base or run.base()))


def _distributed() -> Any:
    """What needs Ray; raises `Unsupported` where that is not installed."""
    try:
        from workers import distributed
    except ImportError as error:
        raise Unsupported(str(error)) from error
    return distributed
