"""A block: some facts as three columns of texts, and the broken lines beside them.

Every way of reading ends here, so what makes a line broken is said once: a field that is missing,
empty or no UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SAMPLE = 100
"""Broken lines of a block that are kept to be looked at; all are counted."""

LONGEST = 500
"""Characters kept of a broken line."""

FIELDS = ("subject", "relation", "object")


@dataclass(frozen=True)
class Reject:
    """One broken line.  line: from 1, within what was read together."""

    line: int
    why: str
    text: str


@dataclass
class Rejects:
    """Counts broken lines, and keeps the first of them."""

    count: int = 0
    sample: list[Reject] = field(default_factory=list)

    def add(self, line: int, why: str, text: str) -> None:
        self.count += 1
        if len(self.sample) < SAMPLE:
            self.sample.append(Reject(line, why, text[:LONGEST]))


@dataclass(frozen=True)
class Block:
    """Facts: texts of subjects and relations, a row each, and of objects, one or more a row.

    owner: of each object its row; None where row i has object i.  lines: read, broken ones too.
    left_out: facts of relations that are not wanted.
    """

    subjects: pa.Array
    relations: pa.Array
    objects: pa.Array
    owner: np.ndarray | None
    lines: int
    rejects: Rejects
    left_out: int = 0


LineOf = Callable[[int], int]
"""The line, from 1, that a row came from."""


def block(
    columns: Sequence[pa.Array], lines: int, rejects: Rejects, line_of: LineOf, separator: str
) -> Block:
    """Makes a block of what was read, without the rows that are broken, which are counted.

    columns: subject, relation, object: binary, texts, or what Arrow makes texts of; the objects may
    be lists.  separator: between the objects of a field; empty where a field has one.
    """
    table = pa.table([_plain(column) for column in columns], names=list(FIELDS))
    broken = np.zeros(len(table), np.uint8)
    texts = []
    for number, column in enumerate(table.columns, 1):
        text, bad = _texts(column.combine_chunks())
        broken[bad & (broken == 0)] = number
        texts.append(text)
    subjects, relations, objects = texts
    for row in np.flatnonzero(broken).tolist():
        name = FIELDS[broken[row] - 1]
        shown = "\t".join(_shown(column[row]) for column in table.columns)
        rejects.add(line_of(row), f"the {name} is missing, empty or not UTF-8", shown)
    if broken.any():
        whole = pa.array(broken == 0)
        subjects, relations, objects = (each.filter(whole) for each in texts)
    owner = None
    if separator and not pa.types.is_list(objects.type):
        objects = pc.split_pattern(objects, separator)
    if pa.types.is_list(objects.type):
        parents, objects = pc.list_parent_indices(objects), pc.list_flatten(objects)
        there = pc.fill_null(pc.greater(pc.binary_length(objects), 0), False)
        owner, objects = parents.filter(there).to_numpy(), objects.filter(there)
    return Block(subjects, relations, objects, owner, lines, rejects)


def only(found: Block, prefixes: tuple[str, ...]) -> Block:
    """Leaves out the facts whose relation begins with none of the prefixes."""
    coded = found.relations.dictionary_encode()
    wanted = np.array([name.startswith(prefixes) for name in coded.dictionary.to_pylist()], bool)
    kept = wanted[coded.indices.to_numpy()]
    of_object = kept if found.owner is None else kept[found.owner]
    left_out = found.left_out + int(np.count_nonzero(~of_object))
    return replace(chosen(found, of_object), left_out=left_out)


def chosen(found: Block, kept: np.ndarray) -> Block:
    """The facts of some objects.  kept: of each object, whether it is one of them."""
    owner = None if found.owner is None else found.owner[kept]
    is_row = kept if owner is None else np.bincount(owner, minlength=len(found.subjects)) > 0
    rows = pa.array(is_row)
    return replace(
        found,
        subjects=found.subjects.filter(rows),
        relations=found.relations.filter(rows),
        objects=found.objects.filter(pa.array(kept)),
        owner=None if owner is None else (np.cumsum(is_row) - 1)[owner],
    )


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return column.cast(pa.list_(pa.string()))
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return column.cast(pa.binary() if binary else pa.string())


def _texts(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The column as texts, and which rows have none."""
    if pa.types.is_list(column.type):
        lengths = pc.list_value_length(column)
        empty = pc.fill_null(pc.equal(lengths, 0), True)
        return column, np.asarray(empty.to_numpy(zero_copy_only=False))
    foreign = np.zeros(len(column), bool)
    if pa.types.is_binary(column.type):
        foreign = _foreign(column)
        if foreign.any():
            column = pc.if_else(pa.array(foreign), pa.scalar(None, column.type), column)
        column = column.cast(pa.string())
    empty = pc.fill_null(pc.equal(pc.binary_length(column), 0), True)
    return column, np.asarray(empty.to_numpy(zero_copy_only=False))


def _foreign(column: pa.Array) -> np.ndarray:
    """Which rows are no UTF-8: by halving, since Arrow says but whether all are."""
    try:
        column.cast(pa.string())
        return np.zeros(len(column), bool)
    except pa.ArrowInvalid:
        if len(column) == 1:
            return np.ones(1, bool)
        half = len(column) // 2
        return np.concatenate([_foreign(column[:half]), _foreign(column[half:])])


def _shown(value: pa.Scalar) -> str:
    plain = value.as_py()
    return plain.decode("utf-8", "backslashreplace") if isinstance(plain, bytes) else str(plain)
