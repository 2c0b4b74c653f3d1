"""Evaluation: answers right, how far down they rank, and what was lost before the network read.

Three things go wrong on the way to an answer and are counted apart: the entity is linked wrongly,
the fact is not among those proposed, the network picks another answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from memstore import NO_SLOT
from memstore.memory import Slots
from models.kv_memnn import KVMemNN
from models.tasks import answers
from models.tasks.asking import QuestionReader, Questions
from models.tasks.geography_questions import Question

BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """Figures of one test. Shares of questions; `hits_1`, `mrr` and `candidate_recall` are over
    the questions whose entity was linked rightly, `end_to_end` over all.

    ambiguous: the name in the question belongs to several entities. truncated: key hashing left
    facts out at its limit. beyond_limit: right answers that no question can reach, as they stand
    behind the first `list_limit` objects of their fact.
    confusion_RR: questions of relation i whose most attended fact, at the last hop, has relation
    j. by_relation: name → (questions linked, hits@1, candidate recall).
    """

    proposed_by: str
    questions: int
    linked: float
    ambiguous: float
    hits_1: float
    mrr: float
    candidate_recall: float
    end_to_end: float
    truncated: float
    beyond_limit: float
    questions_per_s: float
    by_relation: dict[str, tuple[int, float, float]]
    confusion_RR: list[list[int]]
    relations: list[str]


def evaluate(
    network: KVMemNN,
    reader: QuestionReader,
    questions: list[Question],
    *,
    key_limit: int | None,
    list_limit: int,
) -> Evaluation:
    """Answers the questions on facts proposed by key hashing; with key_limit None by search."""
    read = reader.read([question.text for question in questions])
    subject_Q = np.array([question.subject for question in questions])
    relation_Q = np.array([question.relation for question in questions])
    rank_Q, found_Q, truncated_Q = (np.zeros(len(questions), np.int64) for _ in range(3))
    top_Q = np.full(len(questions), NO_SLOT)
    start = time.perf_counter()
    for first in range(0, len(questions), BATCH):
        at = np.arange(first, min(first + BATCH, len(questions)))
        right = [questions[i].answers for i in at]
        right_QA = answers.ragged(np.concatenate(right), np.array([len(r) for r in right]))
        rank_Q[at], slots_QK, weights_QK = _answer(
            network, reader, read, at, key_limit, list_limit, right_QA
        )
        fact_subject_QK, fact_relation_QK = _facts(reader, slots_QK)
        asked_QK = (fact_subject_QK == subject_Q[at, None]) & (
            fact_relation_QK == relation_Q[at, None]
        )
        found_Q[at] = asked_QK.any(axis=1)
        if slots_QK.shape[1]:
            top_Q[at] = fact_relation_QK[np.arange(len(at)), weights_QK.argmax(axis=1)]
        if key_limit is not None:
            entity_Q = read.entity_Q[at]
            truncated_Q[at] = reader.memories.facts.lookup(
                "subject", entity_Q, key_limit
            ).truncated_Q
    seconds = time.perf_counter() - start
    linked_Q = read.entity_Q == subject_Q
    names = _names(reader)
    confusion_RR = np.zeros((len(names), len(names)), np.int64)
    shown_Q = linked_Q & (top_Q != NO_SLOT)
    np.add.at(confusion_RR, (relation_Q[shown_Q], top_Q[shown_Q]), 1)
    counts_Q = np.array([len(question.answers) for question in questions])
    hit_Q = rank_Q == 1
    return Evaluation(
        proposed_by="inner product search" if key_limit is None else "key hashing",
        questions=len(questions),
        linked=float(linked_Q.mean()),
        ambiguous=float(np.mean([m is not None and m.ambiguity > 1 for m in read.mentions])),
        hits_1=_mean(hit_Q[linked_Q]),
        mrr=_mean(np.where(rank_Q > 0, 1.0 / np.maximum(rank_Q, 1), 0.0)[linked_Q]),
        candidate_recall=_mean(found_Q[linked_Q]),
        end_to_end=float(hit_Q.mean()),
        truncated=float(truncated_Q.mean()),
        beyond_limit=float(np.maximum(counts_Q - list_limit, 0).sum() / counts_Q.sum()),
        questions_per_s=len(questions) / seconds,
        by_relation={
            names[r]: (int(on_Q.sum()), _mean(hit_Q[on_Q]), _mean(found_Q[on_Q]))
            for r in np.unique(relation_Q)
            if (on_Q := linked_Q & (relation_Q == r)).any()
        },
        confusion_RR=confusion_RR.tolist(),
        relations=names,
    )


def _answer(
    network: KVMemNN,
    reader: QuestionReader,
    read: Questions,
    at: Slots,
    key_limit: int | None,
    list_limit: int,
    right_QA: Slots,
) -> tuple[npt.NDArray[np.int64], Slots, npt.NDArray[np.float32]]:
    """The rank of the first right answer, the facts proposed and the last hop's weights."""
    with torch.no_grad():
        answered = network(reader.ask(read, at, key_limit))
        last = answered.hops[-1]
        slots_QK = last.candidates.slots_QK
        answers_QC = answers.objects_of(
            reader.memories.facts, slots_QK, read.entity_Q[at], list_limit
        )
        scores_QC = network.score(answered.query_QD, answers_QC).numpy()
    return answers.first_right(answers_QC, scores_QC, right_QA), slots_QK, last.weights_QK.numpy()


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


def _mean(values: npt.NDArray[np.generic]) -> float:
    return float(values.mean()) if len(values) else 0.0
