"""Writes a knowledge base as a table of facts by names, as `memtrain ingest` reads it.

An entity is named as in the base; where several share a name, each has its number behind it, in
brackets: `Drosophila (32351)`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.tasks.knowledge import KnowledgeBase

BLOCK = 65_536
"""Rows of a batch."""

SCHEMA = pa.schema(
    [("subject", pa.string()), ("relation", pa.string()), ("objects", pa.list_(pa.string()))]
)


def names_apart(base: KnowledgeBase) -> pa.Array:
    """A name for each entity, no two alike."""
    names = base.entities["name"].combine_chunks()
    numbered = pc.binary_join_element_wise(
        names, pa.array(np.arange(len(names))).cast(pa.string()), " ("
    )
    numbered = pc.binary_join_element_wise(numbered, "", ")")
    while True:
        shared = _shared(names)
        if not shared.any():
            return names
        # Once more where a name is what another one became.
        names = pc.if_else(pa.array(shared), numbered, names)
        numbered = pc.binary_join_element_wise(numbered, "", "'")


def write_named(base: KnowledgeBase, path: Path) -> None:
    """Writes the facts into an Arrow file, a row for each subject and relation."""
    names, relations = names_apart(base), pa.array(base.relations)
    with pa.ipc.new_file(str(path), SCHEMA) as writer:
        for first in range(0, len(base.facts), BLOCK):
            rows = base.facts.slice(first, BLOCK).combine_chunks()
            lists = rows["objects"].combine_chunks()
            objects = pa.ListArray.from_arrays(
                (lists.offsets.to_numpy() - lists.offsets[0].as_py()).astype(np.int32),
                names.take(lists.flatten()),
            )
            columns = [names.take(rows["subject"]), relations.take(rows["relation"]), objects]
            columns = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in columns]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))


def _shared(names: pa.Array) -> np.ndarray:
    coded = names.dictionary_encode()
    codes = coded.indices.to_numpy()
    return np.asarray(np.bincount(codes, minlength=len(coded.dictionary))[codes] > 1)
