"""Evaluation: answers right, how far down they rank, and what was lost before the network read.

Three things go wrong on the way to an answer and are counted apart: the entity is linked wrongly,
the fact is not among those proposed, the network picks another answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from memstore import NO_SLOT, Memory
from memstore.memory import Slots
from models.tasks import answers
from models.tasks.asking import QuestionReader
from models.tasks.memories import KnowledgeMemories
from models.tasks.questions import Question
from workers.answering import Answering, Answers
from workers.figures import Confusion, Evaluation

BATCH = 256

SHOWN = 100
"""Relations that are told one by one; where there are more, no pairs of them are."""

LONGEST = 10_000
"""Objects of a fact that are looked at, to say whether an answer is one of them."""


def evaluate(
    network: Answering,
    reader: QuestionReader,
    questions: list[Question],
    *,
    key_limit: int | None,
    list_limit: int,
) -> Evaluation:
    """Answers the questions on facts proposed by key hashing; with key_limit None by search.

    `hits_1`, `candidate_recall` and the mean reciprocal rank are over the questions whose entity
    was linked rightly. The candidate of a question along one relation is its fact; along several,
    or where documents are read, a right answer. The confusion is of the relation asked for, and
    that of the fact read most.
    """
    read = reader.read([question.text for question in questions])
    subject_Q = np.array([question.subject for question in questions])
    relation_Q = np.array([question.relation for question in questions])
    facts = reader.by == "subject"
    single_Q = np.array([facts and len(question.relations) == 1 for question in questions])
    rank_Q, found_Q, truncated_Q = (np.zeros(len(questions), np.int64) for _ in range(3))
    held_Q = np.zeros(len(questions), bool)
    top_Q = np.full(len(questions), NO_SLOT)
    scored, start = 0, time.perf_counter()
    for first in range(0, len(questions), BATCH):
        at = np.arange(first, min(first + BATCH, len(questions)))
        right_QA = answers.lists([questions[i].answers for i in at])
        said = network.answer(reader.ask(read, at, key_limit))
        scored += said.scored
        rank_Q[at] = answers.first_right(said.answers_QC, said.scores_QC, right_QA)
        fact_subject_QK, fact_relation_QK = _facts(reader, said.slots_QK)
        asked_QK = (fact_subject_QK == subject_Q[at, None]) & (
            fact_relation_QK == relation_Q[at, None]
        )
        held_Q[at] = _held(reader.memories.facts, said, asked_QK)
        found_Q[at] = np.where(single_Q[at], asked_QK.any(axis=1), rank_Q[at] > 0)
        if said.slots_QK.shape[1]:
            top_Q[at] = fact_relation_QK[np.arange(len(at)), said.weights_HQK[-1].argmax(axis=1)]
        if key_limit is not None:
            truncated_Q[at] = reader.hashed(read.entity_Q[at], key_limit)[-1]
    seconds = time.perf_counter() - start
    linked_Q = read.entity_Q == subject_Q
    names = _names(reader)
    alone_Q = np.array([m is not None and m.ambiguity == 1 for m in read.mentions], bool)
    shown_Q = linked_Q & (top_Q != NO_SLOT) & single_Q
    counts_Q = np.array([len(question.answers) for question in questions])
    hit_Q = rank_Q == 1
    return Evaluation(
        case="inner product search" if key_limit is None else "key hashing",
        questions=len(questions),
        hits_1=_mean(hit_Q[linked_Q]),
        candidate_recall=_mean(found_Q[linked_Q]),
        scored=scored / len(questions),
        seconds=seconds,
        bytes=sum(map(bytes_of, _all(reader.memories))),
        more=_held_by_base(held_Q[linked_Q & single_Q])
        | {
            "mean reciprocal rank": _mean(
                np.where(rank_Q > 0, 1.0 / np.maximum(rank_Q, 1), 0.0)[linked_Q]
            ),
            "entity linked rightly": float(linked_Q.mean()),
            "names shared by several entities": float(
                np.mean([m is not None and m.ambiguity > 1 for m in read.mentions])
            ),
            "hits@1 from text to answer": float(hit_Q.mean()),
            "hits@1 from text to answer, of names of one entity": _mean(hit_Q[alone_Q]),
            "lookups cut by their limit": float(truncated_Q.mean()),
            "right answers behind the list limit": float(
                np.maximum(counts_Q - list_limit, 0).sum() / counts_Q.sum()
            ),
        },
        kinds=_kinds(questions, names, linked_Q, hit_Q, found_Q),
        confusion=_confusion(names, relation_Q[shown_Q], top_Q[shown_Q]),
    )


def _held(facts: Memory, said: Answers, asked_QK: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether the first answer of each question is an object of the fact that was asked for."""
    if not said.answers_QC.size or not asked_QK.size:
        return np.zeros(len(asked_QK), bool)
    every_Q = np.arange(len(asked_QK))
    first_Q = said.answers_QC[every_Q, said.scores_QC.argmax(axis=1)]
    slot_Q = np.where(
        asked_QK.any(axis=1), said.slots_QK[every_Q, asked_QK.argmax(axis=1)], NO_SLOT
    )
    flat, counts_QK = answers.objects(facts, slot_Q[:, None], LONGEST)
    return answers.is_right(first_Q[:, None], answers.ragged(flat, counts_QK[:, 0]))[:, 0]


