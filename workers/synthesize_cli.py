"""memtrain synthesize: files of made-up facts that look like Freebase's, of any size."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.progress import Progress

from models.tasks.synthetic_files import write
from models.tasks.synthetic_freebase import PUBLISHED, SyntheticFreebase
from workers.showing import console


def add_commands(commands: Any) -> None:
    """Adds `synthesize` to the commands of `memtrain`."""
    words = "write made-up facts that look like Freebase's, names, types and questions"
    sub = commands.add_parser("synthesize", help=words, description=words)
    sub.set_defaults(command=run)
    sub.add_argument("--like", choices=PUBLISHED, default="FB5M", help="its statistics (FB5M)")
    sub.add_argument("--facts", type=int, help="10000 to 1000000000 (those of FB2M or FB5M)")
    sub.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a folder for the files"
    )
    sub.add_argument("--questions", type=int, default=10_000, help="of each split (10000)")
    sub.add_argument("--seed", type=int, default=0, help="the same makes the same files (0)")


def run(options: argparse.Namespace) -> None:
    """Writes the files, and shows how far it is."""
    like = PUBLISHED[options.like]
    statistics = like if options.facts is None else like.scaled(options.facts)
    base = SyntheticFreebase(statistics, options.seed)
    with Progress(console=console) as bars:
        task = bars.add_task("Writing facts", total=statistics.facts)

        def told(what: str, done: int, total: int) -> None:
            bars.update(task, completed=done)

        write(base, options.out, count=options.questions, progress=told)
    print(
        f"{statistics.facts:,} facts in {statistics.rows:,} rows, "
        f"{statistics.entities:,} entities, {statistics.relations:,} relations, in {options.out}"
    )
    facts = options.out / "facts.txt"
    print(f'Go on:  memtrain ingest {facts} --separator " " --into {options.out / "store"}')
