"""Sparse access memory beside a memory of facts: what it computes, learns, learns by several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import memstore
from memstore import MemoryConfig
from memstore.episodic import EpisodicMemory
from memstore.rpc.server import Server
from memstore.torch import SparseReader
from models.sam_facts import FactSAM
from models.tasks.bound import Bound
from workers.networks.sequences import SequenceRecipe
from workers.run import Run

OWN = "tests.training.test_sam_facts"
LONG_S = 240.0
"""For processes that start on a machine that is busy."""


def task() -> Bound:
    return Bound(60, name_bits=8, subject_bits=8, value_bits=3, cues=2)


def recipe(steps: int = 250) -> SequenceRecipe:
    """One name an episode, in seconds: what is asked for is in the facts alone."""
    return SequenceRecipe(
        task=f"{OWN}:task",
        steps=steps,
        dense_lr=0.02,
        hidden=32,
        width=16,
        words=16,
        level=1,
        longest=1,
        shards=4,
        k=8,
        test_episodes=64,
    )


def test_names_are_answered_by_the_facts_of_their_subjects() -> None:
    known, rng = task(), np.random.default_rng(0)
    episodes = known.draw(rng, 4, 5)
    keys_FD, values_FV = known.rows
    assert len({tuple(row) for row in keys_FD.tolist()}) == 60
    for b in range(4):
        names = {tuple(row[:8].tolist()): row[8:16] for row in episodes.inputs_TBX[:5, b]}
        assert len(names) == 5
        for t in (5, 6):
            fact = int(episodes.facts_TB[t, b])
            subject = names[tuple(episodes.inputs_TBX[t, b, :8].tolist())]
            np.testing.assert_array_equal(subject > 0, keys_FD[fact] > 0)
            np.testing.assert_array_equal(episodes.targets_TB[t, b] > 0, values_FV[fact] > 0)
    assert (episodes.facts_TB[:5] == -1).all()
    part = episodes.share(slice(2, 4))
    assert torch.equal(part.facts_TB, episodes.facts_TB[:, 2:])


def test_facts_are_read_by_what_the_network_hears_and_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    keys_FD, values_FV = (rng.standard_normal((9, n)).astype(np.float32) for n in (4, 3))
    inputs_TBX = torch.randn(6, 2, 5)
    asked_TB = torch.zeros(6, 2, dtype=torch.bool)
    asked_TB[4:] = True
    with memstore.open(tmp_path) as store:
        facts = store.create("facts", MemoryConfig(dim=4, value_dim=3, index="exact"))
        facts.append(keys_FD, values_FV)
        reader = SparseReader(facts, k=9)
        network = FactSAM(5, 3, reader, hidden=8, heads=1, reads=2, width=6)
        memory = EpisodicMemory(2, 20, 6)
        said_AY, _ = network(inputs_TBX, network.begin(memory), asked_TB)
        said_AY.square().sum().backward()
        memory.rollback(0)
        assert reader.rows is not None
        [leaf] = reader.rows.pending
        assert leaf.keys_BD.grad is not None
        summed_FD = np.zeros((9, 4))
        np.add.at(summed_FD, leaf.slots_B, leaf.keys_BD.grad.numpy())

        keys, values = (torch.from_numpy(x).requires_grad_() for x in (keys_FD, values_FV))
        heard_TBY, _ = network.sam(inputs_TBX, network.begin(memory))
        plain_AY, query_AD = heard_TBY[asked_TB].split([3, 4], dim=1)
        expected_AY = plain_AY + network.told((query_AD @ keys.T).softmax(1) @ values)
        expected_AY.square().sum().backward()
    torch.testing.assert_close(said_AY, expected_AY)
    assert keys.grad is not None
    np.testing.assert_allclose(summed_FD, keys.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_it_learns_to_answer_by_facts(tmp_path: Path) -> None:
    Run.build(tmp_path, recipe(), task(), lambda *told: None)
    with Run(tmp_path) as run:
        assert "60 facts" in run.learner.describe()
        before = run.holder.memory("facts").gather(np.arange(60)).values_BV
        steps = list(run.train(task(), 1_000))
        after = run.holder.memory("facts").gather(np.arange(60)).values_BV
        first, *_ = run.evaluate(task())
    assert np.mean([step.loss for step in steps[:10]]) > 2.5  # of three bits
    assert first.hits_1 > 0.8
    assert before is not None
    assert after is not None
    assert (before != after).any(axis=1).sum() > 50


@pytest.mark.timeout(600)
def test_two_trainers_on_a_served_memory_learn_what_one_does_embedded(tmp_path: Path) -> None:
    """Memories of episodes are each trainer's, the facts are the server's; sums in another order
    are the same to rounding."""
    short = recipe(20)
    losses = list[list[float]]()
    Run.build(tmp_path / "one", short, task(), lambda *told: None)
    with Run(tmp_path / "one") as run:
        losses.append([step.loss for step in run.train(task(), 1_000)])
    folder = tmp_path / "two"
    with memstore.open(tmp_path / "store") as store:
        server = Server(store, "127.0.0.1:0").start()
        try:
            with memstore.connect(server.address, deadline_s=LONG_S) as client:
                Run.build(folder, short, task(), lambda *told: None, client)
            told = {"folder": str(folder), "address": server.address, "size": 2}
            members = [
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "tests.training.sam_member"),
                        json.dumps(told | {"rank": rank}),
                    ],
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
            with (
                memstore.connect(server.address, deadline_s=LONG_S) as client,
                Run(folder, client) as run,
            ):
                assert client.memory("facts").describe().config.shards == 4
                losses.append([step.loss for step in run.steps])
        finally:
            server.close(0.0)
    one, two = losses
    np.testing.assert_allclose(two, one, rtol=5e-3)
