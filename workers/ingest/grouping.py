"""Stages 3 and 4: facts by numbers of all, sorted in each run, then grouped range by range.

A fact is one int64, (subject · relations + relation) · entities + object, as in
`models.tasks.knowledge.group_facts`, so entities² · relations must stay below 2⁶³.

facts/RUN.npy         int64, rising: the facts of a run, each once
groups/bounds.npy     int64 [ranges + 1, runs]: where the ranges begin in them
groups/RANGE.arrow    subject, relation, objects, rising in (subject, relation); no row is in two
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.tasks.knowledge import FACT_SCHEMA, TaskDataError
from workers.ingest import cutting, dictionary, keeping


def check_counts(entities: int, relations: int) -> None:
    """Raises `TaskDataError` where a fact does not fit into an int64."""
    if entities * entities * relations >= 2**63:
        raise TaskDataError(
            f"{entities:,} entities and {relations:,} relations",
            "entities² · relations below 2⁶³",
            "ingest a part of them",
        )


def number(work: Path, runs: Sequence[str], run: int, firsts: dict[str, np.ndarray]) -> int:
    """Numbers the facts of a run; returns how many it has, each once.

    firsts: by kind, the number of the first name of each range, and the count of all.
    """
    path = work / "facts" / f"{runs[run]}.npy"
    if not path.exists():
        entities, relations = (int(firsts[kind][-1]) for kind in ("entities", "relations"))
        codes = keeping.array((work / "runs" / runs[run]).with_suffix(".codes.npy"))
        of_entity = dictionary.numbers(work, "entities", run, firsts["entities"][:-1])
        of_relation = dictionary.numbers(work, "relations", run, firsts["relations"][:-1])
        facts = of_entity[codes[0]]
        facts *= relations
        facts += of_relation[codes[1]]
        facts *= entities
        facts += of_entity[codes[2]]
        keeping.put_array(path, _distinct(facts))
        del codes, of_entity, of_relation, facts
        keeping.give_back()
    return len(keeping.array(path))


def cut(work: Path, runs: Sequence[str], entities: int, most_facts: int) -> int:
    """Cuts the facts of the runs into ranges of about so many; returns how many ranges."""
    path = work / "groups" / "bounds.npy"
    if not path.exists():
        bounds = cutting.bounds(
            len(runs),
            lambda run: keeping.array(work / "facts" / f"{runs[run]}.npy"),
            most_facts * 8,
            lambda facts, place: int(facts[place]),
            lambda fact: fact // entities * entities,  # the objects of a row stay together
        )
        keeping.put_array(path, bounds)
    return len(keeping.array(path)) - 1


def group(work: Path, runs: Sequence[str], number: int, entities: int, relations: int) -> int:
    """Groups the facts of one range; returns how many rows they make."""
    path = work / "groups" / f"{number:06}.arrow"
    if not path.exists():
        bounds = keeping.array(work / "groups" / "bounds.npy")
        parts = [np.empty(0, np.int64)]
        parts += [
            np.array(keeping.array(work / "facts" / f"{run}.npy")[first:last])
            for run, first, last in zip(runs, bounds[number], bounds[number + 1], strict=True)
            if first < last
        ]
        keeping.put_table(path, _rows(_distinct(np.concatenate(parts)), entities, relations))
        del parts
        keeping.give_back()
    return len(keeping.table(path))


def groups(work: Path, count: int) -> Iterator[pa.Table]:
    """The fact rows of all ranges, rising in (subject, relation), objects rising."""
    for each in range(count):
        yield keeping.table(work / "groups" / f"{each:06}.arrow")


def _distinct(facts: np.ndarray) -> np.ndarray:
    facts.sort()
    return facts[np.diff(facts, prepend=-1) > 0]


def _rows(facts: np.ndarray, entities: int, relations: int) -> pa.Table:
    row, objects = np.divmod(facts, max(entities, 1))
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    offsets = np.append(starts, len(facts)).astype(np.int32)
    row = row[starts]
    lists = pa.ListArray.from_arrays(offsets, objects)
    columns = [row // max(relations, 1), row % max(relations, 1), lists]
    return pa.table(columns, schema=FACT_SCHEMA)
