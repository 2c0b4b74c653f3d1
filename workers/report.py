"""Plots of what there is of a run, and one page that shows them: report.html and PNG files."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from memstore.errors import InvalidArgument
from workers import folders, showing, tasks
from workers.ask import Reply
from workers.ask_simple import SimpleReply
from workers.figures import Confusion, Evaluation
from workers.learner import Step
from workers.recipe import Recipe

NAME = "report.html"
SMOOTH_STEPS = 15
INK, ACCENT, THIRD = "#1f4e79", "#d1603d", "#5b8c5a"

mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def write(
    folder: Path,
    recipe: Recipe,
    steps: list[Step],
    figures: list[Evaluation],
    replies: list[Reply],
) -> Path:
    """Writes the report into `folder`; returns the page. Each part may be empty."""
    replies = [reply for reply in replies if reply.facts]
    pictures: dict[str, tuple[Figure, str]] = {}
    if steps:
        title = "Training: loss and hits@1 among sampled answers"
        pictures["training.png"] = _training(steps), title
    if replies:
        pictures["attention.png"] = _attention(replies), "Attention over facts, hop by hop"
    if figures and figures[0].confusion is not None:
        title = "Relation asked for and relation read"
        pictures["confusion.png"] = _confusion(figures[0].confusion), title
    for name, (figure, _) in pictures.items():
        figure.savefig(folder / name, dpi=110, bbox_inches="tight")
    sections = [
        f"<h2>{html.escape(title)}</h2><img src='{name}' alt='{html.escape(title)}'>"
        for name, (_, title) in pictures.items()
    ]
    page = folder / NAME
    told = _table(figures) if figures else "<p>Not evaluated yet.</p>"
    _, credit = tasks.source_of(recipe.task)
    page.write_text(
        PAGE.format(
            network=html.escape(recipe.network),
            task=html.escape(recipe.task),
            figures=told,
            sections="\n".join(sections),
            credit=html.escape(credit),
        )
    )
    return page


def attention(replies: Sequence[Reply | SimpleReply], path: Path) -> Path:
    """Draws what each hop gave the facts most read, a panel a question; returns where it is.

    Raises `InvalidArgument` where nothing was read, or not hop by hop.
    """
    hops = [reply for reply in replies if isinstance(reply, Reply) and reply.facts]
    if not hops:
        raise InvalidArgument(
            "there are no hops to draw",
            got=", ".join(repr(reply.question) for reply in replies),
            expected="a question about a name that is known, of a network that reads in hops",
        )
    if path.suffix != ".png":
        raise InvalidArgument("the plot is a picture", got=str(path), expected="FILE.png")
    folders.make(path.absolute().parent, "the folder of the plot")
    _attention(hops).savefig(path, dpi=110, bbox_inches="tight")
    return path


def _training(steps: list[Step]) -> Figure:
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    loss, hits = figure.subplots(2, sharex=True)
    # Steps of two kinds differ in difficulty: one curve each.
    kinds = sorted({step.kind for step in steps})
    for kind, colour in zip(kinds, itertools.cycle((INK, ACCENT, THIRD))):
        chosen = [step for step in steps if step.kind == kind]
        numbers = [step.number for step in chosen]
        loss.plot(numbers, _smooth([step.loss for step in chosen]), color=colour, label=kind)
        hits.plot(numbers, _smooth([step.hits for step in chosen]), color=colour, label=kind)
    loss.set(ylabel="loss", yscale="log")
    hits.set(ylabel="hits@1", xlabel="step", ylim=(None, 1.01))
    loss.legend(frameon=False)
    return figure


def _smooth(values: list[float]) -> list[float]:
    """The mean of the values up to each one, over a short window."""
    window = min(SMOOTH_STEPS, len(values))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    smoothed: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return smoothed


def _attention(replies: list[Reply]) -> Figure:
    figure = Figure(figsize=(9, 1.05 * len(replies) + 0.4), layout="constrained")
    for row, reply in enumerate(replies):
        axis = figure.add_subplot(len(replies), 1, row + 1)
        # In the order of the hops that read them.
        facts = sorted(reply.facts, key=lambda fact: int(np.argmax(fact.weights)))
        weights = np.array([fact.weights for fact in facts])
        axis.set_title(reply.question, loc="left", fontsize=9)
        axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        labels = [f"{fact.subject} · {fact.relation} → {_objects(fact.objects)}" for fact in facts]
        axis.set_yticks(range(len(labels)), labels, fontsize=7)
        axis.set_xticks([])
        for (row, hop), weight in np.ndenumerate(weights):
            ink = "white" if weight > 0.6 else "black"
            axis.text(
                hop,
                row,
                f"hop {hop + 1}: {weight:.2f}",
                ha="center",
                va="center",
                color=ink,
                fontsize=7,
            )
    return figure


def _objects(names: list[str]) -> str:
    return ", ".join(names[:2]) + ("…" if len(names) > 2 else "")


def _confusion(mixed: Confusion) -> Figure:
    counts = np.array(mixed.counts, float)
    used = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    shares = counts[np.ix_(used, used)]
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)
    names = [mixed.names[i] for i in used]
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(used)), names, rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(used)), names, fontsize=7)
    axis.set(xlabel="relation of the fact most read", ylabel="relation asked for")
    figure.colorbar(picture, shrink=0.7, label="share of questions")
    return figure


def _table(figures: list[Evaluation]) -> str:
    head = "".join(f"<th>{html.escape(e.case)}</th>" for e in figures)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{value}</td>' for value in values)}</tr>"
        for name, values in showing.rows_of(figures).items()
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>memstore: {network} on {task}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem 1rem .2rem 0; text-align: left; }}
tr {{ border-bottom: 1px solid #ddd; }} img {{ max-width: 100%; }} footer {{ color: #666; }}
</style></head><body>
<h1>What network {network} learnt of {task}</h1>
<p>Tested on what was held out of training.</p>
{figures}
{sections}
<footer>{credit}</footer>
</body></html>
"""
