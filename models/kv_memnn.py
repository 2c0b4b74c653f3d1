"""Key-value memory network, after Miller et al. 2016, "Key-Value Memory Networks for Directly
Reading Documents", arXiv 1606.03126, section 3; equations 91-93 of the survey "Research Progress
of Deep Memory Networks", 2020.

    q_1     = A Φ_X(x)                            the question: sum of its words and its entity
    p_hi    = softmax_i(q_j · A Φ_K(k_hi))        key addressing over the K slots proposed
    o_j     = Σ_i p_hi A Φ_V(v_hi)                value reading
    q_{j+1} = R_j (q_j + o_j)                     H hops
    â       = argmax_y q_{H+1} · B Φ_Y(y)         prediction among candidate answers

With `rerank` answers are ranked by what was read as well, γ learnt:

    â       = argmax_y q_{H+1} · B Φ_Y(y) + γ log(ε + Σ_{i: y ∈ v_i} p_Hi)

A value is the mean of its objects, so that one of several among them is n times nearer to chance
than an only one; what its fact was given by the last reading does not suffer from that.

Words, entities and relations are rows of memories and share one space (A); a fact's key is the sum
of its subject's and relation's rows and its value the mean of its objects' rows. So what is learnt
of a relation serves every fact that has it, also facts never asked for in training. The paper has
B = A as a choice (section 3.1), and so has this: answers are the entities' rows, or have rows of
their own.

Where facts several away are proposed, hop j reads those that are j away: what the paper has of each
question once, key hashing, is then had once a hop, and the facts of the entity itself, whose row is
in every query, are not read again. With `follow` a fact counts by what led to it as well:

    p_hi    = softmax_i(q_j · A Φ_K(k_hi) + log(ε + Σ_{i': the subject of i ∈ v_i'} p_{j-1,i'}))

since a query that holds the mean of the n objects read has each of them by an n-th part alone. And
`models.hop_loss` tells each hop what leads on.

Slots need not be facts: `models.document_reader` reads sentences and windows of documents.

Letters: Q questions, W words, K slots, C candidate answers, D width; E objects of facts read, one
behind the other, U distinct pairs of a question and an object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from memstore import NO_SLOT, Memory
from memstore.memory import Slots
from memstore.torch import Candidates, Reading, RowTable, attend
from models.asked import Asked
from models.tasks.answers import objects

TRUST, LEAST = 4.0, 1e-4
"""γ before training, and ε."""


class Reader(Protocol):
    """Proposes and reads slots: `memstore.torch.SparseReader`, or one of documents.

    memory: whose records have `objects`, of which the first `list_limit` are read.
    """

    memory: Memory
    list_limit: int

    def search(self, query_QD: Tensor) -> Slots: ...

    def gather(self, slots_QK: Slots) -> Candidates: ...


@dataclass(frozen=True)
class Answered:
    """The last query q_{H+1}, `[Q, D]`, and what each hop read."""

    query_QD: Tensor
    hops: list[Reading]

    @property
    def read_QK(self) -> Slots:
        """The slots that the last hop could read, `NO_SLOT` elsewhere."""
        last = self.hops[-1].candidates
        return np.where(last.mask_QK.numpy(), last.slots_QK, NO_SLOT)


class KVMemNN(nn.Module):
    """Reads a memory of facts in H hops. Its own weights are the H matrices R_j, D × D; all else
    lives in the memories of `words`, `entities`, `answers` and the reader's slots.

    rerank: ranks answers by what was read too.  follow: as above, from the second hop on.
    answers: B, a row an entity; None has B = A.
    """

    def __init__(
        self,
        words: RowTable,
        entities: RowTable,
        reader: Reader,
        *,
        hops: int = 2,
        rerank: bool = False,
        follow: bool = False,
        answers: RowTable | None = None,
    ) -> None:
        super().__init__()
        self.words, self.entities, self.reader, self.follow = words, entities, reader, follow
        self.answers = entities if answers is None else answers
        width = entities.memory.config.dim
        # R_j begins as the identity: a hop that has learnt nothing yet adds what it read.
        self.hops = nn.ParameterList(torch.eye(width) for _ in range(hops))
        self.trust = nn.Parameter(torch.tensor(TRUST)) if rerank else None

    def forward(self, asked: Asked) -> Answered:
        query_QD = self.encode(asked)
        slots_QK = self.reader.search(query_QD) if asked.slots_QK is None else asked.slots_QK
        candidates = self.reader.gather(slots_QK)
        readings: list[Reading] = []
        for away, hop in enumerate(self.hops, 1):
            prior_QK: Tensor | float = 0.0
            if self.follow and readings:
                read_QK = self._read(readings[-1], self._subjects(slots_QK))
                prior_QK = torch.log(LEAST + read_QK)
            there = _so_far(candidates, asked.away_QK, away)
            readings.append(attend(query_QD, there, prior_QK))
            query_QD = (query_QD + readings[-1].output_QV) @ hop.T
        return Answered(query_QD, readings)

    def encode(self, asked: Asked) -> Tensor:
        """q_1 `[Q, D]`: the words and the linked entity, a bag in which the entity is a symbol."""
        return self.words(asked.words_QW).sum(dim=1) + self.entities(asked.entity_Q)

    def score(self, answered: Answered, answers_QC: Slots) -> Tensor:
        """Scores candidate answers, entity slots `[Q, C]`; −inf at `NO_SLOT`."""
        scores_QC = torch.einsum("qd,qcd->qc", answered.query_QD, self.answers(answers_QC))
        if self.trust is not None:
            scores_QC = scores_QC + self.trust * torch.log(
                LEAST + self._read(answered.hops[-1], answers_QC)
            )
        return scores_QC.masked_fill(torch.from_numpy(answers_QC == NO_SLOT), -torch.inf)

    def _subjects(self, slots_QK: Slots) -> Slots:
        """The subjects of facts, `NO_SLOT` where there is none."""
        there_QK = slots_QK != NO_SLOT
        records = self.reader.memory.gather(
            slots_QK[there_QK], vectors=False, columns=["subject"]
        ).records
        assert records is not None
        subject_QK = np.full(slots_QK.shape, NO_SLOT)
        subject_QK[there_QK] = records["subject"].to_numpy()
        return subject_QK

    def _read(self, reading: Reading, entities_QC: Slots) -> Tensor:
        """What a reading gave the facts that entities are objects of, `[Q, C]`."""
        slots_QK, width = reading.candidates.slots_QK, reading.candidates.slots_QK.shape[1]
        object_E, counts_QK = objects(self.reader.memory, slots_QK, self.reader.list_limit)
        fact_E = np.repeat(np.arange(slots_QK.size), counts_QK.ravel())
        # A pair of a question and an object is one number.
        span = max(int(object_E.max(initial=0)), int(entities_QC.max(initial=0))) + 1
        question_E = fact_E // max(width, 1)
        pairs_U, pair_E = np.unique(question_E * span + object_E, return_inverse=True)
        weights_E = reading.weights_QK.reshape(-1)[torch.from_numpy(fact_E)]
        read_U = weights_E.new_zeros(len(pairs_U) + 1)
        read_U = read_U.index_add(0, torch.from_numpy(pair_E), weights_E)
        wanted_QC = np.arange(len(entities_QC))[:, None] * span + entities_QC
        at_QC = np.searchsorted(pairs_U, wanted_QC)
        there_QC = np.isin(wanted_QC, pairs_U) & (entities_QC != NO_SLOT)
        return read_U[torch.from_numpy(np.where(there_QC, at_QC, len(pairs_U)))]


def _so_far(candidates: Candidates, away_QK: Slots | None, away: int) -> Candidates:
    """Those that are so far away, where that is known of them."""
    if away_QK is None:
        return candidates
    return replace(candidates, mask_QK=candidates.mask_QK & torch.from_numpy(away_QK == away))


def answer_loss(network: KVMemNN, answered: Answered, answers_QC: Slots) -> tuple[Tensor, float]:
    """Mean cross-entropy of the right answer, in column 0 of `[Q, C]`, among sampled others, and
    the share of questions for which it scores highest."""
    scores_QC = network.score(answered, answers_QC)
    first_Q = torch.zeros(len(scores_QC), dtype=torch.long)
    hits = (scores_QC.argmax(dim=1) == first_Q).double().mean()
    return functional.cross_entropy(scores_QC, first_Q), float(hits)
