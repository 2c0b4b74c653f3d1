"""memtrain: builds a memory of facts, trains a network on it, and answers questions.

memtrain demo                     everything, once; quick when it is there already
memtrain fit --network NAME --recipe NAME      build and train (goes on where it was stopped)
memtrain fit --cluster NAMESPACE/NAME --trainers N      the same on Ray
memtrain resume DIR               go on with a run, whatever its recipe
memtrain evaluate DIR             held-out wordings and entities
memtrain ask "which currency do they use in Kyoto?"      --plot FILE.png draws the hops
memtrain ingest FILE … --into DIR       memories of the facts in files
memtrain synthesize --out DIR     files of made-up facts that look like Freebase's, of any size
memtrain export taxonomy --out FILE      a file of the facts of an installed package, to ingest
memtrain ask --facts DIR "who directed Kismet?"      from these alone
memtrain cluster up | status | down     a memory on Ray
memtrain refresh ray:NAMESPACE/NAME     encode anew what drifted, at a share of the time
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memstore import MemstoreError, checks, files
from memstore.durable import manifest
from memstore.errors import InvalidArgument
from models.tasks.data import DataMissing
from models.tasks.knowledge import TaskDataError
from workers import (
    checkpoints,
    cluster_cli,
    export_cli,
    facts,
    folders,
    ingest_cli,
    networks,
    recipes,
    refresh_cli,
    report,
    showing,
    synthesize_cli,
    train_cli,
)
from workers.ingest.targets import is_served
from workers.networks.hmn_simple import NamedLearner
from workers.networks.knowledge import KnowledgeLearner
from workers.networks.kv import geography
from workers.networks.simple import SimpleLearner
from workers.recipe import Recipe
from workers.refresh import Refresher
from workers.run import Run, is_built, recipe_of
from workers.showing import console
from workers.stopping import interrupted

FOLDER, QUICK = Path("runs/geography"), Path("runs/geography-quick")

SAMPLES = (
    "Which currency do they use in Kyoto?",
    "What country is Timbuktu in?",
    "In which time zone is Reykjavik?",
    "What is the capital of Mongolia?",
    "Which countries border Switzerland?",
    "Which languages do people speak in Barcelona?",
    "Which countries use the euro?",
    "What is the calling code of Nairobi?",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error told, 130 when interrupted."""
    options = _parser().parse_args(argv)
    try:
        options.command(options)
    except (KeyboardInterrupt, SystemError) as error:
        if not interrupted(error):
            raise
        console.print("\nStopped. The same command goes on from what was saved.")
        return 130
    except (MemstoreError, TaskDataError, DataMissing) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", soft_wrap=True)
        return 1
    return 0


def demo(options: argparse.Namespace) -> None:
    """builds, trains, evaluates, answers samples and writes the report, whatever is missing"""
    start = time.perf_counter()
    recipe = geography(quick=options.quick)
    folder = options.out or (QUICK if options.quick else FOLDER)
    if is_built(folder) and recipe_of(folder) != recipe:
        console.print(f"{folder} was made by another recipe, and stays as it is.")
    base = _fit(folder, recipe)
    with Run(folder) as run:
        figures = run.figures
        if figures:
            console.print("Evaluated before:")
        else:
            base = base or showing.reading(run.recipe)
            console.print("Evaluating on held-out wordings of held-out entities …")
            figures = run.evaluate(base)
        showing.figures(run.recipe, figures)
        replies = _ask(run, SAMPLES, searched=False)
        for reply in replies:
            showing.reply(reply)
        page = report.write(folder, run.recipe, run.steps, figures, replies)
    seconds = time.perf_counter() - start
    console.print(f"\nPlots and figures: {page}  ({seconds:.0f} s)", soft_wrap=True)
    where = "" if folder == FOLDER else f" --out {folder}"
    command = f'{sys.argv[0]} ask{where} "which currency do they use in Kyoto?"'
    console.print(f"Go on:  {command}", soft_wrap=True)


