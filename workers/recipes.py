"""Recipes: what a run is, as a function that returns its whole configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run: the memory it builds, the network, how it is trained and tested.

    places: keep the base to the most populous so many; None takes all.
    k: facts that inner product search proposes; probe: lists it visits.
    key_limit: facts that key hashing proposes at most for an entity.
    list_limit: objects of a fact that its value is the mean of, and that may be answers.
    hashed_steps: steps on facts proposed by key hashing, first. searched_steps: then so many, of
        which every third is still hashed, the rest on facts proposed by search in the whole
        memory; its index is refreshed every refresh_steps.
    row_lr, entity_lr: of the rows of words and relations, and of entities; entities learn slowly,
        so that those never asked about in training stay comparable. Both fall to 0 by the last
        step. dense_lr: of Adam, for R_j.
    """

    task: str = "geography"
    seed: int = 0
    places: int | None = None
    dim: int = 64
    shards: int = 1
    hops: int = 2
    k: int = 64
    probe: int = 16
    key_limit: int = 32
    list_limit: int = 4
    batch: int = 256
    negatives: int = 48
    hashed_steps: int = 300
    searched_steps: int = 300
    refresh_steps: int = 300
    row_lr: float = 0.1
    entity_lr: float = 0.02
    dense_lr: float = 1e-3
    questions: int = 40_000
    test_questions: int = 4_000

    @property
    def steps(self) -> int:
        return self.hashed_steps + self.searched_steps

    def searched(self, step: int) -> bool:
        """Whether a step reads what search proposes."""
        return step >= self.hashed_steps and step % 3 != 0

    def refreshed(self, step: int) -> bool:
        """Whether the facts are encoded anew before a step."""
        after = step - self.hashed_steps
        return self.searched_steps > 0 and after >= 0 and after % self.refresh_steps == 0


def geography(*, quick: bool = False) -> Recipe:
    """GeoNames: 2.1 million facts about 235,000 places; quick: 3,000 places, under a minute."""
    if not quick:
        return Recipe()
    return Recipe(
        places=3_000,
        hashed_steps=150,
        searched_steps=150,
        refresh_steps=75,
        batch=128,
        questions=8_000,
        test_questions=1_000,
    )
