"""A network without memories on sequences, for the tests: an LSTM that learns to copy bits.

The curriculum: once the loss has stayed low, sequences get longer by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from memstore.torch import RowTable
from models.tasks.memories import Progress
from workers.checkpoints import Holder
from workers.figures import Evaluation, Published
from workers.group import Group
from workers.learner import Drawn, Network, Step
from workers.recipe import Recipe
from workers.tasks import task_of

BITS = 3


@dataclass(frozen=True)
class Copying:
    """source: of the sequences."""

    source: str = "made-up bits"

    def drawn(self, rng: np.random.Generator, batch: int, length: int) -> Tensor:
        """Bits `[batch, length, BITS]`."""
        return torch.from_numpy(rng.integers(0, 2, (batch, length, BITS)).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class EchoRecipe(Recipe):
    """hidden: units.  longest: bits of the last level."""

    network: str = "tests.training.echoes:network"
    task: str = "tests.training.echoes:task"
    steps: int = 40
    batch: int = 8
    dense_lr: float = 0.02
    hidden: int = 24
    longest: int = 4


class Echo(nn.Module):
    """Reads bits, then gives them back."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BITS + 1, hidden, batch_first=True)
        self.out = nn.Linear(hidden, BITS)

    def forward(self, bits_BTX: Tensor) -> Tensor:
        heard = functional.pad(bits_BTX, (0, 1), value=1.0)
        silence = torch.zeros_like(heard)
        states, _ = self.lstm(torch.cat([heard, silence], dim=1))
        said: Tensor = self.out(states[:, bits_BTX.shape[1] :])
        return said


class EchoLearner:
    def __init__(self, recipe: EchoRecipe, group: Group) -> None:
        self.recipe, self.own = recipe, group.share(recipe.batch)
        torch.manual_seed(recipe.seed)
        self.module = Echo(recipe.hidden)
        self.dense = torch.optim.RMSprop(self.module.parameters(), recipe.dense_lr, momentum=0.5)
        self.level = 1

    tables: Sequence[tuple[Sequence[RowTable], float]] = ()

    def describe(self) -> str:
        return "bits"

    def data(self, base: Copying) -> Copying:
        return base

    def prepare(self, step: int) -> None: ...

    def draw(self, data: Copying, step: int) -> Drawn:
        rng = np.random.default_rng((self.recipe.seed, step))
        bits = data.drawn(rng, self.recipe.batch, self.level)[self.own]
        return Drawn(step, "copied", rng, bits, self.level)

    def propose(self, drawn: Drawn) -> Drawn:
        return drawn

    def loss(self, parallel: nn.Module, drawn: Drawn) -> tuple[Tensor, float]:
        said = parallel(drawn.batch)
        hits = ((said > 0) == (drawn.batch > 0.5)).double().mean()
        return functional.binary_cross_entropy_with_logits(said, drawn.batch), float(hits)

    def took(self, step: Step) -> None:
        if step.hits > 0.8:
            self.level = min(self.level + 1, self.recipe.longest)

    def finish(self) -> None: ...

    def position(self) -> dict[str, Any]:
        return {"level": self.level}

    def go_on(self, position: Mapping[str, Any]) -> None:
        self.level = position["level"]

    def evaluate(self, base: Copying) -> list[Evaluation]:
        bits = base.drawn(np.random.default_rng(1), 50, self.level)
        with torch.no_grad():
            right = ((self.module(bits) > 0) == (bits > 0.5)).double().mean()
        return [
            Evaluation(case=f"length {self.level}", questions=50, hits_1=float(right), seconds=0.1)
        ]


def build(recipe: EchoRecipe, base: Copying, holder: Holder, folder: Path, told: Progress) -> None:
    """There is nothing to build."""


def open_(recipe: EchoRecipe, holder: Holder, folder: Path, group: Group) -> EchoLearner:
    return EchoLearner(recipe, group)


def task() -> Copying:
    return Copying()


network = Network(
    recipe=EchoRecipe,
    recipes={"echo": EchoRecipe},
    read=lambda recipe: task_of(recipe.task, Copying),
    build=build,
    open=open_,
    published={
        "tests.training.echoes:task": Published(
            figure=0.999, source="nobody", note="It was longer."
        )
    },
)
