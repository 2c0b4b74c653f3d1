"""Questions about a knowledge base, and who is held out of training. N entities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.tasks.knowledge import Int64s

Split = Literal["train", "test", "seen_wording", "seen_entity"]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Asks for what is reached from an entity along relations, one or several.

    subject: the entity. relations: their numbers, in the order in which they are followed. answers:
    int64, by falling weight. surface: how `text` names the subject: its name, or another of them.
    """

    text: str
    subject: int
    relations: tuple[int, ...]
    answers: Int64s
    surface: str

    @property
    def relation(self) -> int:
        """The first relation, which is that of a fact of the subject."""
        return self.relations[0]


def held_out(entities: int, *, seed: int = 0, share: float = 0.1) -> NDArray[np.bool_]:
    """Says of every entity whether it is held out for testing, bool [N]: a hash of its number.

    The hash does not depend on the number of entities, so a limited base and the full one hold out
    the same.
    """
    return held_out_of(np.arange(entities), seed=seed, share=share)


def held_out_of(numbers: Int64s, *, seed: int = 0, share: float = 0.1) -> NDArray[np.bool_]:
    """Says of some entities, by their numbers, whether they are held out, as `held_out` does."""
    return mixed(numbers, seed) < np.uint64(int(share * 2**63) * 2)


def mixed(numbers: Int64s, seed: int) -> NDArray[np.uint64]:
    """Hashes numbers ≥ 0 (splitmix64): the same for the same number and seed."""
    hashed = np.asarray(numbers).astype(np.uint64) + np.uint64(1)
    hashed = (hashed + (np.uint64(seed) << np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashed ^ (hashed >> np.uint64(31))