def fit(options: argparse.Namespace) -> None:
    """builds and trains what a recipe says; goes on where it was stopped"""
    name = recipes.name_of(options.recipe, options.network)
    name += "-quick" if options.quick else ""
    recipe = recipes.recipe_of(name, options.set, options.network)
    folder = options.out or Path("runs") / name.rpartition(":")[2]
    if is_built(folder):
        _same(folder, recipe)
    if options.cluster is not None:
        train_cli.fit(options, folder, recipe)
        return
    _fit(folder, recipe, options.checkpoint_steps, options.refresh_share)


def resume(options: argparse.Namespace) -> None:
    """goes on with a run from its newest checkpoint"""
    if options.cluster is not None:
        train_cli.fit(options, options.folder, recipe_of(options.folder))
        return
    _fit(options.folder, None, options.checkpoint_steps, options.refresh_share)


def evaluate(options: argparse.Namespace) -> None:
    """tests a run, or one of its checkpoints, on held-out wordings and entities"""
    folder = options.folder
    if options.step is not None and options.cluster is not None:
        raise InvalidArgument(
            "a checkpoint is tested beside the run itself, in this process",
            got="--step with --cluster",
            expected="one of them",
        )
    at = None if options.step is None else Run.at(folder, options.step)
    with at or train_cli.opened(options, folder) as run:
        figures = run.evaluate(showing.reading(run.recipe))
        console.print(f"After step {run.trainer.done} of {run.recipe.steps}:")
        showing.figures(run.recipe, figures)
        if options.step is None:
            report.write(folder, run.recipe, run.steps, figures, [])


def ask_one(options: argparse.Namespace) -> None:
    """answers the questions given: by the network of a run, or from ingested facts alone"""
    # Bytes of the command line that are no text come as surrogates.
    texts = [text.encode("utf-8", "replace").decode() for text in options.question]
    if options.facts is not None:
        with facts.opened(options.facts) as base:
            for text in texts:
                showing.found(facts.answer(base, text))
        return
    folder = options.out or FOLDER
    _no_store(folder)
    with train_cli.opened(options, folder) as run:
        replies = _ask(run, texts, searched=options.search)
        for reply in replies:
            showing.reply(reply)
        if options.plot is not None:
            console.print(f"\nWeights of the hops: {report.attention(replies, options.plot)}")


def _no_store(folder: Path) -> None:
    """Raises `TaskDataError` where a folder, or an address, is that of facts and not of a run."""
    if is_built(folder) or not ((folder / manifest.NAME).exists() or is_served(str(folder))):
        return
    raise TaskDataError(
        f"{folder}, which is a store and no run",
        "a folder made by `fit`, which has a network",
        f"`memtrain ask --facts {folder}` answers from the facts alone",
    )


def _fit(
    folder: Path,
    recipe: Recipe | None,
    checkpoint_steps: int | None = None,
    refresh_share: float = 0.0,
) -> Any:
    """Builds and trains what is missing; returns what the task gives if that had to be read.

    recipe: what to build where nothing is; None goes on with what is there alone.  refresh_share:
    of the time, that a thread refreshes the facts, beside the refreshes of the recipe.
    """
    if checkpoint_steps is not None:
        checks.positive("checkpoint_steps", checkpoint_steps)
    if not 0.0 <= refresh_share <= 1.0:
        raise InvalidArgument(
            "a share is out of range", got=refresh_share, expected="0 ≤ refresh_share ≤ 1"
        )
    base = None
    if recipe is not None and not is_built(folder):
        folders.make(folder, "the run folder")
        with files.lock(folder / "LOCK"):
            if is_built(folder):  # by another process, a moment ago
                _same(folder, recipe)
            else:
                base = showing.reading(recipe)
                with showing.building() as told:
                    Run.build(folder, recipe, base, told)
    with Run(folder) as run:
        console.print(f"{run.recipe.network} in {folder}: {run.learner.describe()}.")
        if run.trained:
            console.print(f"All {run.recipe.steps} steps are done.")
        else:
            base = base or showing.reading(run.recipe)
            with ExitStack() as stack:
                if refresh_share:
                    worker = stack.enter_context(Refresher(run.holder, share=refresh_share))
                    run.paused = worker.paused
                steps = stack.enter_context(closing(run.train(base, checkpoint_steps)))
                showing.training(run, steps)
        if base is not None or not (folder / report.NAME).exists():
            report.write(folder, run.recipe, run.steps, run.figures, [])
    return base


