"""Facts of another base, linked in: a network answers by them what it never learnt of.

Each fact is a row of the memory `linked`, W_VS h(y) over its length (`models.simple_qa`): a subject
that bears the name of an entity is that entity, else it is its words, and so is the relation. What
was learnt of questions makes the rows; those made before go on standing for what was learnt then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from memstore import NO_SLOT, MemoryConfig
from memstore.memory import Slots
from models.simple_qa import SimpleQA
from models.tasks.answers import lists
from models.tasks.asking import slots_of
from models.tasks.knowledge import ALIAS_SCHEMA, KnowledgeBase
from models.tasks.linking import AliasIndex, words
from models.tasks.memories import BLOCK
from models.tasks.naming import Namer
from models.tasks.simple_questions import grams, spelt
from models.tasks.simple_reading import SimpleReader, at_least_one, facts_of
from workers.checkpoints import Holder

NAME = "linked"


@dataclass(frozen=True)
class Chosen:
    """The facts proposed for Q questions, numbers of the other base `[Q, K]`, `NO_SLOT` padded,
    and their scores, −inf there."""

    subject_QK: Slots
    relation_QK: Slots
    scores_QK: np.ndarray


class Linked:
    """Links a base in, and chooses among its facts.

    shared: the share of its subjects that bear the name of an entity of the network's own base.
    """

    def __init__(
        self, holder: Holder, network: SimpleQA, reader: SimpleReader, base: KnowledgeBase
    ) -> None:
        self._network, self._reader = network, reader
        names = base.entities["name"].to_pylist()
        forms = [spelt(name) for name in names]
        listed = [(form, number) for number, own in enumerate(forms) for form in own]
        table = pa.table([[f for f, _ in listed], [n for _, n in listed]], schema=ALIAS_SCHEMA)
        own = reader.namer
        self._namer = Namer(AliasIndex.build(table, base.weights), names=own.names, each=own.each)
        bearers = [own.aliases.candidates(" ".join(words(name)))[:1] for name in names]
        entity_N = at_least_one(lists(bearers))[:, 0]
        subject_G, relation_G, _, _ = base.columns()
        self.shared = float(np.mean(entity_N[np.unique(subject_G)] != NO_SLOT))
        bags = [
            [] if e != NO_SLOT else grams(name) for e, name in zip(entity_N, names, strict=True)
        ]
        relations = [grams(name) for name in base.relations]
        self.memory = holder.create(
            NAME,
            MemoryConfig(
                dim=network.words.memory.config.dim,
                index="none",
                records={"subject": "int64", "relation": "int64"},
                lookup=("subject",),
            ),
        )
        for start in range(0, len(subject_G), BLOCK):
            subject_B, relation_B = (c[start : start + BLOCK] for c in (subject_G, relation_G))
            told = [[*bags[s], *relations[r]] for s, r in zip(subject_B, relation_B, strict=True)]
            words_BW = slots_of(network.words.memory, told)
            with torch.no_grad():
                nobody_B = np.full(len(subject_B), NO_SLOT)
                rows_BD = network.encode_linked(entity_N[subject_B], nobody_B, words_BW)
            records = {"subject": subject_B, "relation": relation_B}
            self.memory.append(rows_BD.numpy(), None, records)

    def choose(self, texts: Sequence[str]) -> Chosen:
        """Scores the facts of the subjects that questions may be about: equation 100."""
        bag, _ = self._reader.read(texts)
        subjects_QE = self._namer.read(texts).entities_QE
        slots_QK = facts_of(self.memory, subjects_QE, self._reader.key_limit)
        there_QK = slots_QK != NO_SLOT
        found = self.memory.gather(slots_QK[there_QK], columns=["subject", "relation"])
        assert found.keys_BD is not None
        assert found.records is not None
        subject_QK, relation_QK = (np.full(slots_QK.shape, NO_SLOT) for _ in range(2))
        subject_QK[there_QK] = found.records["subject"].to_numpy()
        relation_QK[there_QK] = found.records["relation"].to_numpy()
        with torch.no_grad():
            query_QD = self._network.encode(bag).numpy()
        scores_QK = np.full(slots_QK.shape, -np.inf)
        question_B = np.nonzero(there_QK)[0]
        scores_QK[there_QK] = np.einsum("bd,bd->b", query_QD[question_B], found.keys_BD)
        return Chosen(subject_QK, relation_QK, scores_QK)
