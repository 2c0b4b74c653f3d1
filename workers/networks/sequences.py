"""Learns sequences by networks with a memory for the episode, the trainer's own: sparse access
memory, `models.sam`, the sparse DNC, `models.sdnc`, and the dense twins `models.ntm` and
`models.dam`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from memstore import MemoryConfig
from memstore.episodic import EpisodicMemory, LinkedMemory
from memstore.torch import RowTable
from models.controller import Controller
from models.dam import DAM
from models.ntm import NTM
from models.sam import SAM
from models.sdnc import SDNC
from models.tasks.sequences import Case, Episodes, SequenceTask
from workers import named
from workers.curriculum import Curriculum
from workers.figures import Evaluation
from workers.group import Group
from workers.learner import Drawn, Step
from workers.recipe import Recipe
from workers.tasks import task_of

ALL, FAILED = "all tasks", "tasks failed"
"""The case of all tests together, and what is told of it."""


@dataclass(frozen=True, kw_only=True)
class SequenceRecipe(Recipe):
    """A run on sequences.

    model: `sam`, `sdnc`, or the dense twins `ntm` and `dam`.  hidden: units of the LSTM.  heads: H.
    reads: K words of each head, of sam, and of each of its three modes, of sdnc.  links: L of sdnc.
    width: numbers a word.  words: N of each memory, which longer episodes than suit them have more
        of.
    clip: the largest norm of a gradient.
    level, longest: items of the first episodes at most, and of the last.  bound: of the loss, in
        bits an answer, below which its mean over the last `window` steps doubles the level.
    cooldown: of the steps, the last such share, over which dense_lr falls to 0, at one level.
    test_episodes: of each length, or task, that is tested.

    Where the task has facts: shards, updates of their memory, as of other networks; k: facts read
    for an answer; row_lr: learning rate of their rows, which falls to 0 by the last step.
    """

    network: str = "sam"
    task: str = "copy"
    steps: int = 2_000
    batch: int = 16
    dense_lr: float = 0.01
    model: str = "sam"
    hidden: int = 100
    heads: int = 1
    reads: int = 4
    links: int = 8
    width: int = 32
    words: int = 1_024
    clip: float = 10.0
    level: int = 4
    longest: int = 128
    bound: float = 0.5
    window: int = 20
    cooldown: float = 0.0
    test_episodes: int = 32
    shards: int = 1
    updates: str = "checkpointed"
    k: int = 16
    row_lr: float = 0.05

    LEAST: ClassVar = {**Recipe.LEAST, "clip": 0, "bound": 0, "cooldown": 0, "row_lr": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model not in MODELS:
            raise named.unknown("model", self.model, MODELS)
        MemoryConfig(dim=1, shards=self.shards, updates=self.updates)  # type: ignore[arg-type]

    def warmth(self, step: int) -> float:
        """The share of dense_lr that a step takes."""
        return min(1.0, (self.steps - step) / max(self.cooldown * self.steps, 1))


@dataclass(frozen=True)
class Model:
    """make: builds the network of a recipe, for so many inputs and outputs.
    room: the memory that it begins an episode with, for so many episodes of so many words."""

    make: Callable[[SequenceRecipe, int, int], Controller]
    room: Callable[[SequenceRecipe, int, int], Any]


def _sparse(kind: type[SAM] | type[SDNC], room: Callable[..., EpisodicMemory]) -> Model:
    def make(recipe: SequenceRecipe, inputs: int, outputs: int) -> Controller:
        return kind(
            inputs,
            outputs,
            hidden=recipe.hidden,
            heads=recipe.heads,
            reads=recipe.reads,
            width=recipe.width,
        )

    return Model(make, room)


def _dense(kind: type[NTM] | type[DAM]) -> Model:
    def make(recipe: SequenceRecipe, inputs: int, outputs: int) -> Controller:
        return kind(inputs, outputs, hidden=recipe.hidden, heads=recipe.heads, width=recipe.width)

    return Model(make, lambda recipe, batch, words: torch.zeros(batch, words, recipe.width))


def _episodic(recipe: SequenceRecipe, batch: int, words: int) -> EpisodicMemory:
    threads = _threads(batch * recipe.heads)
    return EpisodicMemory(batch, words, recipe.width, threads=threads)


def _linked(recipe: SequenceRecipe, batch: int, words: int) -> LinkedMemory:
    return LinkedMemory(
        batch,
        words,
        recipe.width,
        heads=recipe.heads,
        links=recipe.links,
        threads=_threads(batch * recipe.heads),
    )


def _threads(heads: int) -> int:
    """Those of torch, where the heads of all episodes take some tenths of a millisecond: one takes
    7 µs, of sdnc 20."""
    return torch.get_num_threads() if heads >= 64 else 1


MODELS = {
    "sam": _sparse(SAM, _episodic),
    "sdnc": _sparse(SDNC, _linked),
    "ntm": _dense(NTM),
    "dam": _dense(DAM),
}


class SequenceLearner:
    """A `Learner` of any network with a memory for the episode, on any sequences."""

    tables: Sequence[tuple[Sequence[RowTable], float]] = ()

    def __init__(self, recipe: SequenceRecipe, group: Group) -> None:
        self.recipe, self.own = recipe, group.share(recipe.batch)
        self.task = task_of(recipe.task, SequenceTask)
        torch.manual_seed(recipe.seed)
        self.module = self._made()
        self.dense = torch.optim.Adam(self.module.parameters(), lr=recipe.dense_lr)
        self.dense.register_step_pre_hook(self._clip)
        self.curriculum = Curriculum(
            recipe.level, recipe.longest, bound=recipe.bound, window=recipe.window
        )
        self._room: tuple[tuple[int, int], Any] = ((0, 0), None)

    def describe(self) -> str:
        made = f"{sum(weight.numel() for weight in self.module.parameters()):,} weights"
        return f"{self.recipe.model}, {made}, {self.recipe.words:,} words, {self.task.source}"

    def data(self, base: SequenceTask) -> SequenceTask:
        return base

    def prepare(self, step: int) -> None:
        rate = self.recipe.dense_lr * self.recipe.warmth(step)
        for group in self.dense.param_groups:
            group["lr"] = rate

    def draw(self, data: SequenceTask, step: int) -> Drawn:
        rng = np.random.default_rng((self.recipe.seed, step))
        level = self.curriculum.level
        episodes = data.draw(rng, self.recipe.batch, self.curriculum.length(rng))
        return Drawn(step, self.recipe.task, rng, episodes.share(self.own), level)

    def propose(self, drawn: Drawn) -> Drawn:
        return drawn

    def loss(self, parallel: nn.Module, drawn: Drawn) -> tuple[Tensor, float]:
        loss, right_A = self._answered(parallel, drawn.batch)
        return loss, float(right_A.double().mean())

    def took(self, step: Step) -> None:
        """What begins once the learning rate falls would not be learnt: a level does not."""
        if not self.recipe.cooldown or self.recipe.warmth(step.number + 1) == 1:
            self.curriculum.took(step.loss)

    def finish(self) -> None: ...

    def position(self) -> dict[str, Any]:
        return self.curriculum.position()

    def go_on(self, position: Mapping[str, Any]) -> None:
        self.curriculum.go_on(position)

    def evaluate(self, base: SequenceTask) -> list[Evaluation]:
        self.module.eval()
        recipe = self.recipe
        tests = base.tests(recipe.seed, recipe.batch, recipe.test_episodes, self.curriculum.level)
        found = [self._tested(case) for case in tests]
        return found if base.failed is None else [_together(found, base.failed)]

    def _tested(self, case: Case) -> Evaluation:
        right, cost, answers, episodes = list[Tensor](), 0.0, 0, 0
        start = time.perf_counter()
        for batch in case.batches:
            with torch.no_grad():
                loss, right_A = self._answered(self.module, batch)
            right.append(self.task.judged(batch.asked_TB, right_A))
            cost, answers = cost + float(loss) * len(right_A), answers + len(right_A)
            episodes += batch.asked_TB.shape[1]
        share = float(torch.cat(right).double().mean())
        _, room = self._room
        return Evaluation(
            case=case.name,
            questions=episodes,
            hits_1=share,
            seconds=time.perf_counter() - start,
            bytes=_bytes(room),
            more={"share of answers wrong": 1 - share, "cost of an answer": cost / answers},
        )

    def _answered(self, network: nn.Module, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """The loss of the answers of episodes, and which are right."""
        steps, batch, _ = episodes.inputs_TBX.shape
        state = self.module.begin(self._begun(batch, steps))
        said_AY, more = self._said(network, episodes, state)
        targets_A = episodes.targets_TB[episodes.asked_TB]
        loss = self.task.loss(said_AY, targets_A) + more
        return loss, self.task.right(said_AY.detach(), targets_A)

    def _made(self) -> Any:
        return MODELS[self.recipe.model].make(self.recipe, self.task.inputs, self.task.outputs)

    def _said(
        self, network: nn.Module, episodes: Episodes, state: Any
    ) -> tuple[Tensor, Tensor | float]:
        """What is said where an answer is asked for, `[A, Y]`, and what it costs beside that."""
        said_TBY, _ = network(episodes.inputs_TBX, state)
        return said_TBY[episodes.asked_TB], 0.0

    def _begun(self, batch: int, steps: int) -> Any:
        """The memory at the beginning of an episode: words for what each head may write."""
        needed = self.recipe.heads * steps
        words = max(self.recipe.words, 1 << (needed - 1).bit_length())
        if self._room[0] != (batch, words):
            self._room = (batch, words), MODELS[self.recipe.model].room(self.recipe, batch, words)
        _, room = self._room
        if isinstance(room, EpisodicMemory):
            # A backward pass has taken back what it came from; a test has none.
            room.rollback(0)
        return room

    def _clip(self, *_: object) -> None:
        nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip)


def _together(found: list[Evaluation], failed: float) -> Evaluation:
    """The mean of all tests, each as weighty as any other, and what is wrong of each."""
    wrong = {f"wrong of {test.case}": 1 - test.hits_1 for test in found}
    return Evaluation(
        case=ALL,
        questions=sum(test.questions for test in found),
        hits_1=float(np.mean([test.hits_1 for test in found])),
        seconds=sum(test.seconds for test in found),
        bytes=max(test.bytes or 0 for test in found),
        more={FAILED: float(sum(error > failed for error in wrong.values())), **wrong},
    )


def _bytes(room: EpisodicMemory | Tensor) -> int:
    if isinstance(room, EpisodicMemory):
        return room.rows_BND.nbytes + room.journal_bytes
    return room.numel() * room.element_size()
