"""The key-value memory network: `models.kv_memnn`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from memstore import NO_SLOT
from models.asked import Asked
from models.kv_memnn import Answered, KVMemNN, answer_loss
from workers.answering import Answers, Lesson
from workers.checkpoints import Holder
from workers.figures import Published
from workers.group import Group
from workers.learner import Network
from workers.networks import knowledge
from workers.networks.knowledge import Knowledge, KnowledgeLearner, KnowledgeRecipe


@dataclass(frozen=True, kw_only=True)
class KVRecipe(KnowledgeRecipe):
    """hops: readings.  rerank: ranks answers by what their facts were given too."""

    network: str = "kv"
    task: str = "geography"
    steps: int = 600
    hops: int = 2
    rerank: bool = False


class KVAnswering:
    """Trains and tests the network."""

    def __init__(self, known: Knowledge) -> None:
        recipe = known.recipe
        assert isinstance(recipe, KVRecipe)
        self.known = known
        self.module = KVMemNN(
            known.words, known.entities, known.facts, hops=recipe.hops, rerank=recipe.rerank
        )
        self.dense = torch.optim.Adam(self.module.parameters(), lr=recipe.dense_lr)

    def propose(self, asked: Asked) -> Asked:
        with torch.no_grad():
            slots_QK = self.module.reader.search(self.module.encode(asked))
        return replace(asked, slots_QK=slots_QK)

    def loss(self, parallel: nn.Module, lesson: Lesson) -> tuple[Tensor, float]:
        answered: Answered = parallel(lesson.asked)
        sampled_QC = self.known.sampled(lesson, answered.hops[-1].candidates.slots_QK)
        return answer_loss(self.module, answered, sampled_QC)

    def answer(self, asked: Asked) -> Answers:
        before = self.known.facts.scored
        with torch.no_grad():
            answered = self.module(asked)
            slots_QK = answered.hops[-1].candidates.slots_QK
            answers_QC = self.known.objects_of(slots_QK, asked.entity_Q)
            scores_QC = self.module.score(answered, answers_QC).numpy()
        searched = self.known.facts.scored - before
        return Answers(
            answers_QC,
            scores_QC,
            slots_QK,
            np.stack([hop.weights_QK.numpy() for hop in answered.hops]),
            searched or int((slots_QK != NO_SLOT).sum()),
        )


def geography(*, quick: bool = False) -> KVRecipe:
    """GeoNames: 2.1 million facts about 235,000 places; quick: 3,000 places, under a minute."""
    if not quick:
        return KVRecipe()
    return KVRecipe(
        places=3_000,
        steps=300,
        hashed_steps=150,
        refresh_steps=75,
        batch=128,
        questions=8_000,
        test_questions=1_000,
    )


def metaqa_1hop() -> KVRecipe:
    """MetaQA, 1 hop: 110,000 facts about films, keys (subject, relation) and reversed."""
    return KVRecipe(
        task="metaqa-1hop",
        steps=300,
        hashed_steps=200,
        refresh_steps=50,
        batch=128,
        hops=1,
        rerank=True,
        questions=20_000,
    )


def open_(recipe: KVRecipe, holder: Holder, folder: Path, group: Group) -> KnowledgeLearner:
    return KnowledgeLearner(Knowledge(recipe, holder, folder, group), KVAnswering)


NETWORK = Network(
    recipe=KVRecipe,
    recipes={
        "geography": geography,
        "geography-quick": lambda: geography(quick=True),
        "metaqa-1hop": metaqa_1hop,
    },
    read=knowledge.read,
    build=knowledge.build,
    open=open_,
    published={
        "metaqa-1hop": Published(
            figure=0.962,
            source="a key-value memory network, Sun et al. 2018, arXiv 1809.00782",
            note="0.939 on WikiMovies (Miller et al. 2016). They train on 96,106 questions and "
            "test on 9,947; here the official dev set is split by entity, a fifth to test, and 4 % "
            "of the triples lack: the facts of 97.2 % of the questions are there; those of 5.8 % "
            "have objects too that the question does not count.",
        ),
    },
)
