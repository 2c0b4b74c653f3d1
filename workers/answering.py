"""Answering: what a network over a knowledge base is asked to do, and what it says.

Letters: Q questions, H readings, K facts, C candidate answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from memstore.memory import Array, Slots
from models.asked import Asked


@dataclass(frozen=True)
class Answers:
    """What a network says to Q questions.

    answers_QC: entity slots, `NO_SLOT` padded. scores_QC: −inf at `NO_SLOT`. slots_QK: the facts
    that a reading could read, `NO_SLOT` padded. weights_HQK: what each reading gave them, 0 at
    `NO_SLOT`, and of facts that it could not read. scored: cells scored for all questions together.
    """

    answers_QC: Slots
    scores_QC: Array
    slots_QK: Slots
    weights_HQK: Array
    scored: int


@dataclass(frozen=True)
class Lesson:
    """The questions of a step.

    asked: this trainer's, as the network takes them. own: which of the batch these are. right_QA:
    right answers, and relations_QP: the relations that lead to them in their order, both of the
    whole batch, `NO_SLOT` padded. rng: for what is drawn, for all of the batch.
    """

    asked: Asked
    own: slice
    right_QA: Slots
    relations_QP: Slots
    rng: np.random.Generator


class Answering(Protocol):
    """A network that answers questions about a knowledge base."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def dense(self) -> torch.optim.Optimizer | None: ...

    def propose(self, asked: Asked) -> Asked:
        """The questions with the facts that a search of the whole memory proposes for them."""
        ...

    def loss(self, parallel: nn.Module, lesson: Lesson) -> tuple[Tensor, float]:
        """The loss, and hits@1 among what was sampled.  parallel: stands for `module`."""
        ...

    def answer(self, asked: Asked) -> Answers: ...
