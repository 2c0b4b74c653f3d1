"""memtrain: builds a memory of facts, trains a network on it, and answers questions.

memtrain demo                     everything, once; quick when it is there already
memtrain fit                      build and train (goes on where it was stopped)
memtrain evaluate                 held-out wordings and entities
memtrain ask "which currency do they use in Kyoto?"
memtrain cluster up | status | down     a memory on Ray
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from memstore import MemstoreError
from models.tasks.data import DataMissing
from models.tasks.geography import load_geography
from models.tasks.knowledge import KnowledgeBase, TaskDataError
from workers import cluster_cli, recipes, report
from workers.ask import Reply, ask
from workers.evaluate import Evaluation
from workers.loop import Step
from workers.run import Run, is_built, recipe_of
from workers.stopping import interrupted, whole

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

console = Console(markup=False, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error told, 130 when interrupted."""
    options = _parser().parse_args(argv)
    if options.out is None:
        options.out = QUICK if getattr(options, "quick", False) else FOLDER
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
    """Builds, trains, evaluates, answers samples and writes the report, whatever is missing."""
    start = time.perf_counter()
    base = _fit(options)
    with Run(options.out) as run:
        figures = run.figures
        if figures:
            console.print("Evaluated before:")
        else:
            base = base or _base(run)
            console.print("Evaluating on held-out wordings of held-out entities …")
            figures = run.evaluate(base)
        _show_figures(figures)
        replies = _ask(run, SAMPLES, searched=False)
        for reply in replies:
            _show_reply(reply)
        page = report.write(options.out, run.steps, figures, replies)
    seconds = time.perf_counter() - start
    console.print(f"\nPlots and figures: {page}  ({seconds:.0f} s)", soft_wrap=True)
    where = "" if options.out == FOLDER else f" --out {options.out}"
    command = f'{sys.argv[0]} ask{where} "which currency do they use in Kyoto?"'
    console.print(f"Go on:  {command}", soft_wrap=True)


def fit(options: argparse.Namespace) -> None:
    """Builds and trains."""
    _fit(options)


def evaluate(options: argparse.Namespace) -> None:
    """Tests anew."""
    with Run(options.out) as run:
        _show_figures(run.evaluate(_base(run)))


def ask_one(options: argparse.Namespace) -> None:
    """Answers the questions given."""
    with Run(options.out) as run:
        # Bytes of the command line that are no text come as surrogates.
        texts = [text.encode("utf-8", "replace").decode() for text in options.question]
        for reply in _ask(run, texts, searched=options.search):
            _show_reply(reply)


def _fit(options: argparse.Namespace) -> KnowledgeBase | None:
    """Builds and trains what is missing; returns the knowledge base if it had to be read."""
    base = None
    recipe = recipes.geography(quick=options.quick)
    if is_built(options.out) and recipe_of(options.out) != recipe:
        console.print(f"{options.out} was made by another recipe, and stays as it is.")
    if not is_built(options.out):
        console.print("Reading GeoNames …")
        base = load_geography(limit=recipe.places)
        _build(options.out, recipe, base)
    with Run(options.out) as run:
        facts = run.memories.facts.describe()
        console.print(
            f"Memory in {options.out}: {facts.rows:,} facts, "
            f"{run.memories.entities.describe().rows:,} entities, width {facts.config.dim}."
        )
        if not run.trained:
            base = base or _base(run)
            _train(run, base)
    return base


def _base(run: Run) -> KnowledgeBase:
    console.print("Reading GeoNames …")
    return run.base()


def _build(folder: Path, recipe: recipes.Recipe, base: KnowledgeBase) -> None:
    start = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Building the memory", total=base.facts.num_rows, rate="")

        def told(what: str, done: int, total: int) -> None:
            rate = f"{done / (time.perf_counter() - start):,.0f} facts/s"
            progress.update(task, completed=done, total=total, rate=rate)

        Run.build(folder, recipe, base, told)


def _train(run: Run, base: KnowledgeBase) -> None:
    batch, recent = run.recipe.batch, list[Step]()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress, closing(run.train(base)) as steps:
        task = progress.add_task(
            "Training",
            total=run.recipe.steps,
            completed=run.trainer.done,
            figures="linking the questions …",
        )
        for step in whole(steps):
            recent = [*recent[-19:], step]
            loss, hits = (
                sum(values) / len(recent)
                for values in ([s.loss for s in recent], [s.hits for s in recent])
            )
            rate = batch * len(recent) / sum(s.seconds for s in recent)
            shown = f"loss {loss:.3f}  hits@1 {hits:.3f}  {rate:,.0f} questions/s"
            progress.update(task, completed=step.number + 1, figures=shown)


def _ask(run: Run, texts: Sequence[str], *, searched: bool) -> list[Reply]:
    key_limit = None if searched else run.recipe.key_limit
    return ask(
        run.network, run.reader, list(texts), key_limit=key_limit, list_limit=run.recipe.list_limit
    )


def _show_figures(figures: list[Evaluation]) -> None:
    table = Table("facts proposed by", *(e.proposed_by for e in figures), title=None)
    rows = {
        "hits@1, entity linked rightly": [f"{e.hits_1:.3f}" for e in figures],
        "mean reciprocal rank": [f"{e.mrr:.3f}" for e in figures],
        "candidate recall (the fact was among those read)": [
            f"{e.candidate_recall:.3f}" for e in figures
        ],
        "entity linked rightly (names shared by several: most populous)": [
            f"{e.linked:.3f}" for e in figures
        ],
        "names shared by several entities": [f"{e.ambiguous:.3f}" for e in figures],
        "hits@1 from text to answer": [f"{e.end_to_end:.3f}" for e in figures],
        "lookups cut by their limit": [f"{e.truncated:.3f}" for e in figures],
        "right answers behind the list limit": [f"{e.beyond_limit:.3f}" for e in figures],
        "questions/s": [f"{e.questions_per_s:,.0f}" for e in figures],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    console.print(table)


def _show_reply(reply: Reply) -> None:
    console.print(f"\n{reply.question}", style="bold")
    if not reply.answers:
        console.print("  I find nothing about that: no name I know is in the question.")
        return
    shared = f", one of {reply.ambiguity} so named" if reply.ambiguity > 1 else ""
    if reply.entity:
        console.print(f"  about {reply.entity}{shared}")
    best, *others = reply.answers
    also = ", ".join(f"{name} {chance:.0%}" for name, chance in others)
    console.print(f"  {best[0]} {best[1]:.0%}" + (f"   ({also})" if also else ""), style="green")
    for fact in reply.facts:
        weights = " ".join(f"{weight:.2f}" for weight in fact.weights)
        more = f", … {fact.more} more" if fact.more else ""
        console.print(
            f"    {weights}  {fact.subject} · {fact.relation} → {', '.join(fact.objects)}{more}",
            style="dim",
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memtrain", description="Train memory networks on memstore."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in (("demo", demo), ("fit", fit), ("evaluate", evaluate), ("ask", ask_one)):
        sub = commands.add_parser(name, help=command.__doc__)
        sub.set_defaults(command=command)
        sub.add_argument("--out", type=Path, help=f"the run folder ({FOLDER}; quick: {QUICK})")
        if command in (demo, fit):
            sub.add_argument("--quick", action="store_true", help="a small memory, under a minute")
        if command is ask_one:
            sub.add_argument("question", nargs="+", help="in plain English")
            sub.add_argument("--search", action="store_true", help="propose facts by inner product")
    cluster_cli.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
