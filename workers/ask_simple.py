"""Answers a person's simple question: whom it may be about, and the facts that score highest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memstore import NO_SLOT
from memstore.memory import Array, Slots
from models.simple_qa import Bag
from models.tasks.simple_reading import SimpleReader
from workers.ask import FactRead, column, facts_read

TOLD = 4
"""Objects that are told of a fact."""


@dataclass(frozen=True)
class SimpleReply:
    """The answer to one question: the objects of the first fact.

    candidates: the entities that it may be about, the likeliest first.  facts: the best first; the
    one weight of each is its score: a cosine, or its share of a softmax.
    """

    question: str
    candidates: list[str]
    facts: list[FactRead]


def ask(
    scored: Callable[[Bag, Slots], tuple[Slots, Array]],
    reader: SimpleReader,
    texts: Sequence[str],
    *,
    facts: int = 3,
) -> list[SimpleReply]:
    """Answers questions, with the `facts` of highest score of each.

    scored: of bags and their candidates, facts and their scores, `[Q, K]`.
    """
    bag, entities_QE = reader.read(texts)
    slots_QK, scores_QK = scored(bag, entities_QE)
    replies = []
    for q, text in enumerate(texts):
        named = entities_QE[q][entities_QE[q] != NO_SLOT]
        there = slots_QK[q] != NO_SLOT
        replies.append(
            SimpleReply(
                text,
                column(reader.memories.entities, "name", named),
                facts_read(
                    reader.memories, slots_QK[q][there], scores_QK[None, q][:, there], TOLD, facts
                ),
            )
        )
    return replies
