"""Several trainers on one served memory, each a process: what they learn together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

import memstore
from memstore import MemoryConfig, SearchOptions
from memstore.errors import InvalidArgument
from memstore.memory import Array
from memstore.rpc.server import Server
from tests.training import world
from workers.group import Group, Pace, Trainers

TABLES = ("words", "entities", "relations")
LONG_S = 240.0
"""For processes that start on a machine that is busy."""


@dataclass(frozen=True)
class Learnt:
    """What a run left: the rows of each table and how often each shard was changed; of each
    trainer its weights, its losses, and when its steps were begun and what they learnt was sent."""

    rows: dict[str, Array]
    versions: dict[str, list[int]]
    weights: list[dict[str, Array]]
    steps: list[dict[str, list[float]]]


@contextmanager
def served(folder: Path) -> Iterator[tuple[memstore.Store, str]]:
    """A new store, and where it is served."""
    with memstore.open(folder / "store") as store:
        server = Server(store, "127.0.0.1:0").start()
        try:
            yield store, server.address
        finally:
            server.close(0.0)


def start(told: dict, slow_s: tuple[float, ...] = (0.0, 0.0)) -> None:
    """Runs two trainers to their end."""
    told = {"size": 2, "pace": asdict(Pace()), "slow_s": slow_s} | told
    members = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.member", json.dumps(told | {"rank": rank})],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        assert [member.wait(LONG_S) for member in members] == [0, 0]
    finally:
        for member in members:
            member.kill()
            member.wait()


def together(folder: Path, pace: Pace = Pace(), slow_s: tuple[float, ...] = (0.0, 0.0)) -> Learnt:
    """Trains by two processes."""
    folder.mkdir(exist_ok=True)
    recipe = asdict(world.RECIPE)
    with served(folder) as (store, address):
        world.build(store)
        told = {"folder": str(folder), "address": address, "pace": asdict(pace), "recipe": recipe}
        start(told, slow_s)
        rows, versions = left(store)
    weights = []
    for rank in range(2):
        with np.load(folder / f"weights-{rank}.npz", allow_pickle=False) as arrays:
            weights.append({name: arrays[name] for name in arrays.files})
    steps = [json.loads((folder / f"steps-{rank}.json").read_text()) for rank in range(2)]
    return Learnt(rows, versions, weights, steps)


def lone(folder: Path, group: Group = Group()) -> Learnt:
    """Trains embedded, in this process."""
    folder.mkdir()
    with memstore.open(folder / "store") as store:
        world.build(store)
        training = world.training(store, world.RECIPE, group)
        losses = [s.loss for s in training.trainer.run(training.data)]
        rows, versions = left(store)
    named = training.trainer.learner.module.named_parameters()
    weights = {name: weight.detach().numpy() for name, weight in named}
    return Learnt(rows, versions, [weights], [{"losses": losses}])


def left(store: memstore.Store) -> tuple[dict[str, Array], dict[str, list[int]]]:
    rows, versions = {}, {}
    for name in TABLES:
        memory = store.memory(name)
        keys_BD = memory.gather(np.arange(memory.describe().next_slot)).keys_BD
        assert keys_BD is not None
        found = memory.search(keys_BD[:1], 1, SearchOptions(exact=True))
        rows[name], versions[name] = keys_BD, found.row_versions_S.tolist()
    return rows, versions


def test_two_in_step_learn_what_one_learns_from_the_whole_batch(tmp_path: Path) -> None:
    """To rounding: sums of two trainers add up in another order than those of one."""
    one, two = lone(tmp_path / "one"), together(tmp_path / "two")
    assert two.steps[0]["losses"] == two.steps[1]["losses"]
    np.testing.assert_allclose(two.steps[0]["losses"], one.steps[0]["losses"], rtol=5e-3)
    # Each shard got one update a step, whoever sent it.
    assert two.versions == one.versions
    for name in TABLES:
        np.testing.assert_allclose(two.rows[name], one.rows[name], rtol=1e-3, atol=1e-3)
    for name, weight in one.weights[0].items():
        np.testing.assert_array_equal(two.weights[0][name], two.weights[1][name])
        np.testing.assert_allclose(two.weights[0][name], weight, rtol=1e-3, atol=1e-5)


def test_sums_that_do_not_round_are_those_of_one(tmp_path: Path) -> None:
    with served(tmp_path) as (store, address):
        config = MemoryConfig(dim=3, value_dim=2, shards=5, index="none", optimizer="sgd")
        memory = store.create("m", config)
        memory.append(np.zeros((40, 3), np.float32), np.zeros((40, 2), np.float32))
        start({"folder": str(tmp_path), "address": address, "recipe": None})
        read = memory.gather(range(40))
        version_S = memory.search(np.zeros((1, 3)), 1, SearchOptions(exact=True)).row_versions_S
    expected_B = np.zeros(40, np.float32)
    for rank, step in ((0, 0), (1, 0), (0, 1), (0, 2), (1, 2)):
        np.subtract.at(expected_B, *world.sent(rank, step))
    assert read.keys_BD is not None
    assert read.values_BV is not None
    np.testing.assert_array_equal(read.keys_BD, np.repeat(expected_B[:, None], 3, axis=1))
    np.testing.assert_array_equal(read.values_BV, np.repeat(-expected_B[:, None], 2, axis=1))
    assert version_S.tolist() == [4] * 5


def test_one_of_a_group_of_one_is_a_lone_trainer(tmp_path: Path) -> None:
    alone = lone(tmp_path / "alone")
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        grouped = lone(tmp_path / "grouped", Trainers())
    finally:
        dist.destroy_process_group()
    assert grouped.steps == alone.steps
    for name in TABLES:
        np.testing.assert_array_equal(grouped.rows[name], alone.rows[name])
    for name, weight in alone.weights[0].items():
        np.testing.assert_array_equal(grouped.weights[0][name], weight)


@pytest.mark.parametrize("pace", [Pace(2), Pace(1, prefetch=True)], ids=str)
def test_none_reads_what_is_staler_than_it_was_told(pace: Pace, tmp_path: Path) -> None:
    found = together(tmp_path, pace, slow_s=(0.0, 0.3))
    ahead = 0
    for own, other in (found.steps, found.steps[::-1]):
        for step in range(world.RECIPE.steps):
            # Facts are proposed for a step while the one before is taken.
            reads = own["begun"][max(0, step - 1) if pace.prefetch else step]
            seen = sum(done <= reads for done in other["done"])
            assert seen >= step - pace.staleness_steps
            ahead += seen < step
    assert ahead > 0
    for name, weight in found.weights[0].items():
        np.testing.assert_array_equal(weight, found.weights[1][name])
    if pace.apart_steps:
        # Both sent an update of each step to each shard of the words.
        assert found.versions["words"] == [1 + 2 * world.RECIPE.steps] * world.RECIPE.shards


def test_what_cannot_be_shared_or_waited_for_is_refused() -> None:
    for wrong in ({"staleness_steps": -1}, {"prefetch": True}):
        with pytest.raises(InvalidArgument, match="staleness_steps ≥"):
            Pace(**wrong)
    group = Group()
    group.size = 3
    with pytest.raises(InvalidArgument, match="a multiple of 3"):
        group.share(16)
