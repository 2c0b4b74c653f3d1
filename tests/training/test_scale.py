"""200,000 facts, as at any size: made, ingested, learnt from, kept, served and asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import memstore
from memstore import SearchOptions
from tests.benchmarks.served import served
from tests.ingest.measured import resident
from workers.cli import main
from workers.evaluate import bytes_of
from workers.networks.knowledge import KnowledgeLearner
from workers.run import Run

FACTS, STEPS = 200_000, 60
SETTINGS = (
    *(f"facts={FACTS}", "questions=20000", "test_questions=500"),
    *(f"steps={STEPS}", "hashed_steps=40", "refresh_steps=20", "batch=128"),
)

MOST_BYTES = 600 << 20
"""That the run holds beyond what was held before it, libraries and kernels among it."""

MOST_OF_A_FACT = 1_000
"""Bytes of all memories."""

K, ASKED = 10, 100
LONG_S = 300.0


def test_the_whole_way_at_200_000_facts(tmp_path: Path) -> None:
    folder, store = tmp_path / "run", tmp_path / "served"
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    fit = ["fit", "--recipe", "freebase", *(f"--set={each}" for each in SETTINGS)]
    assert main([*fit, "--out", str(folder)]) == 0
    held = resident("VmHWM") - before
    assert held < MOST_BYTES
    with served(store) as address, memstore.connect(address, deadline_s=LONG_S) as client:
        # Its snapshot is put into the server.
        with Run(folder, client) as run:
            hashed, searched = run.evaluate(run.base())
            learner = run.learner
            assert isinstance(learner, KnowledgeLearner)
            asked = learner.known.asks(None, split="test", count=ASKED, seed=0, popular_share=0.0)
            replies = learner.reply([question.text for question in asked], searched=True)
            right = [
                reply.answers[0][0] in learner.memories.named(question.answers)
                for question, reply in zip(asked, replies, strict=True)
                if reply.ambiguity == 1
            ]
        facts = client.memory("facts")
        rows = facts.describe().rows
        assert sum(bytes_of(client.memory(name)) for name in client.list()) < MOST_OF_A_FACT * FACTS
        keys_QD = facts.gather(np.arange(0, rows, rows // ASKED)).keys_BD
        assert keys_QD is not None
        found, true = (
            facts.search(keys_QD, K, options).scores_QK
            for options in (SearchOptions(probe=16), SearchOptions(exact=True))
        )
        recall = float((found >= true[:, -1:] - 1e-4).mean())
    print(held, hashed.hits_1, searched.hits_1, searched.candidate_recall, recall)
    # Linked rightly, by each way of proposing facts; then from text to answer.
    assert min(hashed.hits_1, searched.hits_1) > 0.8
    assert np.mean(right) > 0.8
    assert searched.candidate_recall is not None
    assert searched.candidate_recall > 0.95
    assert recall > 0.9
