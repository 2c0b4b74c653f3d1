"""Answers a question from facts alone: of a store that was ingested, where no network was trained.

    with opened("knowledge") as base:                    a directory, HOST:PORT or ray:…
        found = answer(base, "who directed Kismet?")

What it is about is the longest name of an entity that stands in it, or the one in brackets; of the
facts about that entity those come first whose relations share most words with the question.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import memstore
from memstore import NO_SLOT, Memory
from memstore.memory import Slots
from models.tasks.knowledge import TaskDataError
from models.tasks.linking import words
from models.tasks.memories import Holder
from workers.ingest.targets import is_served

LONGEST = 16
"""Words and signs that a name may have; of a question so many times as many are looked up."""

FACTS, LISTED = 1_024, 8
"""Of an entity, that are looked at, and objects that are told of one."""

_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_SIGNS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class FactTold:
    """A fact about the entity.  more: whether it has objects beside those told.  shared: words of
    the relation that are in the question."""

    relation: str
    objects: list[str]
    more: bool
    shared: int


@dataclass(frozen=True)
class Found:
    """What facts say to a question.

    entity: what it is about, empty where no name is in it.  facts: about that, those first that
    share most words.
    """

    question: str
    entity: str
    facts: list[FactTold]


@dataclass(frozen=True)
class Base:
    """The memories of an ingested base."""

    entities: Memory
    relations: Memory
    facts: Memory


@contextlib.contextmanager
def opened(where: str) -> Iterator[Base]:
    """Opens what `ingest` filled, to read; raises `TaskDataError` where there is none."""
    holder: Any = (
        memstore.connect(where) if is_served(where) else memstore.open(where, read_only=True)
    )
    with holder:
        yield _base(holder, holder.list(), where)


def _base(holder: Holder, there: list[str], where: str) -> Base:
    names = ("entities", "relations", "facts")
    if not set(names) <= set(there):
        raise TaskDataError(
            f"no facts in {where}: memories {there}",
            f"{list(names)}",
            f"`memtrain ingest FILE … --into {where}` makes them",
        )
    base = Base(*map(holder.memory, names))
    if "name" not in base.entities.config.lookup or "subject" not in base.facts.config.lookup:
        raise TaskDataError(
            f"{where}, whose entities are not looked up by name",
            "what `memtrain ingest` made",
            "of a run, `memtrain ask --out RUN` asks the network",
        )
    return base


def answer(base: Base, question: str) -> Found:
    """Looks for the entity that a question names, and for the facts about it."""
    name, entity = _named(base, question)
    if entity == NO_SLOT:
        return Found(question, "", [])
    asked = set(words(question.replace(name, " ")))
    own = base.facts.lookup("subject", [entity], FACTS).slots
    told = sorted(_facts(base, own, asked), key=lambda fact: -fact.shared)
    [spelt] = _column(base.entities, "name", np.array([entity]))
    return Found(question, spelt, told)


def _named(base: Base, question: str) -> tuple[str, int]:
    """The longest part of a question that is a name, as it stands there, and whose it is."""
    marked = _BRACKETS.search(question)
    parts = [marked[1]] if marked else []
    signs = [match.span() for match in _SIGNS.finditer(question)][: LONGEST**2]
    parts += sorted(
        (
            question[start:end]
            for first, (start, _) in enumerate(signs)
            for _, end in signs[first : first + LONGEST]
        ),
        key=len,
        reverse=True,
    )
    spelt = list(dict.fromkeys((part, way) for part in parts for way in _ways(part)))
    if not spelt:
        return "", NO_SLOT
    # Names are of one entity each.
    slots = base.entities.lookup("name", [way for _, way in spelt], 1).padded(1)[:, 0]
    first = int(np.argmax(slots != NO_SLOT))
    return spelt[first][0], int(slots[first])


def _ways(part: str) -> list[str]:
    """How a name may be spelt in the facts: as here, in capitals, with underscores for spaces."""
    ways = (part, part.title())
    return [*ways, *(way.replace(" ", "_") for way in ways)]


def _facts(base: Base, slots: Slots, asked: set[str]) -> list[FactTold]:
    if not len(slots):
        return []
    records = base.facts.gather(
        slots, vectors=False, columns=["relation", "objects"], list_limit=LISTED + 1
    ).records
    assert records is not None
    relations = _column(base.relations, "name", records["relation"].to_numpy())
    lists = records["objects"].to_pylist()
    told = np.array([slot for objects in lists for slot in objects[:LISTED]], np.int64)
    names = iter(_column(base.entities, "name", told))
    return [
        FactTold(
            relation,
            [next(names) for _ in objects[:LISTED]],
            len(objects) > LISTED,
            len(asked.intersection(words(relation))),
        )
        for relation, objects in zip(relations, lists, strict=True)
    ]


def _column(memory: Memory, column: str, slots: Slots) -> list[Any]:
    records = memory.gather(slots, vectors=False, columns=[column]).records
    assert records is not None
    return list(records[column].to_pylist())
