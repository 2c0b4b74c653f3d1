"""What several trainers learn of in the tests: few of the made-up places, in few steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from memstore import IndexConfig
from memstore.memory import Array, Slots
from memstore.torch import RowTable, SparseReader
from models.kv_memnn import KVMemNN
from models.tasks import answers, memories
from models.tasks.asking import QuestionReader, Questions
from models.tasks.geography_questions import questions, vocabulary
from models.tasks.linking import AliasIndex
from tests.training import small
from workers.group import Group
from workers.loop import Trainer
from workers.recipes import Recipe

RECIPE = replace(
    small.recipe(),
    places=150,
    shards=3,
    k=8,
    probe=1,
    hashed_steps=6,
    searched_steps=6,
    refresh_steps=3,
)


def build(holder: memories.Holder, recipe: Recipe = RECIPE) -> None:
    """Fills the memories of a store, or of one that is served."""
    memories.build(
        holder,
        small.base(recipe.places),
        vocabulary(),
        dim=recipe.dim,
        shards=recipe.shards,
        index=IndexConfig(probe=recipe.probe, maintenance="inline"),
        seed=recipe.seed,
    )


@dataclass(frozen=True)
class Training:
    """A trainer, and what it learns from."""

    trainer: Trainer
    questions: Questions
    right_QA: Slots


def training(holder: memories.Holder, recipe: Recipe = RECIPE, group: Group = Group()) -> Training:
    """A trainer on the memories of a holder."""
    known = small.base(recipe.places)
    found = memories.KnowledgeMemories.of(holder)
    reader = QuestionReader(found, AliasIndex.build(known.aliases, known.weights))
    texts = questions(known, split="train", count=recipe.questions, seed=1)
    read = reader.read([question.text for question in texts])
    right = [question.answers for question in texts]
    right_QA = answers.ragged(np.concatenate(right), np.array([len(r) for r in right]))
    tables = [RowTable(found.entities), RowTable(found.relations)]
    facts = SparseReader(found.facts, k=recipe.k, parts=tables, list_limit=recipe.list_limit)
    network = KVMemNN(RowTable(found.words), tables[0], facts, hops=recipe.hops)
    return Training(Trainer(network, reader, recipe, group), read, right_QA)


def sent(rank: int, step: int) -> tuple[Slots, Array]:
    """Slots, some of them twice, and whole numbers that their rows are weighed by."""
    rng = np.random.default_rng((rank, step))
    return rng.integers(0, 40, 30), rng.integers(-4, 5, 30).astype(np.float32)
