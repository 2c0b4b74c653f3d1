"""What the terminal shows of a run: progress with the time left, figures, answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from models.tasks import memories
from workers.ask import Reply
from workers.evaluate import Evaluation
from workers.loop import Step
from workers.run import Run
from workers.stopping import whole

RECENT = 20
"""Steps that the figures of the progress are the mean of."""

console = Console(markup=False, highlight=False)


@contextmanager
def building(facts: int) -> Iterator[memories.Progress]:
    """Shows how far a memory is that is being built."""
    start = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Building the memory", total=facts, rate="")

        def told(what: str, done: int, total: int) -> None:
            rate = f"{done / (time.perf_counter() - start):,.0f} facts/s"
            progress.update(task, completed=done, total=total, rate=rate)

        yield told


def training(run: Run, steps: Iterator[Step]) -> None:
    """Takes the steps, and shows how far they are; an interrupt ends them after one."""
    batch, recent = run.recipe.batch, list[Step]()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(
            "Training",
            total=run.recipe.steps,
            completed=run.trainer.done,
            figures="linking the questions …",
        )
        for step in whole(steps):
            recent = [*recent[1 - RECENT :], step]
            loss, hits = (
                sum(values) / len(recent)
                for values in ([s.loss for s in recent], [s.hits for s in recent])
            )
            rate = batch * len(recent) / sum(s.seconds for s in recent)
            shown = f"loss {loss:.3f}  hits@1 {hits:.3f}  {rate:,.0f} questions/s"
            progress.update(task, completed=step.number + 1, figures=shown)


def figures(found: list[Evaluation]) -> None:
    table = Table("facts proposed by", *(e.proposed_by for e in found), title=None)
    rows = {
        "hits@1, entity linked rightly": [f"{e.hits_1:.3f}" for e in found],
        "mean reciprocal rank": [f"{e.mrr:.3f}" for e in found],
        "candidate recall (the fact was among those read)": [
            f"{e.candidate_recall:.3f}" for e in found
        ],
        "entity linked rightly (names shared by several: most populous)": [
            f"{e.linked:.3f}" for e in found
        ],
        "names shared by several entities": [f"{e.ambiguous:.3f}" for e in found],
        "hits@1 from text to answer": [f"{e.end_to_end:.3f}" for e in found],
        "lookups cut by their limit": [f"{e.truncated:.3f}" for e in found],
        "right answers behind the list limit": [f"{e.beyond_limit:.3f}" for e in found],
        "questions/s": [f"{e.questions_per_s:,.0f}" for e in found],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    console.print(table)


def reply(given: Reply) -> None:
    console.print(f"\n{given.question}", style="bold")
    if not given.answers:
        console.print("  I find nothing about that: no name I know is in the question.")
        return
    shared = f", one of {given.ambiguity} so named" if given.ambiguity > 1 else ""
    if given.entity:
        console.print(f"  about {given.entity}{shared}")
    best, *others = given.answers
    also = ", ".join(f"{name} {chance:.0%}" for name, chance in others)
    console.print(f"  {best[0]} {best[1]:.0%}" + (f"   ({also})" if also else ""), style="green")
    for fact in given.facts:
        weights = " ".join(f"{weight:.2f}" for weight in fact.weights)
        more = f", … {fact.more} more" if fact.more else ""
        console.print(
            f"    {weights}  {fact.subject} · {fact.relation} → {', '.join(fact.objects)}{more}",
            style="dim",
        )
