"""The factual memory network: `models.factual`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from memstore import NO_SLOT
from memstore.memory import Array, Slots
from models import factual
from models.asked import Asked
from models.factual import FactualMN, Layer
from models.tasks.answers import ragged
from models.tasks.memories import Initial
from workers.answering import Answers, Lesson
from workers.checkpoints import Holder
from workers.figures import Published
from workers.group import Group
from workers.learner import Network
from workers.networks import knowledge
from workers.networks.knowledge import Knowledge, KnowledgeLearner
from workers.networks.knowledge_recipe import KnowledgeRecipe

INITIAL = Initial(entity=0.5, relation=1.0, word=1.0, relation_share=0.5, gathered=0.0)
"""Entities are found by lookup, so that they need not stand out by their length."""


@dataclass(frozen=True, kw_only=True)
class FactualRecipe(KnowledgeRecipe):
    """Facts are looked up from the linked entity on, and never searched for.

    layers: L.  prune: ε.  kept: facts of F' at most.  objects: of a fact that are looked at.
    wider: times as many facts and objects in tests.
    """

    network: str = "factual"
    task: str = "metaqa-2hop"
    steps: int = 400
    batch: int = 64
    list_limit: int = 256
    questions: int = 20_000
    test_questions: int = 2_000
    layers: int = 2
    prune: float = 0.1
    kept: int = 32
    objects: int = 16
    wider: int = 4

    LEAST: ClassVar = {**KnowledgeRecipe.LEAST, "prune": 0}

    def searched(self, step: int) -> bool:
        return False

    def refreshed(self, step: int) -> bool:
        return False


class FactualAnswering:
    """Trains and tests the network."""

    def __init__(self, known: Knowledge) -> None:
        recipe = known.recipe
        assert isinstance(recipe, FactualRecipe)
        self.recipe = recipe
        self.module = FactualMN(
            known.words,
            known.entities,
            known.relations,
            known.memories.facts,
            layers=recipe.layers,
            prune=recipe.prune,
            branch=recipe.key_limit,
        )
        own = list(self.module.parameters())
        self.dense = torch.optim.Adam(own, lr=recipe.dense_lr) if own else None

    def propose(self, asked: Asked) -> Asked:
        return asked

    def loss(self, parallel: nn.Module, lesson: Lesson) -> tuple[Tensor, float]:
        self.module.train()
        self.module.kept, self.module.objects = self.recipe.kept, self.recipe.objects
        return factual.layers_loss(parallel(lesson.asked), lesson.right_QA[lesson.own])

    def answer(self, asked: Asked) -> Answers:
        self.module.eval()
        wider = self.recipe.wider
        self.module.kept, self.module.objects = (
            wider * self.recipe.kept,
            wider * self.recipe.objects,
        )
        with torch.no_grad():
            traced = self.module(asked)
        answers_QC, scores_QC = factual.answers(traced, asked.entity_Q)
        scored = sum(int((layer.slots_QF != NO_SLOT).sum()) for layer in traced.layers)
        return Answers(answers_QC, scores_QC, *_side_by_side(traced.layers), scored)


def _side_by_side(layers: Sequence[Layer]) -> tuple[Slots, Array]:
    """The facts of all layers, each once a question, `[Q, K]`, and what each layer gave them,
    `[L, Q, K]`."""
    at = [np.nonzero(layer.slots_QF != NO_SLOT) for layer in layers]
    slots = [layer.slots_QF[on] for layer, on in zip(layers, at, strict=True)]
    span = 1 + max(int(own.max(initial=0)) for own in slots)
    # A pair of a question and a fact is one number.
    pairs = [on[0] * span + own for on, own in zip(at, slots, strict=True)]
    pairs_U = np.unique(np.concatenate(pairs))
    question_U, counts_Q = (
        pairs_U // span,
        np.bincount(pairs_U // span, minlength=len(layers[0].slots_QF)),
    )
    column_U = np.arange(len(pairs_U)) - (np.cumsum(counts_Q) - counts_Q)[question_U]
    slots_QK = ragged(pairs_U % span, counts_Q)
    weights_HQK = np.zeros((len(layers), *slots_QK.shape), np.float32)
    for hop, (layer, on, own) in enumerate(zip(layers, at, pairs, strict=True)):
        column = column_U[np.searchsorted(pairs_U, own)]
        weights_HQK[hop, on[0], column] = layer.weights_QF.numpy()[on]
    return slots_QK, weights_HQK


def metaqa(hops: int) -> FactualRecipe:
    """MetaQA, so many facts away; trained on the official development set alone."""
    if hops < 3:
        return FactualRecipe(task=f"metaqa-{hops}hop", layers=hops)
    return FactualRecipe(
        task="metaqa-3hop", layers=3, steps=300, batch=48, kept=24, objects=8, wider=8
    )


def freebase() -> FactualRecipe:
    """Files of facts, ingested: as many as FB5M has, or `--set facts=N`."""
    return FactualRecipe(
        task="freebase",
        layers=1,
        key_limit=64,
        row_lr=0.05,
        questions=100_000,
        test_questions=4_000,
    )


def open_(recipe: FactualRecipe, holder: Holder, folder: Path, group: Group) -> KnowledgeLearner:
    known = Knowledge(recipe, holder, folder, group)
    return KnowledgeLearner(known, FactualAnswering, searches=False)


NETWORK = Network(
    recipe=FactualRecipe,
    recipes={
        **{f"metaqa-{hops}hop": partial(metaqa, hops) for hops in (2, 3, 1)},
        "freebase": freebase,
    },
    read=knowledge.read,
    build=partial(knowledge.build, initial=INITIAL, indexed=False),
    open=open_,
    published={
        f"metaqa-{hops}hop": Published(
            figure=figure,
            source="a key-value memory network, Sun et al. 2018, arXiv 1809.00782",
            note="It learnt of the official training questions; here of the development set alone, "
            "over a base that lacks 4 % of the facts.",
        )
        for hops, figure in ((1, 0.962), (2, 0.827), (3, 0.489))
    },
)
