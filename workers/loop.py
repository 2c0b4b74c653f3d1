"""The training loop: the same with and without a cluster."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memstore.memory import Slots
from memstore.torch import RowOptimizer
from models.kv_memnn import Asked, KVMemNN, answer_loss
from models.tasks import answers
from models.tasks.asking import QuestionReader, Questions
from workers.recipes import Recipe


@dataclass(frozen=True)
class Step:
    """What one step did: loss, hits@1 among the sampled answers, seconds without refreshing."""

    number: int
    searched: bool
    loss: float
    hits: float
    seconds: float


class Trainer:
    """Takes training steps; what a step draws depends on the recipe's seed and its number alone."""

    def __init__(self, network: KVMemNN, reader: QuestionReader, recipe: Recipe) -> None:
        self.network, self.reader, self.recipe = network, reader, recipe
        self.memories = reader.memories
        tables = [network.words, *network.reader.parts.values()]
        entities = [table for table in tables if table.memory.name == "entities"]
        others = [table for table in tables if table.memory.name != "entities"]
        self.rows = [
            (RowOptimizer(others), recipe.row_lr),
            (RowOptimizer(entities), recipe.entity_lr),
        ]
        self.dense = torch.optim.Adam(network.parameters(), lr=recipe.dense_lr)
        self.entities = self.memories.entities.describe().next_slot
        self.done = 0

    def run(self, questions: Questions, right_QA: Slots) -> Generator[Step, None, None]:
        """Takes the steps that are left of the recipe.

        right_QA: the right answers of each question, `NO_SLOT` padded.
        """
        while self.done < self.recipe.steps:
            if self.recipe.refreshed(self.done):
                self.memories.facts.refresh()
            yield self.step(questions, right_QA)

    def step(self, questions: Questions, right_QA: Slots) -> Step:
        """Draws a batch, lets facts be proposed for it, and learns."""
        start = time.perf_counter()
        rng = np.random.default_rng((self.recipe.seed, self.done))
        searched = self.recipe.searched(self.done)
        at = rng.integers(0, len(questions), self.recipe.batch)
        asked = self.reader.ask(questions, at, None if searched else self.recipe.key_limit)
        loss, hits = self.learn(asked, right_QA[at], rng)
        number, self.done = self.done, self.done + 1
        return Step(number, searched, loss, hits, time.perf_counter() - start)

    def learn(self, asked: Asked, right_QA: Slots, rng: np.random.Generator) -> tuple[float, float]:
        """Reads, answers and takes one step; returns the loss and hits@1 among sampled answers."""
        recipe, facts = self.recipe, self.memories.facts
        answered = self.network(asked)
        slots_QK = answered.hops[-1].candidates.slots_QK
        read_QC = answers.objects_of(facts, slots_QK, asked.entity_Q, recipe.list_limit)
        sampled_QC = answers.sample(right_QA, read_QC, self.entities, recipe.negatives, rng)
        loss, hits = answer_loss(self.network, answered.query_QD, sampled_QC)
        self.dense.zero_grad()
        loss.backward()
        self.dense.step()
        left = 1.0 - self.done / recipe.steps
        for optimizer, lr in self.rows:
            optimizer.lr = lr * left
            optimizer.step()
        return float(loss.detach()), hits

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
