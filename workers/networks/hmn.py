"""The hierarchical memory network: `models.hmn`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from memstore import NO_SLOT
from memstore.memory import Array, Slots
from memstore.torch import SparseReader
from models.asked import Asked
from models.hmn import HMN, Propose, cell_loss, everything, heaviest
from models.kv_memnn import Answered
from models.tasks import answers
from models.tasks.knowledge import KnowledgeBase
from models.tasks.memories import Progress
from models.tasks.simple_questions import SimpleQuestions
from workers.answering import Answers, Lesson
from workers.checkpoints import Holder
from workers.group import Group
from workers.learner import Network
from workers.networks import hmn_simple, knowledge
from workers.networks.hmn_recipe import HMNRecipe
from workers.networks.hmn_simple import NamedLearner
from workers.networks.ingested import FactFiles
from workers.networks.knowledge import Knowledge, KnowledgeLearner
from workers.tasks import SimpleTask, task_of


class HMNAnswering:
    """Trains and tests the network."""

    def __init__(self, known: Knowledge) -> None:
        recipe = known.recipe
        assert isinstance(recipe, HMNRecipe)
        self.known, self.memory = known, known.memories.facts
        # Who trains reads more than who tests, and counts its searches, which a checkpoint has.
        self.tested = SparseReader(
            self.memory,
            k=recipe.k,
            options=recipe.tested,
            parts=known.facts.parts.values(),
            list_limit=known.facts.list_limit,
            spare=recipe.spare,
        )
        known.facts.options = recipe.taught
        self.full: Propose | None = None
        if recipe.read == "all":
            self.full = everything(np.arange(self.memory.describe().next_slot))
        self.module = HMN(known.words, known.entities, known.facts, propose=self.full)
        self.dense = torch.optim.Adam(self.module.parameters(), lr=recipe.dense_lr)

    def propose(self, asked: Asked) -> Asked:
        with torch.no_grad():
            return replace(asked, slots_QK=self.module.propose(self.module.encode(asked)))

    def loss(self, parallel: nn.Module, lesson: Lesson) -> tuple[Tensor, float]:
        asked = lesson.asked
        right_QR = self._right(asked.entity_Q, lesson.relations_QP[lesson.own, 0])
        answered: Answered = parallel(asked, right_QR)
        return cell_loss(answered.hops[0], right_QR)

    def _right(self, subject_Q: Slots, relation_Q: Slots) -> Slots:
        """The facts asked for, `[Q, 1]`."""
        relations = self.known.memories.relations.describe().next_slot
        return answers.facts_of(self.memory, subject_Q, relation_Q, relations)[:, None]

    def answer(self, asked: Asked) -> Answers:
        """The objects of the cells read, each by the weights of those that have it."""
        before = self.tested.scored
        with torch.no_grad():
            query_QD = self.module.encode(asked)
            slots_QK = asked.slots_QK
            if slots_QK is None:
                slots_QK = (self.full or self.tested.search)(query_QD)
            read = slots_QK.size * len(asked) // len(slots_QK)
            slots_QK, weights = heaviest(self.tested, query_QD, slots_QK)
        found = answers.weighed(*self._objects(slots_QK, weights), asked.entity_Q)
        scored = self.tested.scored - before or read
        return Answers(*found, slots_QK, weights[None], scored)

    def _objects(self, slots_QK: Slots, weights_QK: Array) -> tuple[Slots, Slots, Array]:
        """The objects of cells, with their questions and the weights of their cells."""
        there_QK = slots_QK != NO_SLOT
        records = self.memory.gather(
            slots_QK[there_QK],
            vectors=False,
            columns=["objects"],
            list_limit=self.known.recipe.list_limit,
        ).records
        assert records is not None
        objects = records["objects"].combine_chunks()
        counts_B = np.diff(objects.offsets.to_numpy())
        question_E = np.repeat(np.nonzero(there_QK)[0], counts_B)
        weight_E = np.repeat(weights_QK[there_QK], counts_B)
        return question_E, np.asarray(objects.flatten().to_numpy()), weight_E


def geography(*, quick: bool = False) -> HMNRecipe:
    """GeoNames: 1.1 million facts about 110,000 places; quick: 3,000 places, under a minute."""
    if not quick:
        return HMNRecipe(places=110_000)
    return HMNRecipe(
        places=3_000, steps=100, batch=128, refresh_steps=50, questions=8_000, test_questions=1_000
    )


def taxonomy() -> HMNRecipe:
    """NCBI Taxonomy: a million facts about the 115,000 taxa that have most others below them."""
    return HMNRecipe(task="taxonomy", places=115_000)


def freebase() -> HMNRecipe:
    """Files of facts, ingested: as many as FB5M has, or `--set facts=N`. To encode all of so many
    anew takes longer than 200 steps, so that is done twice and not four times."""
    return HMNRecipe(task="freebase", row_lr=0.05, questions=100_000, refresh_steps=200)


def simple_dbpedia() -> HMNRecipe:
    """SimpleDBpediaQA over all facts of its base. By old sums more of the K are missed than
    elsewhere, before facts are encoded anew the first time: so more are proposed beside them."""
    return HMNRecipe(task="simple-dbpedia", steps=100, batch=64, refresh_steps=20, spare=100)


def read(recipe: HMNRecipe) -> KnowledgeBase | FactFiles | SimpleQuestions:
    """Reads the knowledge base, or the simple questions with theirs."""
    task = task_of(recipe.task, object)
    return hmn_simple.read(recipe, task) if isinstance(task, SimpleTask) else knowledge.read(recipe)


def build(
    recipe: HMNRecipe,
    base: KnowledgeBase | FactFiles | SimpleQuestions,
    holder: Holder,
    folder: Path,
    told: Progress,
) -> None:
    """Fills the memories."""
    if isinstance(base, SimpleQuestions):
        hmn_simple.build(recipe, base, holder, folder, told)
    else:
        knowledge.build(recipe, base, holder, folder, told)


def open_(
    recipe: HMNRecipe, holder: Holder, folder: Path, group: Group
) -> KnowledgeLearner | NamedLearner:
    if isinstance(task_of(recipe.task, object), SimpleTask):
        return NamedLearner(recipe, holder, folder, group)
    return KnowledgeLearner(Knowledge(recipe, holder, folder, group), HMNAnswering)


NETWORK = Network(
    recipe=HMNRecipe,
    recipes={
        "geography": geography,
        "geography-quick": lambda: geography(quick=True),
        "taxonomy": taxonomy,
        "freebase": freebase,
        "simple-dbpedia": simple_dbpedia,
    },
    read=read,
    build=build,
    open=open_,
    published={},
)
