"""One of several trainers, as a process: python -m tests.training.member JSON."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import memstore
from memstore.rpc.client import Client
from memstore.torch import RowOptimizer, RowTable
from tests.training import world
from workers.group import Group, Pace, Trainers
from workers.networks.kv import KVRecipe


class Stamped(Trainers):
    """Notes when the updates of each step have been answered, by the machine's clock."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(pace)
        self.done: list[float] = []

    def mean(self, *numbers: float) -> tuple[float, ...]:
        self.done.append(time.monotonic())
        return super().mean(*numbers)


def main(told: dict) -> None:
    folder, rank = Path(told["folder"]), told["rank"]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=told["size"],
        timeout=timedelta(seconds=120),
    )
    group = Stamped(Pace(**told["pace"]))
    with memstore.connect(told["address"], deadline_s=120.0) as client:
        if told["recipe"] is None:
            send(client, group, folder)
        else:
            train(client, group, folder, KVRecipe(**told["recipe"]), told["slow_s"][rank])
        dist.barrier()
    dist.destroy_process_group()


def train(client: Client, group: Stamped, folder: Path, recipe: KVRecipe, slow_s: float) -> None:
    """Writes losses and weights, and when each step was begun and done."""
    training = world.training(client, recipe, group)
    steps = training.trainer.run(training.data)
    begun, losses = [], []
    for _ in range(recipe.steps):
        time.sleep(slow_s)
        begun.append(time.monotonic())
        losses.append(next(steps).loss)
    weights = {n: p.detach().numpy() for n, p in training.trainer.learner.module.named_parameters()}
    np.savez(folder / f"weights-{group.rank}.npz", allow_pickle=False, **weights)
    written = {"losses": losses, "begun": begun, "done": group.done}
    (folder / f"steps-{group.rank}.json").write_text(json.dumps(written))


def send(client: Client, group: Group, folder: Path) -> None:
    """Sends gradients that are whole numbers, in one step none from the second trainer."""
    table = RowTable(client.memory("m"))
    optimizer = RowOptimizer([table], 1.0, group.exchange)
    for step in range(3):
        if (group.rank, step) != (1, 1):
            slots_B, weights_B = world.sent(group.rank, step)
            keys_BD, values_BV = table.pairs(slots_B)
            weighed_B = group.size * torch.from_numpy(weights_B)[:, None]
            (weighed_B * keys_BD).sum().backward()
            (-weighed_B * values_BV).sum().backward()
        optimizer.step()
        dist.barrier()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
