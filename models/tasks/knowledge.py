"""Holds what a task knows as entities, relations, grouped facts and aliases.

Shapes: N entities, F flat facts (triples), G fact rows (one per subject and relation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memstore.errors import as_it_was

Int64s = NDArray[np.int64]

ENTITY_SCHEMA = pa.schema([("name", pa.string()), ("kind", pa.string()), ("weight", pa.int64())])
FACT_SCHEMA = pa.schema(
    [("subject", pa.int64()), ("relation", pa.int64()), ("objects", pa.list_(pa.int64()))]
)
ALIAS_SCHEMA = pa.schema([("alias", pa.string()), ("entity", pa.int64())])


class TaskDataError(ValueError):
    """Says that task data, or a request for some, is wrong: what was got, expected, and to do."""

    def __init__(self, got: str, expected: str, remedy: str) -> None:
        super().__init__(f"got {got}; expected {expected}; {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        return as_it_was, (type(self), self.args, vars(self))


class Triples(NamedTuple):
    """Lists flat facts: three int64 arrays [F] of entity, relation and entity numbers."""

    subjects: Int64s
    relations: Int64s
    objects: Int64s


@dataclass(frozen=True)
class KnowledgeBase:
    """Holds one task's knowledge; raises `TaskDataError` where its parts do not fit together.

    entities:  [N] `name`, `kind`, `weight` (int64 ≥ 0, popularity); row i is entity i.
    relations: the readable name of every relation number, unique.
    facts:     [G] `subject`, `relation`, `objects` (int64, lists of int64), strictly rising in
               (subject, relation); objects by falling weight, then rising entity; never empty.
    aliases:   `alias`, `entity`, rising in entity; an entity's own name is one of its aliases.
    """

    entities: pa.Table
    relations: tuple[str, ...]
    facts: pa.Table
    aliases: pa.Table

    def __post_init__(self) -> None:
        for part, schema in (
            ("entities", ENTITY_SCHEMA),
            ("facts", FACT_SCHEMA),
            ("aliases", ALIAS_SCHEMA),
        ):
            table = getattr(self, part)
            if not table.schema.equals(schema):
                raise TaskDataError(
                    f"{part} with the columns ({_columns(table.schema)})",
                    f"({_columns(schema)})",
                    "build the table with the schema in models/tasks/knowledge.py",
                )
            nulls = sum(column.null_count for column in table.columns)
            _check(nulls == 0, f"{nulls} null values in {part}", "none", "fill or drop those rows")
            object.__setattr__(self, part, table.combine_chunks())
        distinct = len(set(self.relations)) == len(self.relations)
        _check(distinct, f"relations {self.relations}", "distinct names", "rename the double ones")
        self._check_numbers()

    def _check_numbers(self) -> None:
        entities, relations = self.entities.num_rows, len(self.relations)
        subject, relation, counts, objects = self.columns()
        alias_entity = self.aliases["entity"].to_numpy()
        for what, numbers, end in (
            ("weight", self.weights, 2**62),
            ("fact subject", subject, entities),
            ("fact relation", relation, relations),
            ("fact object", objects, entities),
            ("alias entity", alias_entity, entities),
        ):
            bad = numbers[(numbers < 0) | (numbers >= end)]
            shown = f"{what} {bad[0]}" if len(bad) else what
            _check(not len(bad), shown, f"0 ≤ {what} < {end}", "number it by the tables given")
        ordered = np.all(np.diff(alias_entity) >= 0)
        _check(ordered, "aliases out of order", "rising entity", "sort the table by entity")
        rising = np.all(np.diff(subject * max(relations, 1) + relation) > 0)
        _check(rising, "fact rows out of order", "rising (subject, relation)", "use group_facts")
        _check(np.all(counts > 0), "a fact without objects", "one or more", "use group_facts")
        row = np.repeat(np.arange(len(counts)), counts)
        weight = self.weights[objects]
        falling = (weight[1:] < weight[:-1]) | (
            (weight[1:] == weight[:-1]) & (objects[1:] > objects[:-1])
        )
        sound = np.all(falling | (row[1:] != row[:-1]))
        _check(sound, "objects out of order or double", "falling weight", "use group_facts")

    @property
    def weights(self) -> Int64s:
        """The popularity of every entity, int64 [N]."""
        return np.asarray(self.entities["weight"].to_numpy())

    def columns(self) -> tuple[Int64s, Int64s, Int64s, Int64s]:
        """Returns subject [G], relation [G], the number of objects [G], and all objects [F]."""
        objects = self.facts["objects"].combine_chunks()
        return (
            np.asarray(self.facts["subject"].to_numpy()),
            np.asarray(self.facts["relation"].to_numpy()),
            np.diff(objects.offsets.to_numpy()).astype(np.int64),
            np.asarray(objects.flatten().to_numpy()),
        )

    def relation(self, name: str) -> int:
        """Returns the number of a relation; raises `TaskDataError` where there is none so named."""
        _check(name in self.relations, f"relation {name!r}", f"one of {self.relations}", "choose")
        return self.relations.index(name)

    def objects(self, subject: int, relation: int) -> Int64s:
        """Returns the objects of one fact, int64 by falling weight; empty where it is not known."""
        subjects = self.facts["subject"].to_numpy()
        first, last = np.searchsorted(subjects, [subject, subject + 1])
        own = self.facts["relation"].to_numpy()[first:last]
        row = first + int(np.searchsorted(own, relation))
        if row == last or own[row - first] != relation:
            return np.empty(0, np.int64)
        return np.asarray(self.facts["objects"][int(row)].values.to_numpy())


def group_facts(triples: Triples, weights: Int64s) -> pa.Table:
    """Groups flat facts into rows of (subject, relation, objects), the `facts` of a base.

    triples: F facts in any order, double ones allowed (they are merged).
    weights: int64 [N], the popularity that orders the objects within a row. A fact is sorted as
             one int64, so N² × relations must stay below 2⁶³ (5 M entities, 300,000 relations).
    """
    by_weight = np.lexsort((np.arange(len(weights)), -weights))
    rank = np.empty_like(by_weight)
    rank[by_weight] = np.arange(len(weights))
    names, ranks = int(triples.relations.max(initial=0)) + 1, max(len(weights), 1)
    facts = (triples.subjects * names + triples.relations) * ranks + rank[triples.objects]
    facts.sort()
    facts = facts[np.diff(facts, prepend=-1) > 0]
    rows = facts // ranks
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    offsets = np.append(starts, len(facts)).astype(np.int32)
    lists = pa.ListArray.from_arrays(offsets, by_weight[facts % ranks])
    rows = rows[starts]
    return pa.table([rows // names, rows % names, lists], schema=FACT_SCHEMA)


def with_reversed(
    triples: Triples, relations: tuple[str, ...], reverse: Mapping[str, str]
) -> tuple[Triples, tuple[str, ...]]:
    """Adds to every fact (s, r, o) its reverse (o, reverse[r], s); a new name extends `relations`.

    A symmetric relation is its own reverse. Raises `TaskDataError` where a name is missing.
    """
    numbers = {name: number for number, name in enumerate(relations)}
    forward = np.unique(triples.relations)
    reversed_number = np.full(len(relations), -1, np.int64)
    for relation in forward.tolist():
        name = relations[relation]
        if name not in reverse:
            raise TaskDataError(
                f"no reverse name of {name!r}", "one for each relation used", "add it to `reverse`"
            )
        reversed_number[relation] = numbers.setdefault(reverse[name], len(numbers))
    subjects, used, objects = triples
    both = Triples(
        np.concatenate([subjects, objects]),
        np.concatenate([used, reversed_number[used]]),
        np.concatenate([objects, subjects]),
    )
    return both, tuple(numbers)


def _check(sound: bool | np.bool_, got: str, expected: str, remedy: str) -> None:
    if not sound:
        raise TaskDataError(got, expected, remedy)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
