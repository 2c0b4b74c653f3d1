"""A trainer that SIGSTOP stops in the middle of a run: python -m tests.training.stopped JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

import memstore
from tests.training import small
from workers.group import Trainers
from workers.run import Run

RECIPE = replace(
    small.recipe(), places=100, shards=4, steps=16, hashed_steps=16, questions=200, updates="logged"
)
EVERY = 4
"""Steps from one checkpoint to the next."""


@contextmanager
def opened(folder: Path, address: str, meeting: Path) -> Iterator[Run]:
    """The run, by a group of one, as a trainer on Ray opens it."""
    dist.init_process_group("gloo", f"file://{meeting}", rank=0, world_size=1)
    try:
        with (
            memstore.connect(address, deadline_s=120.0) as client,
            Run(folder, client, group=Trainers()) as run,
        ):
            yield run
    finally:
        dist.destroy_process_group()


def main(folder: Path, address: str, stop: int) -> None:
    torch.set_num_threads(1)
    with opened(folder, address, folder / "meeting") as run:
        for _ in run.train(small.base(RECIPE.places), EVERY):
            if run.trainer.done == stop:
                if stop % EVERY == 0:
                    # Nothing is changed between the checkpoint and the stop.
                    run.save()
                run.checkpoints.wait()
                os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    main(Path(told["folder"]), told["address"], told["stop"])
