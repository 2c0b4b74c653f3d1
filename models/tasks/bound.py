"""Made-up facts, and episodes that give their subjects names: what a name stands for holds in one
episode, what is true of its subject in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memstore.memory import Array
from models.tasks.sequences import Bits, Episodes, asked_last, cued, distinct

NORM = 4.0
"""Of the key of a fact before training."""


@dataclass(frozen=True)
class Naming(Episodes):
    """facts_TB: int64, the slot of the fact that an answer is in; −1 where none is asked for."""

    facts_TB: Tensor

    def share(self, own: slice) -> Naming:
        part = super().share(own)
        return Naming(part.inputs_TBX, part.targets_TB, part.asked_TB, self.facts_TB[:, own])


class Bound(Bits):
    """Subjects of facts get names for an episode: the name alone is answered by its fact.

    facts: F, in slots 0 to F − 1.  name_bits, subject_bits, value_bits: of a name, of a subject,
    and of what its fact says.  cues: names asked for in an episode.  The facts are the same for
    all seeds of training.
    """

    source = "made-up facts about subjects that an episode names"

    def __init__(
        self,
        facts: int = 10_000,
        name_bits: int = 16,
        subject_bits: int = 24,
        value_bits: int = 8,
        cues: int = 4,
    ) -> None:
        rng = np.random.default_rng(facts)
        self.name_bits, self.cues = name_bits, cues
        self.subjects_FX = distinct(rng, facts, 1, subject_bits)[:, 0]
        self.values_FV = rng.integers(0, 2, (facts, value_bits))
        self.inputs, self.outputs = name_bits + subject_bits + 1, value_bits

    @property
    def rows(self) -> tuple[Array, Array]:
        """Keys and values of the facts, float32, before training: all bits as −1 and 1."""
        keys_FX, values_FV = (
            (2 * bits - 1).astype(np.float32) for bits in (self.subjects_FX, self.values_FV)
        )
        return keys_FX * np.float32(NORM / np.sqrt(keys_FX.shape[1])), values_FV

    def draw(self, rng: np.random.Generator, batch: int, length: int) -> Naming:
        names_LBX = distinct(rng, length, batch, self.name_bits)
        facts_LB = rng.integers(0, len(self.values_FV), (length, batch))
        inputs_TBX, cued_AB = cued(rng, names_LBX, self.subjects_FX[facts_LB], self.cues)
        facts_AB = np.take_along_axis(facts_LB, cued_AB, axis=0)
        plain = asked_last(inputs_TBX, self.values_FV[facts_AB])
        facts_TB = np.full(inputs_TBX.shape[:2], -1)
        facts_TB[len(names_LBX) :] = facts_AB
        return Naming(
            plain.inputs_TBX, plain.targets_TB, plain.asked_TB, torch.from_numpy(facts_TB)
        )
