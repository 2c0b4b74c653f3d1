"""One of several trainers of a run on a served memory: python -m tests.training.sam_member JSON."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import memstore
from workers.group import Pace, Trainers
from workers.run import Run


def main(told: dict) -> None:
    folder = Path(told["folder"])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder.parent / 'meeting'}",
        rank=told["rank"],
        world_size=told["size"],
        timeout=timedelta(seconds=120),
    )
    with (
        memstore.connect(told["address"], deadline_s=120.0) as client,
        Run(folder, client, group=Trainers(Pace())) as run,
    ):
        for _ in run.train(run.base(), run.recipe.steps):
            pass
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