def _held_by_base(held_Q: npt.NDArray[np.bool_]) -> dict[str, float]:
    if not len(held_Q):
        return {}
    return {"first answer is an object of the fact asked for": _mean(held_Q)}


def _kinds(
    questions: Sequence[Question],
    names: list[str],
    linked_Q: npt.NDArray[np.bool_],
    hit_Q: npt.NDArray[np.bool_],
    found_Q: Slots,
) -> dict[str, tuple[int, float, float]]:
    """By path of relations, those most asked: questions linked, hits@1, candidate recall."""
    of: dict[tuple[int, ...], list[int]] = {}
    for q in np.flatnonzero(linked_Q).tolist():
        of.setdefault(questions[q].relations, []).append(q)
    return {
        " → ".join(names[relation] for relation in path): (
            len(on),
            _mean(hit_Q[on]),
            _mean(found_Q[on]),
        )
        for path, on in sorted(sorted(of.items(), key=lambda kind: -len(kind[1]))[:SHOWN])
    }


def _confusion(names: list[str], asked_Q: Slots, read_Q: Slots) -> Confusion | None:
    if len(names) > SHOWN:
        return None
    counts_RR = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts_RR, (asked_Q, read_Q), 1)
    return Confusion(names=names, counts=counts_RR.tolist()) if len(asked_Q) else None


def _facts(reader: QuestionReader, slots_QK: Slots) -> tuple[Slots, Slots]:
    """Subject and relation of each fact, `NO_SLOT` where there is none."""
    there_QK = slots_QK != NO_SLOT
    records = reader.memories.facts.gather(
        slots_QK[there_QK], vectors=False, columns=["subject", "relation"]
    ).records
    assert records is not None
    columns = []
    for name in ("subject", "relation"):
        column_QK = np.full(slots_QK.shape, NO_SLOT)
        column_QK[there_QK] = records[name].to_numpy()
        columns.append(column_QK)
    return columns[0], columns[1]


def _names(reader: QuestionReader) -> list[str]:
    relations = reader.memories.relations
    slots = np.arange(relations.describe().next_slot)
    records = relations.gather(slots, vectors=False, columns=["name"]).records
    assert records is not None
    names: list[str] = records["name"].to_pylist()
    return names


def _all(memories: KnowledgeMemories) -> tuple[Memory, ...]:
    found = memories.words, memories.entities, memories.relations, memories.facts
    return found if memories.answers is None else (*found, memories.answers)


def bytes_of(memory: Memory) -> int:
    """Bytes of main memory that rows, index and records take."""
    shards = memory.describe().shards
    return sum(shard.row_bytes + shard.index_bytes + shard.record_bytes for shard in shards)


def _mean(values: npt.NDArray[np.generic]) -> float:
    return float(values.mean()) if len(values) else 0.0
