"""memtrain ingest: files of facts become memories, from the command line."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from memstore.config import DType, IndexKind, Storage
from workers.ingest import Layout, Reading, Report, ingest
from workers.ingest.joining import MOST_PAIRS
from workers.ingest.pipeline import MEMORY_BYTES, REJECT_SHARE
from workers.ingest.plan import FORMATS

LAYOUT = ("dim", "shards", "index", "dtype", "storage", "resident_bytes", "seed", "stored")

UNITS = {"Reading": ("MB/s", 1e6), "Loading": ("rows/s", 1)}
"""By the first word of a stage, what its rate is told in; others count their tasks."""

console = Console(markup=False, highlight=False, stderr=True)


def add_commands(commands: Any) -> None:
    """Adds `ingest` to the commands of `memtrain`."""
    words = "read files of facts into memories; the same command goes on where it was stopped"
    sub = commands.add_parser("ingest", help=words, description=words)
    sub.set_defaults(command=run, out=Path())
    sub.add_argument("source", nargs="+", help="files, or folders of files")
    sub.add_argument("--into", required=True, metavar="DIR | ray:NAMESPACE/NAME", help="a store")
    sub.add_argument("--format", choices=FORMATS, default="auto", help="told by the name (auto)")
    sub.add_argument("--delimiter", default="\t", help="of tsv, between fields (a tab)")
    sub.add_argument("--separator", default="", help="between the objects of one field (none)")
    sub.add_argument(
        "--relations",
        action="append",
        default=[],
        metavar="PREFIX",
        help="keep the facts whose relation begins so, or with another that is given (all)",
    )
    sub.add_argument(
        "--mediators",
        default="",
        metavar="FILE",
        help="names, one a line, of nodes past which facts are joined, as of Freebase's (none)",
    )
    sub.add_argument("--columns", default="", help="of Parquet and Arrow: subject,relation,object")
    sub.add_argument(
        "--memory-bytes", type=int, default=MEMORY_BYTES, help="held of what is read (1 GiB)"
    )
    sub.add_argument("--workers", type=int, default=1, help="that read; more than one need Ray (1)")
    sub.add_argument("--reject-share", type=float, default=REJECT_SHARE, help="of lines (0.01)")
    sub.add_argument("--work", type=Path, help="a folder for what is in between (DIR.ingest)")
    default = Layout()
    sub.add_argument("--dim", type=int, default=default.dim, help="width of rows (64)")
    sub.add_argument("--shards", type=int, default=default.shards, help="of each memory (1)")
    kinds = get_args(IndexKind)
    sub.add_argument("--index", choices=kinds, default=default.index, help="of the facts")
    sub.add_argument("--dtype", choices=get_args(DType), default=default.dtype, help="of rows")
    sub.add_argument("--storage", choices=get_args(Storage), default=default.storage)
    sub.add_argument(
        "--resident-bytes",
        type=int,
        help="of main memory, for the rows of entities and as many for those of facts; with "
        "mapped storage",
    )
    sub.add_argument(
        "--no-keys",
        dest="stored",
        action="store_false",
        help="facts keep no keys; these are summed when they are read (they keep them)",
    )
    sub.add_argument("--seed", type=int, default=default.seed, help="of rows before training (0)")


def run(options: argparse.Namespace) -> None:
    """Ingests, and shows how far it is."""
    reading = Reading(
        format=options.format,
        delimiter=options.delimiter.replace("\\t", "\t"),
        separator=options.separator,
        columns=tuple(filter(None, options.columns.split(","))),
        relations=tuple(options.relations),
        mediators=options.mediators,
    )
    layout = Layout(**{name: getattr(options, name) for name in LAYOUT})
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        report = ingest(
            options.source,
            options.into,
            reading=reading,
            layout=layout,
            memory_bytes=options.memory_bytes,
            workers=options.workers,
            reject_share=options.reject_share,
            work=options.work,
            progress=Bars(bars),
        )
    _show(report, options.into)


class Bars:
    """Shows each stage as a bar of its own, with its rate since it began."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._begun: dict[str, tuple[TaskID, float, int]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._begun:
            task = self._bars.add_task(what, total=max(total, 1), rate="")
            self._begun[what] = task, time.perf_counter(), done
        task, begun, before = self._begun[what]
        unit, scale = UNITS.get(what.partition(" ")[0], ("parts/s", 1))
        rate = (done - before) / scale / max(time.perf_counter() - begun, 1e-9)
        shown = f"{rate:,.0f} {unit}" if done > before else ""
        self._bars.update(task, completed=done if total else 1, rate=shown)


def _show(report: Report, into: str) -> None:
    print(
        f"{report.given:,} facts read, {report.facts:,} rows for a subject and relation, "
        f"{report.entities:,} entities, {report.relations:,} relations, "
        f"{report.seconds:.1f} s, in {into}"
    )
    if report.left_out:
        print(f"{report.left_out:,} facts of other relations are left out")
    if report.mediators:
        print(
            f"{report.joined:,} facts at {report.mediators:,} mediators became {report.made:,} "
            f"past them; {report.alone:,} that lead no further are left out, {report.crowded:,} "
            f"of mediators of more than {MOST_PAIRS:,} pairs, {report.between:,} between mediators"
        )
    if report.rejected:
        print(f"{report.rejected:,} of {report.lines:,} lines are broken: see rejects.jsonl")
    print(f'Go on:  memtrain ask --facts {into} "…"')
