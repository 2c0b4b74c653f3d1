"""What several trainers learn of in the tests: few of the made-up places, in few steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from memstore import IndexConfig
from memstore.memory import Array, Slots
from models.tasks import answers, memories
from models.tasks.asking import QuestionReader
from models.tasks.geography_questions import questions, vocabulary
from models.tasks.linking import AliasIndex
from tests.training import small
from workers.group import Group
from workers.loop import Trainer
from workers.networks.knowledge import Knowledge, KnowledgeLearner, Taught
from workers.networks.kv import KVAnswering, KVRecipe

RECIPE = replace(
    small.recipe(),
    places=150,
    shards=3,
    k=8,
    probe=1,
    steps=12,
    hashed_steps=6,
    refresh_steps=3,
)


def build(holder: memories.Holder, recipe: KVRecipe = RECIPE) -> None:
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
    data: Taught


def training(
    holder: memories.Holder, recipe: KVRecipe = RECIPE, group: Group = Group()
) -> Training:
    """A trainer on the memories of a holder."""
    base = small.base(recipe.places)
    found = memories.KnowledgeMemories.of(holder)
    reader = QuestionReader(found, AliasIndex.build(base.aliases, base.weights))
    learner = KnowledgeLearner(Knowledge.over(recipe, reader, group), KVAnswering)
    texts = questions(base, split="train", count=recipe.questions, seed=1)
    taught = Taught(
        reader.read([question.text for question in texts]),
        answers.lists([question.answers for question in texts]),
        answers.lists([np.array(question.relations) for question in texts]),
    )
    return Training(Trainer(learner, recipe, group), taught)


def sent(rank: int, step: int) -> tuple[Slots, Array]:
    """Slots, some of them twice, and whole numbers that their rows are weighed by."""
    rng = np.random.default_rng((rank, step))
    return rng.integers(0, 40, 30), rng.integers(-4, 5, 30).astype(np.float32)
