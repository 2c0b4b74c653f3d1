"""What a network is to the training loop, to a run and to the command line.

    Network     by name in `workers.networks`: its settings, its recipes, how it is built and opened
    Learner     a network that is open: draws a step's batch, gives its loss, is tested

All else (steps, checkpoints, run folder, metrics, groups of trainers) is written once, for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from memstore.torch import RowTable
from models.tasks.memories import Progress
from workers.checkpoints import Holder
from workers.figures import Evaluation, Published
from workers.group import Group
from workers.recipe import Recipe


@dataclass(frozen=True)
class Drawn:
    """A step before it is taken.

    kind: of steps that are as hard as each other: each has a curve of its own.  level: of the
    curriculum.  rng: for what is drawn later in the step.  batch: this trainer's share, as the
    learner takes it.
    """

    number: int
    kind: str
    rng: np.random.Generator
    batch: Any
    level: int = 0


@dataclass(frozen=True)
class Step:
    """What one step did: loss, share of right answers, seconds without what was prepared."""

    number: int
    kind: str
    loss: float
    hits: float
    seconds: float
    level: int = 0


class Learner(Protocol):
    """A network that is open. What a step draws depends on the recipe's seed and its number alone,
    and on what `position` keeps.
    """

    @property
    def module(self) -> nn.Module:
        """The network; its parameters are the dense weights. `train` is called before each step;
        `evaluate` calls `eval`."""
        ...

    @property
    def dense(self) -> torch.optim.Optimizer | None:
        """Steps the dense weights; None where there are none."""
        ...

    @property
    def tables(self) -> Sequence[tuple[Sequence[RowTable], float]]:
        """The rows of memories that are learnt, with their learning rates, which fall to 0."""
        ...

    def describe(self) -> str:
        """One line for people: what it reads from."""
        ...

    def data(self, base: Any) -> Any:
        """What steps are drawn from.  base: what `Network.read` gave."""
        ...

    def prepare(self, step: int) -> None:
        """Does what is due before a step and is no part of it, for all trainers once."""
        ...

    def draw(self, data: Any, step: int) -> Drawn: ...

    def propose(self, drawn: Drawn) -> Drawn:
        """Has a step drawn propose rows by the memory as it is, before it is taken."""
        ...

    def loss(self, parallel: nn.Module, drawn: Drawn) -> tuple[Tensor, float]:
        """The loss, and the share of right answers.  parallel: stands for `module`, and is called
        once."""
        ...

    def took(self, step: Step) -> None:
        """Is told each step that was taken, as all trainers see it: moves a curriculum on."""
        ...

    def finish(self) -> None:
        """Does, by one trainer, what is due behind the last step, or before a test halfway."""
        ...

    def position(self) -> dict[str, Any]:
        """Where it is, beside the weights, as JSON can have it."""
        ...

    def go_on(self, position: Mapping[str, Any]) -> None:
        """Goes on from what `position` gave."""
        ...

    def evaluate(self, base: Any) -> list[Evaluation]:
        """Tests on what was held out of training."""
        ...


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a recipe names.

    recipe: the class of its settings.  recipes: the runs that are known, by name, the first of
    which is taken where none is named; the name says the task.
    read: reads what the task gives, a knowledge base or what draws sequences: the `base` of the
    others.  build: fills the memories, and writes into the run folder what opening needs.
    open: what was built.  published: by task.
    """

    recipe: type[Recipe]
    recipes: Mapping[str, Callable[[], Recipe]]
    read: Callable[[Any], Any]
    build: Callable[[Any, Any, Holder, Path, Progress], None]
    open: Callable[[Any, Holder, Path, Group], Learner]
    published: Mapping[str, Published]