def _same(folder: Path, recipe: Recipe) -> None:
    checkpoints.same(
        f"{folder} was made by another recipe",
        asdict(recipe_of(folder)),
        asdict(recipe),
        f"go on with it by `memtrain resume {folder}`, or choose another folder by --out",
    )


def _ask(run: Run, texts: Sequence[str], *, searched: bool) -> list[Any]:
    if not isinstance(run.learner, KnowledgeLearner | SimpleLearner | NamedLearner):
        raise InvalidArgument(
            "the network answers no questions of people",
            got=f"{run.recipe.network} on {run.recipe.task}",
            expected="one over a knowledge base",
        )
    return run.learner.reply(texts, searched=searched)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memtrain", description="Train memory networks on memstore."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, epilog: str | None = None) -> argparse.ArgumentParser:
        about = inspect.getdoc(command)
        sub = commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command)
        return sub

    sub = add("demo", demo)
    sub.add_argument("--out", type=Path, help=f"the run folder ({FOLDER}; quick: {QUICK})")
    sub.add_argument("--quick", action="store_true", help="a small memory, under a minute")

    sub = add("fit", fit, _settings())
    sub.add_argument(
        "--network",
        metavar="NAME",
        help=f"{', '.join(networks.NAMES)}, or module:attribute, which is a "
        "workers.learner.Network (that of the recipe)",
    )
    sub.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"{', '.join(recipes.known())}, or module:function, which returns a "
        "workers.recipe.Recipe (the first of the network)",
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the recipe that is to be another, any number of times",
    )
    sub.add_argument("--out", type=Path, help="the run folder (runs/NAME)")
    sub.add_argument("--quick", action="store_true", help="as --recipe NAME-quick")
    _add_pace(sub)
    train_cli.add_options(sub)

    sub = add("resume", resume)
    sub.add_argument("folder", type=Path, metavar="DIR", help="the run folder")
    _add_pace(sub)
    train_cli.add_options(sub)

    sub = add("evaluate", evaluate)
    sub.add_argument(
        "folder", type=Path, nargs="?", default=FOLDER, metavar="DIR", help=f"({FOLDER})"
    )
    sub.add_argument(
        "--step", type=int, help="of the checkpoint, tested beside the run itself (the newest)"
    )
    train_cli.add_where(sub)

    sub = add("ask", ask_one)
    asked = sub.add_mutually_exclusive_group()
    asked.add_argument("--out", type=Path, help=f"the run folder ({FOLDER})")
    asked.add_argument(
        "--facts",
        metavar="DIR | ray:NAMESPACE/NAME",
        help="what `memtrain ingest` made, in place of a run: no network, names and words alone",
    )
    sub.add_argument("question", nargs="+", help="in plain English")
    sub.add_argument("--search", action="store_true", help="propose facts by inner product")
    sub.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw what each hop gave the facts most read"
    )
    train_cli.add_where(sub)
    cluster_cli.add_commands(commands)
    ingest_cli.add_commands(commands)
    synthesize_cli.add_commands(commands)
    export_cli.add_commands(commands)
    refresh_cli.add_command(commands)
    return parser


def _settings() -> str:
    """Tells of each network's settings, and their defaults in its first recipe."""
    told = ["settings of all networks:", inspect.getdoc(Recipe)]
    for name in networks.NAMES:
        network = networks.network_of(name)
        first, make = next(iter(network.recipes.items()))
        kinds = [kind for kind in network.recipe.__mro__ if issubclass(kind, Recipe)]
        told += [f"of {name}: {inspect.getdoc(kind)}" for kind in kinds[-2::-1]]
        values = [f"  {key}={value}" for key, value in asdict(make()).items()]
        told += [f"as recipe {first} of {name} has them:", "\n".join(values)]
    return "\n\n".join(map(str, told))


def _add_pace(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--checkpoint-steps",
        type=int,
        metavar="N",
        help="steps from one checkpoint to the next (so many that they take 5%% of the time)",
    )
    sub.add_argument(
        "--refresh-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the time, that a thread refreshes the facts meanwhile; another run each time (0)",
    )


if __name__ == "__main__":
    sys.exit(main())
