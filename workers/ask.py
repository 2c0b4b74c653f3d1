"""Answers a person's question: what was understood, read at each hop, and answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from memstore import NO_SLOT, Memory
from memstore.memory import Slots
from models.tasks.asking import QuestionReader
from models.tasks.memories import KnowledgeMemories
from workers.answering import Answering


@dataclass(frozen=True)
class FactRead:
    """One fact that was read and the weight that each hop gave it."""

    subject: str
    relation: str
    objects: list[str]
    more: int
    weights: list[float]


@dataclass(frozen=True)
class Reply:
    """The answer to one question. mention, entity: what the question was understood to be about,
    of how many entities of that name; answers: best first, with probabilities among candidates."""

    question: str
    mention: str
    entity: str
    ambiguity: int
    answers: list[tuple[str, float]]
    facts: list[FactRead]


def ask(
    network: Answering,
    reader: QuestionReader,
    texts: list[str],
    *,
    key_limit: int | None,
    list_limit: int,
    facts: int = 3,
) -> list[Reply]:
    """Answers questions, with the `facts` most read facts of each."""
    questions = reader.read(texts)
    said = network.answer(reader.ask(questions, np.arange(len(texts)), key_limit))
    answers_QC, slots_QK, weights_HQK = said.answers_QC, said.slots_QK, said.weights_HQK
    chances_QC = torch.softmax(torch.from_numpy(said.scores_QC), dim=1).numpy()
    replies = []
    for q, text in enumerate(texts):
        mention, entity = questions.mentions[q], int(questions.entity_Q[q])
        best = np.argsort(-chances_QC[q], kind="stable")[:3]
        best = best[answers_QC[q, best] != NO_SLOT]
        names = reader.memories.named(answers_QC[q, best])
        replies.append(
            Reply(
                question=text,
                mention="" if mention is None else mention.text,
                entity="" if entity == NO_SLOT else describe(reader, entity),
                ambiguity=0 if mention is None else mention.ambiguity,
                # Without an entity there is nothing to look for: what a search finds is chance.
                answers=[]
                if entity == NO_SLOT
                else [(n, float(chances_QC[q, c])) for n, c in zip(names, best, strict=True)],
                facts=facts_read(
                    reader.memories, slots_QK[q], weights_HQK[:, q], list_limit, facts
                ),
            )
        )
    return replies


def describe(reader: QuestionReader, entity: int) -> str:
    """A name that tells entities of equal names apart: "Kyoto (Japan)"."""
    memories = reader.memories
    [name] = memories.named(np.array([entity]))
    slots = memories.facts.lookup("subject", [entity], 64).slots
    relations = column(memories.facts, "relation", slots)
    country = column(memories.relations, "name", np.array(relations, np.int64))
    if "country" not in country:
        return name
    lists = column(memories.facts, "objects", slots[[country.index("country")]])
    return f"{name} ({memories.named(np.array(lists[0][:1]))[0]})"


def facts_read(
    memories: KnowledgeMemories,
    slots_K: Slots,
    weights_HK: np.ndarray,
    list_limit: int,
    count: int,
) -> list[FactRead]:
    """The `count` facts that any reading gave most, with the first `list_limit` objects of each."""
    top = np.argsort(-weights_HK.max(axis=0), kind="stable")[:count]
    top = top[slots_K[top] != NO_SLOT]
    records = memories.facts.gather(
        slots_K[top], vectors=False, columns=["subject", "relation", "objects"]
    ).records
    assert records is not None
    read = []
    for k, record in zip(top, records.to_pylist(), strict=True):
        objects = record["objects"][:list_limit]
        read.append(
            FactRead(
                subject=memories.named(np.array([record["subject"]]))[0],
                relation=column(memories.relations, "name", np.array([record["relation"]]))[0],
                objects=memories.named(np.array(objects, np.int64)),
                more=len(record["objects"]) - len(objects),
                weights=[float(weight) for weight in weights_HK[:, k]],
            )
        )
    return read


def column(memory: Memory, name: str, slots: Slots) -> list:
    """The records of slots in one column."""
    records = memory.gather(slots, vectors=False, columns=[name]).records
    assert records is not None
    return records[name].to_pylist()
