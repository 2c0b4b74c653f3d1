"""Writes a knowledge base, and questions about it, in the formats of `models.tasks.published`.

Entity number N is www.freebase.com/e/N, and a relation www.freebase.com/r/ and its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.tasks.knowledge import Int64s, KnowledgeBase
from models.tasks.published import FACTS, NAMES, SITE
from models.tasks.questions import Question
from models.tasks.synthetic_texts import joined, lines

BLOCK = 65_536
"""Rows at a time."""


def write_base(base: KnowledgeBase, folder: Path) -> None:
    """Writes the facts of a base, and the names of its entities."""
    relations = _relations(base)
    with (folder / FACTS).open("wb") as file:
        for first in range(0, len(base.facts), BLOCK):
            rows = base.facts.slice(first, BLOCK).combine_chunks()
            lists = rows["objects"].combine_chunks()
            objects = pa.LargeListArray.from_arrays(
                lists.offsets.cast(pa.int64()), _entities(lists.values.to_numpy())
            )
            named = relations.take(rows["relation"].combine_chunks())
            listed = pc.binary_join(objects, pa.scalar(" ", pa.large_string()))
            file.write(lines(_entities(rows["subject"].to_numpy()), named, listed))
    own = base.entities["name"].combine_chunks()
    with (folder / NAMES).open("wb") as file:
        for first in range(0, len(base.aliases), BLOCK):
            rows = base.aliases.slice(first, BLOCK).combine_chunks()
            alias, entity = rows["alias"].combine_chunks(), rows["entity"].combine_chunks()
            called = pc.if_else(
                pc.equal(alias, own.take(entity)),
                "<fb:type.object.name>",
                "<fb:common.topic.alias>",
            ).cast(pa.large_string())
            text = pc.replace_substring(alias.cast(pa.large_string()), '"', '\\"')
            numbers = _numbers(entity.to_numpy())
            marked = joined("<fb:e.", numbers, ">", between="")
            file.write(lines(marked, called, joined('"', text, '"', between="")))


def write_questions(base: KnowledgeBase, path: Path, asked: Sequence[Question]) -> None:
    """Writes questions, each with the first of its answers."""
    relation_Q = pa.array([question.relations[0] for question in asked], pa.int64())
    subject_Q, object_Q = (
        np.array(column, np.int64)
        for column in (
            [question.subject for question in asked],
            [question.answers[0] for question in asked],
        )
    )
    texts = pa.array([" ".join(question.text.split()) for question in asked], pa.large_string())
    named = _relations(base).take(relation_Q)
    path.write_bytes(lines(_entities(subject_Q), named, _entities(object_Q), texts))


def _relations(base: KnowledgeBase) -> pa.Array:
    names = [f"{SITE}r/{name.replace(' ', '_')}" for name in base.relations]
    return pa.array(names, pa.large_string())


def _entities(entity_B: Int64s) -> pa.Array:
    return joined(f"{SITE}e/", _numbers(entity_B), between="")


def _numbers(entity_B: Int64s) -> pa.Array:
    return pa.array(entity_B).cast(pa.large_string())
