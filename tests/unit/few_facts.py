"""A few facts in a store, float64, for networks to be held against their equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memstore import EncodingConfig, Memory, MemoryConfig
from memstore.memory import Array
from memstore.torch import RowTable
from models.tasks.memories import Holder

D, WORDS, ENTITIES, RELATIONS = 8, 5, 7, 3
# Subject, relation, objects; read along their objects, 0 leads to 6 in two facts and in three.
FACTS: list[tuple[int, int, list[int]]] = [
    (0, 0, [3]),
    (0, 1, [4, 5]),
    (1, 0, [3, 1]),
    (1, 2, [5]),
    (3, 1, [6, 2]),
    (4, 2, [6]),
    (5, 0, [1, 0]),
    (6, 2, [2, 1, 4]),
]


@dataclass(frozen=True)
class Few:
    """The tables, and the facts encoded from them."""

    words: RowTable
    entities: RowTable
    relations: RowTable
    facts: Memory

    @property
    def tables(self) -> list[RowTable]:
        return [self.words, self.entities, self.relations]

    def dense(self) -> dict[str, Tensor]:
        """The rows as they are, as dense leaves by the name of their memory."""
        return {table.memory.name: dense_rows(table.memory) for table in self.tables}


def dense_rows(memory: Memory) -> Tensor:
    keys = memory.gather(np.arange(memory.describe().next_slot)).keys_BD
    assert keys is not None
    return torch.from_numpy(keys).requires_grad_()


def few(store: Holder, *, index: str = "clustered", seed: int = 0) -> Few:
    """Fills a store with random rows and the facts."""
    rng = np.random.default_rng(seed)

    def table(name: str, rows: int) -> RowTable:
        config = MemoryConfig(dim=D, dtype="float64", index="none", optimizer="sgd")
        memory = store.create(name, config)
        memory.append(rng.standard_normal((rows, D)))
        return RowTable(memory)

    parts = table("words", WORDS), table("entities", ENTITIES), table("relations", RELATIONS)
    config: dict[str, Any] = {"index": index}
    facts = store.create(
        "facts",
        MemoryConfig(
            dim=D,
            dtype="float64",
            records={"subject": "int64", "relation": "int64", "objects": "list<int64>"},
            lookup=("subject",),
            encoding=EncodingConfig(
                key={"subject": "entities", "relation": "relations"}, value={"objects": "entities"}
            ),
            **config,
        ),
    )
    subject, relation, objects = zip(*FACTS, strict=True)
    facts.append(
        records={"subject": list(subject), "relation": list(relation), "objects": list(objects)}
    )
    return Few(*parts, facts)


def dense_facts(dense: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Keys and values of all facts from dense tables."""
    subject, relation, objects = zip(*FACTS, strict=True)
    keys_ND = dense["entities"][list(subject)] + dense["relations"][list(relation)]
    return keys_ND, torch.stack([dense["entities"][held].mean(0) for held in objects])


def waiting(table: RowTable) -> Array:
    """The gradients that wait in a table, added up by slot, `[rows, D]`."""
    sums = np.zeros((table.memory.describe().next_slot, table.memory.config.dim))
    for leaf in table.pending:
        if leaf.keys_BD.grad is not None:
            np.add.at(sums, leaf.slots_B, leaf.keys_BD.grad.numpy())
    return sums
