"""A task of a few made-up places, asked about as those of geography: learnt in seconds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.tasks.geography_questions import WORDINGS, questions, vocabulary
from models.tasks.knowledge import (
    ALIAS_SCHEMA,
    ENTITY_SCHEMA,
    KnowledgeBase,
    Triples,
    group_facts,
)
from workers.networks.kv import KVRecipe
from workers.tasks import Task

HOLDERS = {"country": 15, "timezone": 8, "currency": 9}
PLACES = 2_200
"""So many that a shard of their facts is searched by its lists, not row by row."""


def recipe() -> KVRecipe:
    return KVRecipe(
        task="tests.training.small:task",
        dim=16,
        shards=2,
        k=16,
        probe=2,
        batch=16,
        negatives=8,
        steps=50,
        hashed_steps=20,
        refresh_steps=8,
        questions=600,
        test_questions=60,
    )


def task() -> Task:
    return Task(
        source="made-up places", base=base, questions=questions, vocabulary=lambda: vocabulary()
    )


def base(limit: int | None = None) -> KnowledgeBase:
    """Places, each in a country and a zone, with a currency, as chance has it."""
    rng = np.random.default_rng(5)
    places = PLACES if limit is None else limit
    kinds = ["place"] * places
    columns: list[tuple[np.ndarray, int, np.ndarray]] = []
    for relation, count in HOLDERS.items():
        objects = len(kinds) + rng.integers(0, count, places)
        columns.append((np.arange(places), tuple(WORDINGS).index(relation), objects))
        kinds += [relation] * count
    names = [f"{kind.capitalize()}ia {chr(65 + i % 26)}{i}" for i, kind in enumerate(kinds)]
    weights = rng.permutation(len(kinds)) + 1
    triples = Triples(
        np.concatenate([subjects for subjects, _, _ in columns]),
        np.repeat([relation for _, relation, _ in columns], places),
        np.concatenate([objects for _, _, objects in columns]),
    )
    return KnowledgeBase(
        pa.table([names, kinds, weights], schema=ENTITY_SCHEMA),
        tuple(WORDINGS),
        group_facts(triples, weights),
        pa.table([names, np.arange(len(names))], schema=ALIAS_SCHEMA),
    )
