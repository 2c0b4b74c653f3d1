"""Key-value memory network, after Miller et al. 2016, "Key-Value Memory Networks for Directly
Reading Documents", arXiv 1606.03126, section 3; equations 91-93 of the survey "Research Progress
of Deep Memory Networks", 2020.

    q_1     = A Φ_X(x)                            the question: sum of its words and its entity
    p_hi    = softmax_i(q_j · A Φ_K(k_hi))        key addressing over the K slots proposed
    o_j     = Σ_i p_hi A Φ_V(v_hi)                value reading
    q_{j+1} = R_j (q_j + o_j)                     H hops
    â       = argmax_y q_{H+1} · B Φ_Y(y)         prediction among candidate answers

Words, entities and relations are rows of memories and share one space (A = B); a fact's key is
the sum of its subject's and relation's rows and its value the mean of its objects' rows. So what
is learnt of a relation serves every fact that has it, also facts never asked for in training.

Letters: Q questions, W words, K slots, C candidate answers, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from memstore import NO_SLOT
from memstore.memory import Slots
from memstore.torch import Reading, RowTable, SparseReader, attend
from models.asked import Asked


@dataclass(frozen=True)
class Answered:
    """The last query q_{H+1}, `[Q, D]`, and what each hop read."""

    query_QD: Tensor
    hops: list[Reading]


class KVMemNN(nn.Module):
    """Reads a memory of facts in H hops. Its own weights are the H matrices R_j, D × D; all else
    lives in the memories of `words`, `entities` and the reader's facts."""

    def __init__(
        self, words: RowTable, entities: RowTable, reader: SparseReader, *, hops: int = 2
    ) -> None:
        super().__init__()
        self.words, self.entities, self.reader = words, entities, reader
        width = entities.memory.config.dim
        # R_j begins as the identity: a hop that has learnt nothing yet adds what it read.
        self.hops = nn.ParameterList(torch.eye(width) for _ in range(hops))

    def forward(self, asked: Asked) -> Answered:
        query_QD = self.encode(asked)
        slots_QK = self.reader.search(query_QD) if asked.slots_QK is None else asked.slots_QK
        candidates = self.reader.gather(slots_QK)
        readings = []
        for hop in self.hops:
            readings.append(attend(query_QD, candidates))
            query_QD = (query_QD + readings[-1].output_QV) @ hop.T
        return Answered(query_QD, readings)

    def encode(self, asked: Asked) -> Tensor:
        """q_1 `[Q, D]`: the words and the linked entity, a bag in which the entity is a symbol."""
        return self.words(asked.words_QW).sum(dim=1) + self.entities(asked.entity_Q)

    def score(self, query_QD: Tensor, answers_QC: Slots) -> Tensor:
        """Scores candidate answers, entity slots `[Q, C]`; −inf at `NO_SLOT`."""
        scores_QC = torch.einsum("qd,qcd->qc", query_QD, self.entities(answers_QC))
        return scores_QC.masked_fill(torch.from_numpy(answers_QC == NO_SLOT), -torch.inf)


def answer_loss(network: KVMemNN, query_QD: Tensor, answers_QC: Slots) -> tuple[Tensor, float]:
    """Mean cross-entropy of the right answer, in column 0 of `[Q, C]`, among sampled others, and
    the share of questions for which it scores highest."""
    scores_QC = network.score(query_QD, answers_QC)
    first_Q = torch.zeros(len(scores_QC), dtype=torch.long)
    hits = (scores_QC.argmax(dim=1) == first_Q).double().mean()
    return functional.cross_entropy(scores_QC, first_Q), float(hits)
