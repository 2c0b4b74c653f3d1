"""Stores of facts like those of Freebase, ingested for benchmarks; no benchmark itself."""

from __future__ import annotations

import sys
from pathlib import Path

from models.tasks.synthetic_files import write_facts
from models.tasks.synthetic_freebase import PUBLISHED, SyntheticFreebase
from workers.ingest import Layout, Reading, Report, ingest

LIKE = "FB5M"
FULL = PUBLISHED[LIKE].facts


def base_of(facts: int) -> SyntheticFreebase:
    """The base of so many facts."""
    like = PUBLISHED[LIKE]
    return SyntheticFreebase(like if facts == like.facts else like.scaled(facts))


def case_of(report: Report, dim: int) -> str:
    """What is measured, in words."""
    return f"{report.given:,} facts like {LIKE} in {report.facts:,} rows of {dim}"


def stored(facts: int, folder: Path, layout: Layout) -> Report:
    """Makes so many facts, and a store of them, `folder/store`."""
    source = folder / "facts.txt"
    write_facts(base_of(facts), source)
    told = [""]

    def progress(what: str, done: int, total: int) -> None:
        if what != told[0]:
            told[0] = what
            print(what, file=sys.stderr, flush=True)

    reading = Reading(separator=" ")
    report = ingest([source], folder / "store", reading=reading, layout=layout, progress=progress)
    source.unlink()
    return report
