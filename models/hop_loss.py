"""The loss of each hop over facts several away, where the answers alone are known.

    loss = Σ_j −log Σ_{i: j away} p_ji r_i

as of the factual network, which has it from Jain 2016: r_i is the share of right answers among the
objects of fact i, or, if that is more, among those that are reached through it by one relation a
hop, in the hops that are left (`models.factual.nearness`). So a hop in the middle is told which
facts lead on, which the last answer says too faintly.

Letters: Q questions, K facts proposed, A right answers; E objects of facts, one behind the other.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from memstore import NO_SLOT, Memory
from memstore.memory import Slots
from models.factual import Edges, Flags, Layer, Traced, layers_loss
from models.kv_memnn import Answered


def hops_loss(
    facts: Memory, answered: Answered, away_QK: Slots, right_QA: Slots, limit: int
) -> Tensor:
    """The mean over questions.  right_QA: `NO_SLOT` padded.  limit: objects of a fact that are
    looked at."""
    loss, _ = layers_loss(_layers(facts, answered, away_QK, limit), right_QA)
    return loss


def _layers(facts: Memory, answered: Answered, away_QK: Slots, limit: int) -> Traced:
    """The hops as layers of a factual network, each of the facts that are so far away."""
    slots_QK = answered.hops[-1].candidates.slots_QK
    there_QK = slots_QK != NO_SLOT
    records = facts.gather(
        slots_QK[there_QK],
        vectors=False,
        columns=["subject", "relation", "objects"],
        list_limit=limit,
    ).records
    assert records is not None
    subject_QK, relation_QK = (np.full(slots_QK.shape, NO_SLOT) for _ in range(2))
    subject_QK[there_QK] = records["subject"].to_numpy()
    relation_QK[there_QK] = records["relation"].to_numpy()
    objects = records["objects"].combine_chunks()
    counts_B = np.diff(objects.offsets.to_numpy())
    object_E = np.asarray(objects.flatten().to_numpy())
    question_E, fact_E = (np.repeat(at, counts_B) for at in np.nonzero(there_QK))
    nothing = np.empty(0, np.int64)
    edges, layers = Edges(nothing, nothing, nothing, nothing), list[Layer]()
    for away, hop in enumerate(answered.hops, 1):
        on_QK = there_QK & (away_QK == away)
        on_E = on_QK[question_E, fact_E]
        own = question_E[on_E], fact_E[on_E], object_E[on_E]
        layers.append(
            Layer(
                np.where(on_QK, slots_QK, NO_SLOT),
                np.where(on_QK, relation_QK, NO_SLOT),
                *own,
                edges,
                hop.scores_QK,
                hop.weights_QK,
                on_QK,
            )
        )
        edges = _edges(*own, subject_QK, there_QK & (away_QK == away + 1))
    return Traced(answered.query_QD, layers)


def _edges(
    question_E: Slots, fact_E: Slots, object_E: Slots, subject_QK: Slots, next_QK: Flags
) -> Edges:
    """From facts to the next ones whose subject is an object of theirs."""
    question_B, next_B = np.nonzero(next_QK)
    span = 1 + int(max(subject_QK.max(initial=0), object_E.max(initial=0)))
    # A pair of a question and an entity is one number.
    entity_B = question_B * span + subject_QK[next_QK]
    order_B = np.argsort(entity_B, kind="stable")
    wanted_E, entity_B = question_E * span + object_E, entity_B[order_B]
    first_E = np.searchsorted(entity_B, wanted_E)
    counts_E = np.searchsorted(entity_B, wanted_E, side="right") - first_E
    behind_E = np.arange(counts_E.sum()) - np.repeat(np.cumsum(counts_E) - counts_E, counts_E)
    to_E = next_B[order_B[np.repeat(first_E, counts_E) + behind_E]]
    from_E = np.repeat(fact_E, counts_E)
    return Edges(np.repeat(question_E, counts_E), from_E, from_E, to_E)
