"""KnowledgeRecipe: what a run over a knowledge base may be told, whatever its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memstore import MemoryConfig
from models.tasks.memories import Apart
from workers.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class KnowledgeRecipe(Recipe):
    """A run over a knowledge base.

    dim: numbers a row.  shards: of each memory.  updates: `logged` makes what steps change in rows
        as durable as all else, so that a shard that dies loses none; else `checkpointed`.
    places: keep the base to the most popular so many entities; None takes all.
    k: facts that inner product search proposes; probe: lists it visits.
    spare: facts proposed beside the k, of which those best by what was learnt by now are read; a
        network that never searches has none.
    key_limit: facts that key hashing proposes at most for an entity.
    list_limit: objects of a fact that its value is the mean of, and that may be answers.
    negatives: answers sampled beside a right one, in a step.
    hashed_steps: of the steps, the first so many read facts proposed by key hashing. Of those
        after them every third still does, the others read facts proposed by search in the whole
        memory; its index is refreshed every refresh_steps.
    row_lr, entity_lr: of the rows of words and relations, and of entities; entities learn slowly,
        so that those never asked about in training stay comparable. Both fall to 0 by the last
        step.
    questions, test_questions: drawn to learn from, and to test on.
    source: of a task whose facts are files, the folder of these. None makes so many facts, like
        those of FB2M or FB5M; all of them where `facts` is None.
    """

    places: int | None = None
    dim: int = 64
    shards: int = 1
    updates: str = "checkpointed"
    k: int = 64
    probe: int = 16
    spare: int = 0
    key_limit: int = 32
    list_limit: int = 4
    negatives: int = 48
    hashed_steps: int = 300
    refresh_steps: int = 300
    row_lr: float = 0.1
    entity_lr: float = 0.02
    questions: int = 40_000
    test_questions: int = 4_000
    source: str | None = None
    facts: int | None = None
    like: str = "FB5M"

    LEAST: ClassVar = {**Recipe.LEAST, "spare": 0, "hashed_steps": 0, "row_lr": 0, "entity_lr": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        MemoryConfig(dim=self.dim, shards=self.shards, updates=self.updates)  # type: ignore[arg-type]

    @property
    def reach(self) -> int:
        """Facts away that key hashing proposes."""
        return 1

    @property
    def answers(self) -> Apart | None:
        """How the rows of answers begin, where these are not those of the entities."""
        return None

    @property
    def right_limit(self) -> int:
        """Right answers of a question that training knows, the first so many."""
        return self.list_limit

    def searched(self, step: int) -> bool:
        """Whether a step reads what search proposes."""
        return step >= self.hashed_steps and step % 3 != 0

    def refreshed(self, step: int) -> bool:
        """Whether the facts are encoded anew before a step."""
        after = step - self.hashed_steps
        return after >= 0 and after % self.refresh_steps == 0
