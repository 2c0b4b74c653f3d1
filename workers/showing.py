"""What the terminal shows of a run: progress with the time left, figures, answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from models.tasks.memories import Progress as Told
from workers import facts, networks, tasks
from workers.ask import FactRead, Reply
from workers.ask_simple import SimpleReply
from workers.figures import Evaluation
from workers.learner import Step
from workers.metrics import RECENT
from workers.recipe import Recipe
from workers.run import Run
from workers.stopping import whole

TOLD = 8
"""Facts that are told of an entity."""

console = Console(markup=False, highlight=False)


def reading(recipe: Recipe) -> Any:
    """Reads what the recipe's task gives, and says so."""
    source, _ = tasks.source_of(recipe.task)
    console.print(f"Reading {source} …")
    return networks.of(recipe).read(recipe)


@contextmanager
def building() -> Iterator[Told]:
    """Shows how far a memory is that is being built."""
    start = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Building the memory", total=None, rate="")

        def told(what: str, done: int, total: int) -> None:
            rate = f"{done / (time.perf_counter() - start):,.0f} {what}/s"
            progress.update(task, completed=done, total=total, rate=rate)

        yield told


def training(run: Run, steps: Iterator[Step]) -> None:
    """Takes the steps, and shows how far they are; an interrupt ends them after one."""
    recent = list[Step]()
    with trained(run.recipe, run.trainer.done) as told:
        for step in whole(steps):
            recent = [*recent[1 - RECENT :], step]
            told(recent)


@contextmanager
def trained(recipe: Recipe, done: int) -> Iterator[Callable[[Sequence[Step]], None]]:
    """Shows how far a run is.  What it gives is to be told the newest steps, at least one.

    done: steps that were taken before.
    """
    columns = (
        TextColumn("{task.description}"),
        # As wide as the others leave it.
        BarColumn(bar_width=None),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(
            "Training",
            total=recipe.steps,
            completed=done,
            figures="reading what is learnt from …",
        )

        def told(recent: Sequence[Step]) -> None:
            step = recent[-1]
            loss, hits = (
                sum(values) / len(recent)
                for values in ([s.loss for s in recent], [s.hits for s in recent])
            )
            rate = recipe.batch * len(recent) / sum(s.seconds for s in recent)
            shown = f"loss {loss:.3f}  hits@1 {hits:.3f}  {rate:,.0f} questions/s"
            shown += f"  level {step.level}" if step.level else ""
            progress.update(task, completed=step.number + 1, figures=shown)

        yield told


ROWS: dict[str, Callable[[Evaluation], str | None]] = {
    "hits@1": lambda e: f"{e.hits_1:.3f}",
    "candidate recall": lambda e: _known(e.candidate_recall, ".3f"),
    "cells scored a question": lambda e: _known(e.scored, ",.0f"),
    "questions": lambda e: f"{e.questions:,}",
    "seconds": lambda e: f"{e.seconds:.1f}",
    "questions/s": lambda e: f"{e.questions / e.seconds:,.0f}",
    "bytes of the memories": lambda e: _known(e.bytes, ",d"),
}
"""What is shown of each evaluation, before its own figures."""


def rows_of(found: list[Evaluation]) -> dict[str, list[str]]:
    """The rows of a table of evaluations: those that any of them has."""
    rows = {name: [show(e) for e in found] for name, show in ROWS.items()}
    for name in dict.fromkeys(name for e in found for name in e.more):
        rows[name] = [_known(e.more.get(name), ".3f") for e in found]
    return {name: [v or "" for v in row] for name, row in rows.items() if any(row)}


def figures(recipe: Recipe, found: list[Evaluation]) -> None:
    """Shows evaluations, and what was published of such a network on such a task."""
    table = Table("", *(e.case for e in found), title=None)
    for name, values in rows_of(found).items():
        table.add_row(name, *values)
    console.print(table)
    published = networks.of(recipe).published.get(recipe.task)
    if published is not None:
        told = f"Published: {published.figure:.3f}, {published.source}."
        console.print(f"{told} {published.note}".rstrip())


def _known(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


NOTHING = "  I find nothing about that: no name I know is in the question."


def reply(given: Reply | SimpleReply) -> None:
    console.print(f"\n{given.question}", style="bold")
    if isinstance(given, SimpleReply):
        _simple(given)
        return
    if not given.answers:
        console.print(NOTHING)
        return
    shared = f", one of {given.ambiguity} so named" if given.ambiguity > 1 else ""
    if given.entity:
        console.print(f"  about {given.entity}{shared}")
    best, *others = given.answers
    also = ", ".join(f"{name} {chance:.0%}" for name, chance in others)
    console.print(f"  {best[0]} {best[1]:.0%}" + (f"   ({also})" if also else ""), style="green")
    _read(given.facts)


def _simple(given: SimpleReply) -> None:
    if not given.candidates:
        console.print(NOTHING)
        return
    console.print(f"  about {' or '.join(given.candidates)}")
    if given.facts:
        console.print(f"  {_objects(given.facts[0])}", style="green")
    else:
        console.print("  No fact is about that.")
    _read(given.facts)


def _read(facts: Sequence[FactRead]) -> None:
    for fact in facts:
        weights = " ".join(f"{weight:.2f}" for weight in fact.weights)
        told = f"{fact.subject} · {fact.relation} → {_objects(fact)}"
        console.print(f"    {weights}  {told}", style="dim")


def _objects(fact: FactRead) -> str:
    return ", ".join(fact.objects) + (f", … {fact.more} more" if fact.more else "")


def found(given: facts.Found) -> None:
    """Shows what facts alone say to a question."""
    console.print(f"\n{given.question}", style="bold")
    if not given.entity:
        console.print("  No name that I know is in the question: give one as [Name], spelt so.")
        return
    console.print(f"  about {given.entity}")
    if not given.facts:
        console.print("  No fact is about it: it is an object of others.")
        return
    best = [fact for fact in given.facts if fact.shared]
    if not best:
        console.print("  No relation of its facts is named by a word of the question:")
    for fact in best[:TOLD] or given.facts[:TOLD]:
        more = ", …" if fact.more else ""
        told = f"  {fact.relation} → {', '.join(fact.objects)}{more}"
        console.print(told, style="green" if fact.shared else "dim")
    left = len(given.facts) - TOLD
    if not best and left > 0:
        console.print(f"  … {left} more", style="dim")
