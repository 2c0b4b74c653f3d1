"""The training loop: the same with and without a cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memstore import NO_SLOT
from memstore.memory import Slots
from memstore.torch import RowOptimizer
from models.kv_memnn import Answered, Asked, KVMemNN, answer_loss
from models.tasks import answers
from models.tasks.asking import QuestionReader, Questions
from workers.group import Group
from workers.recipes import Recipe


@dataclass(frozen=True)
class Step:
    """What one step did: loss, hits@1 among the sampled answers, seconds without refreshing."""

    number: int
    searched: bool
    loss: float
    hits: float
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """A step before it is taken: its questions, those of all trainers, and this one's as asked."""

    number: int
    at: Slots
    asked: Asked
    rng: np.random.Generator


class Trainer:
    """Takes training steps; what a step draws depends on the recipe's seed and its number alone.

    group: the trainers among whom each batch is shared.
    """

    def __init__(
        self, network: KVMemNN, reader: QuestionReader, recipe: Recipe, group: Group = Group()
    ) -> None:
        self.network, self.reader, self.recipe, self.group = network, reader, recipe, group
        self.own = group.share(recipe.batch)
        self.memories = reader.memories
        tables = [network.words, *network.reader.parts.values()]
        entities = [table for table in tables if table.memory.name == "entities"]
        others = [table for table in tables if table.memory.name != "entities"]
        self.rows = [
            (RowOptimizer(others, exchange=group.exchange), recipe.row_lr),
            (RowOptimizer(entities, exchange=group.exchange), recipe.entity_lr),
        ]
        self.dense = torch.optim.Adam(network.parameters(), lr=recipe.dense_lr)
        self.parallel = group.parallel(network)
        self.entities = self.memories.entities.describe().next_slot
        self.done = 0

    def run(self, questions: Questions, right_QA: Slots) -> Generator[Step, None, None]:
        """Takes the steps that are left of the recipe.

        right_QA: the right answers of each question, `NO_SLOT` padded.
        """
        with ThreadPoolExecutor(1, "memstore-prefetch") as pool:
            ahead: Future[Drawn] | None = None
            while self.done < self.recipe.steps:
                start = time.perf_counter()
                refreshed = self.recipe.refreshed(self.done)
                if refreshed:
                    self.group.once(self.memories.facts.refresh)
                    start = time.perf_counter()
                drawn = self.draw(questions, self.done) if ahead is None else ahead.result()
                if self.group.pace.prefetch and self.done + 1 < self.recipe.steps:
                    ahead = pool.submit(self.propose, questions, self.done + 1)
                loss, hits = self.learn(drawn, right_QA[drawn.at])
                seconds = time.perf_counter() - start
                self.done += 1
                yield Step(drawn.number, self.recipe.searched(drawn.number), loss, hits, seconds)

    @property
    def met(self) -> bool:
        """Whether the dense weights have all that was learnt in the steps done."""
        return self._meets(self.done - 1)

    def _meets(self, step: int) -> bool:
        return self.group.meets(step) or step + 1 == self.recipe.steps

    def draw(self, questions: Questions, number: int) -> Drawn:
        """Draws the batch of a step, and asks this trainer's share of it."""
        rng = np.random.default_rng((self.recipe.seed, number))
        at = rng.integers(0, len(questions), self.recipe.batch)
        limit = None if self.recipe.searched(number) else self.recipe.key_limit
        return Drawn(number, at, self.reader.ask(questions, at[self.own], limit), rng)

    def propose(self, questions: Questions, number: int) -> Drawn:
        """Draws a batch, and has facts proposed for it by the rows as they are."""
        drawn = self.draw(questions, number)
        if drawn.asked.slots_QK is not None:
            return drawn
        with torch.no_grad():
            slots_QK = self.network.reader.search(self.network.encode(drawn.asked))
        return replace(drawn, asked=replace(drawn.asked, slots_QK=slots_QK))

    def learn(self, drawn: Drawn, right_QA: Slots) -> tuple[float, float]:
        """Reads, answers and takes one step; returns the loss and hits@1 among sampled answers."""
        meets = self._meets(drawn.number)
        with contextlib.nullcontext() if meets else self.group.alone(self.parallel):
            answered = self.parallel(drawn.asked)
            sampled_QC = self._sampled(drawn, answered, right_QA)
            loss, hits = answer_loss(self.network, answered.query_QD, sampled_QC)
            loss.backward()
        if meets:
            self.dense.step()
            self.dense.zero_grad()
        left = 1.0 - self.done / self.recipe.steps
        for optimizer, lr in self.rows:
            optimizer.lr = lr * left
            optimizer.step()
        mean_loss, mean_hits = self.group.mean(float(loss.detach()), hits)
        return mean_loss, mean_hits

    def _sampled(self, drawn: Drawn, answered: Answered, right_QA: Slots) -> Slots:
        recipe, facts = self.recipe, self.memories.facts
        slots_QK = answered.hops[-1].candidates.slots_QK
        read_QC = answers.objects_of(facts, slots_QK, drawn.asked.entity_Q, recipe.list_limit)
        more = self.group.largest(read_QC.shape[1]) - read_QC.shape[1]
        read_QC = np.pad(read_QC, ((0, 0), (0, more)), constant_values=NO_SLOT)
        return answers.sample(
            right_QA, read_QC, self.entities, recipe.negatives, drawn.rng, self.own
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The dense weights, their optimizer and the step number, by name."""
        arrays = {f"weight/{n}": p.detach().numpy() for n, p in self.network.named_parameters()}
        for number, state in self.dense.state_dict()["state"].items():
            arrays |= {f"adam/{number}/{name}": value.numpy() for name, value in state.items()}
        return arrays | {"done": np.array(self.done)}

    def take(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Goes on from what `arrays` gave."""
        names = [name for name, _ in self.network.named_parameters()]
        weights = {name: torch.from_numpy(arrays[f"weight/{name}"]) for name in names}
        self.network.load_state_dict(weights)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, array in arrays.items():
            if key.startswith("adam/"):
                _, number, name = key.split("/")
                state.setdefault(int(number), {})[name] = torch.from_numpy(array)
        groups = self.dense.state_dict()["param_groups"]
        self.dense.load_state_dict({"state": state, "param_groups": groups})
        self.done = int(arrays["done"])


def as_columns(steps: list[Step]) -> dict[str, list[float]]:
    """The steps as columns, for metrics files and plots."""
    rows = [asdict(step) for step in steps]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
