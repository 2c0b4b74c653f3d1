"""From simple questions to what a network scores: bags of n-grams, candidates, facts as symbols.

Letters: Q questions, E candidate entities, K facts, O objects of a fact, B facts looked up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memstore import NO_SLOT, Memory
from memstore.memory import Slots
from models.simple_qa import Bag, Facts
from models.tasks import answers
from models.tasks.asking import slots_of
from models.tasks.memories import KnowledgeMemories
from models.tasks.naming import Namer
from models.tasks.simple_questions import grams


class SimpleReader:
    """Reads questions and facts.

    key_limit: facts of an entity that are looked at, at most. objects: of a fact that its bag has,
    the first so many; 0 leaves them out.
    """

    def __init__(
        self, memories: KnowledgeMemories, namer: Namer, *, key_limit: int, objects: int
    ) -> None:
        self.memories, self.namer = memories, namer
        self.key_limit, self.objects = key_limit, objects

    def read(self, texts: Sequence[str]) -> tuple[Bag, Slots]:
        """The bags of questions, and their candidate subjects `[Q, E]`, the likeliest first,
        E ≥ 1."""
        named = self.namer.read(texts)
        words_QW = slots_of(self.memories.words, [grams(text) for text in texts])
        return Bag(words_QW, named.names_QN), at_least_one(named.entities_QE)

    def proposed(self, entities_QE: Slots, limit: int | None = None) -> Slots:
        """The facts of entities: `facts_of`.  limit: in place of `key_limit`."""
        limit = self.key_limit if limit is None else limit
        return facts_of(self.memories.facts, entities_QE, limit)

    def facts(self, slots_QK: Slots) -> Facts:
        """The symbols of facts."""
        there_QK = slots_QK != NO_SLOT
        records = self.memories.facts.gather(
            slots_QK[there_QK],
            vectors=False,
            columns=["subject", "relation", *(["objects"] if self.objects else [])],
            list_limit=max(self.objects, 1),
        ).records
        assert records is not None
        columns = []
        for name in ("subject", "relation"):
            columns.append(np.full(slots_QK.shape, NO_SLOT))
            columns[-1][there_QK] = records[name].to_numpy()
        objects_QKO = None
        if self.objects:
            listed = records["objects"].combine_chunks()
            counts_B = np.diff(listed.offsets.to_numpy()).astype(np.int64)
            objects_BO = answers.ragged(listed.flatten().to_numpy(), counts_B)
            objects_QKO = np.full((*slots_QK.shape, objects_BO.shape[1]), NO_SLOT)
            objects_QKO[there_QK] = objects_BO
        return Facts(columns[0], columns[1], objects_QKO)


def facts_of(facts: Memory, entities_QE: Slots, limit: int) -> Slots:
    """The facts of entities, by their record `subject`, at most so many of each, in the order of
    the entities, `[Q, K]`, `NO_SLOT` padded, K ≥ 1."""
    there_QE = entities_QE != NO_SLOT
    found = facts.lookup("subject", entities_QE[there_QE], limit)
    question_B = np.repeat(np.nonzero(there_QE)[0], found.counts_Q)
    return at_least_one(
        answers.ragged(found.slots, np.bincount(question_B, minlength=len(there_QE)))
    )


def at_least_one(slots_QX: Slots) -> Slots:
    """Puts a column of `NO_SLOT` where there is none."""
    return slots_QX if slots_QX.shape[1] else np.full((len(slots_QX), 1), NO_SLOT)
