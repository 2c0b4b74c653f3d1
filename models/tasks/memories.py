"""Lays a knowledge base out in a store: words, entities, relations and the facts over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from memstore import EncodingConfig, IndexConfig, Memory, MemoryConfig, OptimizerConfig
from memstore.config import Updates
from memstore.memory import Array
from models.tasks.knowledge import KnowledgeBase
from models.tasks.linking import words

BLOCK = 131_072
"""Facts appended at a time."""

Progress = Callable[[str, int, int], None]
"""Told of (what, done, of how many)."""


class Holder(Protocol):
    """What has the memories: a store, or a client of one that is served."""

    def memory(self, name: str) -> Memory: ...

    def create(self, name: str, config: MemoryConfig) -> Memory: ...


@dataclass(frozen=True)
class KnowledgeMemories:
    """The four memories; slot i of `entities` and `relations` is number i of the base."""

    words: Memory
    entities: Memory
    relations: Memory
    facts: Memory

    @classmethod
    def of(cls, store: Holder) -> KnowledgeMemories:
        """The memories that `build` filled."""
        return cls(*(store.memory(n) for n in ("words", "entities", "relations", "facts")))


@dataclass(frozen=True)
class Initial:
    """Rows before training: random directions, norms as here.

    Entities begin in the first dimensions, words and relations in the last `relation_share` of
    them: what a question says of the relation then adds nothing to the score of a wrong subject,
    and an entity never trained on is found as surely as one that was. All rows may learn to use
    all dimensions. Random rows of norm n in D dimensions have inner products of standard
    deviation n²/√D, so entities are long enough to stand out among 10^5 others.

    Independent directions are the worst that an inverted list can meet: nothing is near anything.
    So entities are drawn around 2·√N common directions, with cosine `gathered` to their own;
    which of them is left to chance.
    """

    entity: float = 8.0
    relation: float = 1.5
    word: float = 0.1
    relation_share: float = 0.25
    gathered: float = 0.6


def build(
    store: Holder,
    base: KnowledgeBase,
    vocabulary: Iterable[str],
    *,
    dim: int,
    shards: int = 1,
    index: IndexConfig = IndexConfig(maintenance="inline"),
    optimizer: OptimizerConfig = OptimizerConfig(),
    initial: Initial = Initial(),
    updates: Updates = "checkpointed",
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> KnowledgeMemories:
    """Creates and fills the four memories.

    updates: of a `MemoryConfig`, for those whose rows learn.
    """
    rng = np.random.default_rng(seed)

    split = dim - round(dim * initial.relation_share)
    subject, about = slice(None, split), slice(split, None)

    def table(
        name: str, norm: float, space: slice, records: pa.Table, gathered: float = 0.0
    ) -> None:
        config = MemoryConfig(
            dim=dim,
            index="none",
            optimizer=optimizer,
            shards=shards,
            updates=updates,
            records={field.name: _kind(field) for field in records.schema},
            lookup=tuple({"word", "words"} & set(records.column_names)),
        )
        rows = np.zeros((len(records), dim), np.float32)
        width = rows[:, space].shape[1]
        rows[:, space] = norm * _directions(rng, len(rows), width, gathered)
        store.create(name, config).append(rows, None, records)

    table("words", initial.word, about, pa.table({"word": sorted(set(vocabulary))}))
    in_names = pa.array([words(name) for name in base.entities["name"].to_pylist()])
    entities = base.entities.append_column("words", in_names.cast(pa.list_(pa.string())))
    table("entities", initial.entity, subject, entities, initial.gathered)
    table("relations", initial.relation, about, pa.table({"name": pa.array(base.relations)}))
    facts = store.create(
        "facts",
        MemoryConfig(
            dim=dim,
            index=index,
            shards=shards,
            records={"subject": "int64", "relation": "int64", "objects": "list<int64>"},
            lookup=("subject",),
            encoding=EncodingConfig(
                key={"subject": "entities", "relation": "relations"}, value={"objects": "entities"}
            ),
        ),
    )
    total = base.facts.num_rows
    for start in range(0, total, BLOCK):
        facts.append(records=base.facts.slice(start, BLOCK))
        progress("facts", min(start + BLOCK, total), total)
    return KnowledgeMemories.of(store)


def _kind(field: pa.Field) -> str:
    listed = pa.types.is_list(field.type)
    return f"list<{field.type.value_type}>" if listed else str(field.type)


def _directions(rng: np.random.Generator, rows: int, dim: int, gathered: float) -> Array:
    """Random unit rows: of equal length, so that none wins an inner product by its length."""
    own_BD = unit(rng.standard_normal((rows, dim), np.float32))
    return around(rng, own_BD, commons(rng, rows, dim), gathered) if gathered else own_BD


def commons(rng: np.random.Generator, rows: int, dim: int) -> Array:
    """Draws the directions around which so many rows are, [C, D]."""
    return unit(rng.standard_normal((max(1, round(2 * rows**0.5)), dim), np.float32))


def around(rng: np.random.Generator, own_BD: Array, common_CD: Array, gathered: float) -> Array:
    """Turns unit rows towards common directions, each to one by chance, with cosine `gathered`."""
    common_BD = common_CD[rng.integers(0, len(common_CD), len(own_BD))]
    return unit(gathered * common_BD + (1 - gathered**2) ** 0.5 * own_BD)


def unit(rows_BD: Array) -> Array:
    """Scales rows to length 1."""
    return np.asarray(rows_BD / np.linalg.norm(rows_BD, axis=1, keepdims=True), np.float32)
