"""Candidate answers: the objects of the facts that were proposed, and how well they rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from memstore import NO_SLOT, Memory
from memstore.kernels.topk import drop_repeats
from memstore.memory import Array, Slots


def objects_of(facts: Memory, slots_QK: Slots, entity_Q: Slots, limit: int) -> Slots:
    """The distinct objects of each question's facts, `[Q, C]`, `NO_SLOT` padded.

    entity_Q: what each question is about; it is no answer to it.
    limit: objects taken of a fact, the first so many of its list.
    """
    flat, counts_QK = objects(facts, slots_QK, limit)
    objects_QC = ragged(flat, counts_QK.sum(axis=1))
    objects_QC[objects_QC == entity_Q[:, None]] = NO_SLOT
    return drop_repeats(objects_QC)[0]


def facts_of(facts: Memory, subject_Q: Slots, relation_Q: Slots, relations: int) -> Slots:
    """The fact of each subject and relation, `[Q]`, `NO_SLOT` where there is none.

    relations: how many there are: a subject has no more facts.
    """
    slots_QF = facts.lookup("subject", subject_Q, relations).padded()
    there_QF = slots_QF != NO_SLOT
    records = facts.gather(slots_QF[there_QF], vectors=False, columns=["relation"]).records
    assert records is not None
    relation_QF = np.full(slots_QF.shape, NO_SLOT)
    relation_QF[there_QF] = records["relation"].to_numpy()
    right_QF = np.where(relation_QF == relation_Q[:, None], slots_QF, NO_SLOT)
    found_Q: Slots = right_QF.max(axis=1, initial=NO_SLOT)
    return found_Q


def objects(facts: Memory, slots_QK: Slots, limit: int) -> tuple[Slots, npt.NDArray[np.int64]]:
    """The objects of facts, the first `limit` of each, one behind the other; and how many."""
    there_QK = slots_QK != NO_SLOT
    records = facts.gather(
        slots_QK[there_QK], vectors=False, columns=["objects"], list_limit=limit
    ).records
    assert records is not None
    column = records["objects"].combine_chunks()
    counts_QK = np.zeros(slots_QK.shape, np.int64)
    counts_QK[there_QK] = np.diff(column.offsets.to_numpy())
    return column.flatten().to_numpy(), counts_QK


def weighed(
    question_E: Slots, object_E: Slots, weight_E: Array, entity_Q: Slots
) -> tuple[Slots, Array]:
    """The distinct objects of each question, `[Q, C]`, `NO_SLOT` padded, and the log of the sum of
    their weights, −inf there.

    question_E, object_E, weight_E: an object that a question is led to, and how much it counts.
    entity_Q: what each question is about; it is no answer to it.
    """
    other_E = object_E != entity_Q[question_E]
    span = int(object_E.max(initial=0)) + 1
    answer_U, at_E = np.unique((question_E * span + object_E)[other_E], return_inverse=True)
    answers_QC = ragged(answer_U % span, np.bincount(answer_U // span, minlength=len(entity_Q)))
    scores_QC = np.full(answers_QC.shape, -np.inf)
    with np.errstate(divide="ignore"):
        scores_QC[answers_QC != NO_SLOT] = np.log(
            np.bincount(at_E, weight_E[other_E], len(answer_U))
        )
    return answers_QC, scores_QC


def ragged(flat: Slots, counts_Q: npt.NDArray[np.int64]) -> Slots:
    """Lays a flat list of `counts_Q` items a row out as `[Q, C]`, `NO_SLOT` padded."""
    rows_QC = np.full((len(counts_Q), int(counts_Q.max(initial=0))), NO_SLOT, np.int64)
    rows_QC[np.arange(rows_QC.shape[1]) < counts_Q[:, None]] = flat
    return rows_QC


def lists(rows: Sequence[Slots]) -> Slots:
    """Lays lists of slots out as `[Q, C]`, `NO_SLOT` padded."""
    flat = np.concatenate([np.empty(0, np.int64), *rows])
    return ragged(flat, np.array([len(row) for row in rows], np.int64))


def sample(
    right_QA: Slots,
    read_QC: Slots,
    entities: int,
    negatives: int,
    rng: np.random.Generator,
    own: slice = slice(None),
    *,
    reachable: bool = False,
) -> Slots:
    """Answers to train on: a right one in column 0, then sampled others, `[Q, 1 + negatives]`.

    right_QA: right answers, at least one a question, `NO_SLOT` padded. read_QC: objects of the
    facts read. Three quarters of the others are drawn from those, the rest from all entities;
    others that are right too are blanked with `NO_SLOT`: choosing them is no mistake.
    reachable: the right one is drawn among those of read_QC, where there are such.
    own: the questions of the batch that read_QC and the result are of; all are drawn for, so that
    who takes a share of a batch draws what one who takes all of it does.
    """
    questions = len(right_QA)
    pick_Q = rng.integers(0, (right_QA != NO_SLOT).sum(axis=1))[own]
    near = negatives * 3 // 4 if read_QC.shape[1] else 0
    near_QC = rng.integers(0, max(read_QC.shape[1], 1), (questions, near))[own]
    far_QC = rng.integers(0, entities, (questions, negatives - near))[own]
    right_QA = right_QA[own]
    others_QC = np.concatenate([np.take_along_axis(read_QC, near_QC, 1), far_QC], axis=1)
    others_QC[is_right(others_QC, right_QA)] = NO_SLOT
    if reachable:
        right_QA, pick_Q = _reachable(right_QA, read_QC, pick_Q)
    return np.concatenate([right_QA[np.arange(len(pick_Q)), pick_Q][:, None], others_QC], axis=1)


def _reachable(right_QA: Slots, read_QC: Slots, pick_Q: Slots) -> tuple[Slots, Slots]:
    """Right answers, those that were read first, and the picks as ones among these."""
    met_QA = is_right(right_QA, read_QC)
    counts_Q = met_QA.sum(axis=1)
    right_QA = np.take_along_axis(right_QA, np.argsort(~met_QA, axis=1, kind="stable"), 1)
    return right_QA, np.where(counts_Q > 0, pick_Q % np.maximum(counts_Q, 1), pick_Q)


def is_right(answers_QC: Slots, right_QA: Slots) -> npt.NDArray[np.bool_]:
    """Which answers are among the right ones of their question, bool `[Q, C]`."""
    span = int(max(answers_QC.max(initial=0), right_QA.max(initial=0))) + 1
    row = np.arange(len(answers_QC))[:, None] * span
    right = (row + right_QA)[right_QA != NO_SLOT]
    return np.isin(row + answers_QC, right) & (answers_QC != NO_SLOT)


def first_right(answers_QC: Slots, scores_QC: Array, right_QA: Slots) -> npt.NDArray[np.int64]:
    """The rank of the best right answer, 1 for the first; 0 where none is among the answers."""
    if not answers_QC.shape[1]:
        return np.zeros(len(answers_QC), np.int64)
    order_QC = np.lexsort((answers_QC, -scores_QC, answers_QC == NO_SLOT))
    right_QC = np.take_along_axis(is_right(answers_QC, right_QA), order_QC, 1)
    return np.where(right_QC.any(axis=1), right_QC.argmax(axis=1) + 1, 0)
