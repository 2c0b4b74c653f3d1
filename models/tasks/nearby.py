"""The facts around an entity: what key hashing proposes for an answer several facts away.

Letters: Q questions, K facts proposed; P pairs of a question and an entity, B of a question and a
fact.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore import Memory
from memstore.memory import Slots
from models.tasks.answers import objects, ragged

HUB = 16
"""Objects of a fact that are gone on from, the first so many: all films of a year lead anywhere."""


def nearby(
    facts: Memory, entity_Q: Slots, *, reach: int, limit: int
) -> tuple[Slots, Slots, npt.NDArray[np.bool_]]:
    """The facts of entities, of their objects, and so on, `reach` times: `[Q, K]`, the nearest
    first, `NO_SLOT` padded; how far away each is, from 1; and for whom there are more than `limit`,
    bool `[Q]`."""
    found = facts.lookup("subject", entity_Q, limit)
    cut_Q = found.truncated_Q.copy()
    question_B, slot_B = np.repeat(np.arange(len(entity_Q)), found.counts_Q), found.slots
    away_B = np.ones(len(slot_B), np.int64)
    newest_QK = found.padded()
    for away in range(2, reach + 1):
        more_question_B, more_slot_B = _behind(facts, newest_QK, limit)
        span = max(int(slot_B.max(initial=0)), int(more_slot_B.max(initial=0))) + 1
        fresh_B = np.setdiff1d(more_question_B * span + more_slot_B, question_B * span + slot_B)
        newest_QK = ragged(fresh_B % span, np.bincount(fresh_B // span, minlength=len(entity_Q)))
        question_B = np.concatenate([question_B, fresh_B // span])
        slot_B = np.concatenate([slot_B, fresh_B % span])
        away_B = np.concatenate([away_B, np.full(len(fresh_B), away)])
    order = np.argsort(question_B, kind="stable")
    counts_Q = np.bincount(question_B, minlength=len(entity_Q))
    cut_Q |= counts_Q > limit
    slots_QK, away_QK = (ragged(of_B[order], counts_Q)[:, :limit] for of_B in (slot_B, away_B))
    return slots_QK, away_QK, cut_Q


def _behind(facts: Memory, slots_QK: Slots, limit: int) -> tuple[Slots, Slots]:
    """The facts of the objects of facts, with the number of their question; some several times."""
    object_E, counts_QK = objects(facts, slots_QK, HUB)
    question_E = np.repeat(np.arange(len(slots_QK)), counts_QK.sum(axis=1))
    span = int(object_E.max(initial=0)) + 1
    question_P, object_P = np.divmod(np.unique(question_E * span + object_E), span)
    distinct, at_P = np.unique(object_P, return_inverse=True)
    found = facts.lookup("subject", distinct, limit)
    counts_P = found.counts_Q[at_P]
    within_B = np.arange(counts_P.sum()) - np.repeat(np.cumsum(counts_P) - counts_P, counts_P)
    slot_B = found.slots[np.repeat(found.offsets[at_P], counts_P) + within_B]
    return np.repeat(question_P, counts_P), slot_B
