"""Lays a knowledge base out in a store: words, entities, relations and the facts over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa

from memstore import EncodingConfig, IndexConfig, Memory, MemoryConfig, OptimizerConfig
from memstore.config import Updates
from memstore.memory import Array, Slots
from models.tasks.knowledge import KnowledgeBase
from models.tasks.linking import words
from models.tasks.titles import Titles

BLOCK = 131_072
"""Facts appended at a time."""

Progress = Callable[[str, int, int], None]
"""Told of (what, done, of how many)."""

Apart = Literal["copied", "drawn"]
"""How the rows of `answers`, one an entity, begin: as those of the entities, or by chance."""


class Holder(Protocol):
    """What has the memories: a store, or a client of one that is served."""

    def memory(self, name: str) -> Memory: ...

    def create(self, name: str, config: MemoryConfig) -> Memory: ...


@dataclass(frozen=True)
class KnowledgeMemories:
    """The memories; slot i of `entities`, `relations` and `answers` is number i of the base.

    answers: the entities as answers, where these have rows of their own.
    titles: what people call the entities, where their record `name` is an identifier.
    """

    words: Memory
    entities: Memory
    relations: Memory
    facts: Memory
    answers: Memory | None = None
    titles: Titles | None = None

    @classmethod
    def of(
        cls, store: Holder, *, apart: bool = False, titles: Titles | None = None
    ) -> KnowledgeMemories:
        """The memories that `build` filled.  apart: `answers` is one of them."""
        return cls(
            store.memory("words"),
            store.memory("entities"),
            store.memory("relations"),
            store.memory("facts"),
            store.memory("answers") if apart else None,
            titles,
        )

    def named(self, slots_B: Slots) -> list[str]:
        """What people call entities."""
        records = self.entities.gather(slots_B, vectors=False, columns=["name"]).records
        assert records is not None
        names: list[str] = records["name"].to_pylist()
        return names if self.titles is None else self.titles.of(slots_B, names)


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
    apart: Apart | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> KnowledgeMemories:
    """Creates and fills the memories; see `tables`."""
    tables(
        store,
        base,
        vocabulary,
        base.relations,
        dim=dim,
        shards=shards,
        optimizer=optimizer,
        initial=initial,
        updates=updates,
        apart=apart,
        seed=seed,
    )
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
    return KnowledgeMemories.of(store, apart=apart is not None)


def tables(
    store: Holder,
    base: KnowledgeBase,
    vocabulary: Iterable[str],
    relations: Sequence[str],
    *,
    dim: int,
    shards: int = 1,
    optimizer: OptimizerConfig = OptimizerConfig(),
    initial: Initial = Initial(),
    updates: Updates = "checkpointed",
    apart: Apart | None = None,
    seed: int = 0,
) -> None:
    """Creates and fills the memories whose rows learn.

    relations: what its rows stand for.  updates: of a `MemoryConfig`.  apart: None makes no
    `answers`.
    """
    rng = np.random.default_rng(seed)

    split = dim - round(dim * initial.relation_share)
    subject, about = slice(None, split), slice(split, None)

    def drawn(rows: int, norm: float, space: slice, gathered: float = 0.0) -> Array:
        rows_BD = np.zeros((rows, dim), np.float32)
        width = rows_BD[:, space].shape[1]
        rows_BD[:, space] = norm * _directions(rng, rows, width, gathered)
        return rows_BD

    def table(name: str, rows_BD: Array, records: pa.Table) -> None:
        config = MemoryConfig(
            dim=dim,
            index="none",
            optimizer=optimizer,
            shards=shards,
            updates=updates,
            records={field.name: kind_of(field) for field in records.schema},
            lookup=tuple({"word", "words"} & set(records.column_names)),
        )
        store.create(name, config).append(rows_BD, None, records)

    known = pa.table({"word": sorted(set(vocabulary))})
    table("words", drawn(len(known), initial.word, about), known)
    in_names = pa.array([words(name) for name in base.entities["name"].to_pylist()])
    entities = base.entities.append_column("words", in_names.cast(pa.list_(pa.string())))
    own_BD = drawn(len(entities), initial.entity, subject, initial.gathered)
    table("entities", own_BD, entities)
    named = pa.table({"name": pa.array(relations)})
    table("relations", drawn(len(named), initial.relation, about), named)
    if apart == "drawn":
        own_BD = drawn(len(entities), initial.entity, subject, initial.gathered)
    if apart is not None:
        table("answers", own_BD, entities.select(["name"]))


def kind_of(field: pa.Field) -> str:
    """The type of a column, as a `MemoryConfig` names it."""
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
