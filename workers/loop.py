"""The training loop: the same for every network and task, with and without a cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memstore.torch import RowOptimizer
from workers.group import Group
from workers.learner import Drawn, Learner, Step
from workers.recipe import Recipe


class Trainer:
    """Takes training steps.

    group: the trainers among whom each batch is shared.
    """

    def __init__(self, learner: Learner, recipe: Recipe, group: Group = Group()) -> None:
        self.learner, self.recipe, self.group = learner, recipe, group
        self.rows = [
            (RowOptimizer(tables, exchange=group.exchange), lr) for tables, lr in learner.tables
        ]
        self.dense = learner.dense
        self.parallel = group.parallel(learner.module)
        self.done = 0

    def run(self, data: Any) -> Generator[Step, None, None]:
        """Takes the steps that are left of the recipe.  data: what `Learner.data` gave."""
        with ThreadPoolExecutor(1, "memstore-prefetch") as pool:
            ahead: Future[Drawn] | None = None
            while self.done < self.recipe.steps:
                self.learner.prepare(self.done)
                start = time.perf_counter()
                drawn = self.learner.draw(data, self.done) if ahead is None else ahead.result()
                if self.group.pace.prefetch and self.done + 1 < self.recipe.steps:
                    ahead = pool.submit(self._ahead, data, self.done + 1)
                loss, hits = self.learn(drawn)
                seconds = time.perf_counter() - start
                self.done += 1
                step = Step(drawn.number, drawn.kind, loss, hits, seconds, drawn.level)
                self.learner.took(step)
                yield step

    @property
    def met(self) -> bool:
        """Whether the dense weights have all that was learnt in the steps done."""
        return self._meets(self.done - 1)

    def _meets(self, step: int) -> bool:
        return self.group.meets(step) or step + 1 == self.recipe.steps

    def _ahead(self, data: Any, number: int) -> Drawn:
        return self.learner.propose(self.learner.draw(data, number))

    def learn(self, drawn: Drawn) -> tuple[float, float]:
        """Reads, answers and takes one step; returns the loss and the share of right answers."""
        meets = self._meets(drawn.number)
        self.parallel.train()
        with contextlib.nullcontext() if meets else self.group.alone(self.parallel):
            loss, hits = self.learner.loss(self.parallel, drawn)
            loss.backward()
        if meets and self.dense is not None:
            self.dense.step()
            self.dense.zero_grad()
        left = 1.0 - self.done / self.recipe.steps
        for optimizer, lr in self.rows:
            optimizer.lr = lr * left
            optimizer.step()
        mean_loss, mean_hits = self.group.mean(float(loss.detach()), hits)
        return mean_loss, mean_hits

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The dense weights, their optimizer and the step number, by name."""
        named = self.learner.module.state_dict()
        arrays = {f"weight/{name}": weight.numpy() for name, weight in named.items()}
        if self.dense is not None:
            for number, state in self.dense.state_dict()["state"].items():
                arrays |= {f"dense/{number}/{name}": value.numpy() for name, value in state.items()}
        return arrays | {"done": np.array(self.done)}

    def take(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Goes on from what `arrays` gave."""
        module = self.learner.module
        module.load_state_dict(
            {name: torch.from_numpy(arrays[f"weight/{name}"]) for name in module.state_dict()}
        )
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, array in arrays.items():
            if key.startswith("dense/"):
                _, number, name = key.split("/")
                state.setdefault(int(number), {})[name] = torch.from_numpy(array)
        if self.dense is not None:
            groups = self.dense.state_dict()["param_groups"]
            self.dense.load_state_dict({"state": state, "param_groups": groups})
        self.done = int(arrays["done"])


def as_columns(steps: list[Step]) -> dict[str, list[Any]]:
    """The steps as columns, for metrics files and plots."""
    rows = [asdict(step) for step in steps]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
