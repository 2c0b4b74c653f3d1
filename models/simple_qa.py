"""Simple question answering by an embedding model, after Bordes et al. 2015, "Large-scale Simple
Question Answering with Memory Networks", arXiv 1506.02075; equations 99-100 of the
survey "Research Progress of Deep Memory Networks", 2020.

    S(q, y) = cos(W_V g(q), W_S f(y))       a fact of the base                        (99)
    S(q, y) = cos(W_V g(q), W_VS h(y))      a fact of another base, linked in         (100)
    answer  = argmax S(q, y)                over the facts of candidate subjects

    g(q)   bag of n-grams of the question: words and pairs of words, and the names in it
    f(y)   bag of symbols of the fact: its subject and relation 1, each of its k objects 1/k
    h(y)   as f, where the strings of the fact are the name of an entity, and else, like its
           relation, the bag of their words; W_VS is W_V beside W_S

    loss = L(r) / r Σ_{ȳ ∈ V} [γ − S(q, y) + S(q, ȳ)],   L(r) = Σ_{i ≤ r} 1/i

over the wrong facts V of those sampled that come within the margin γ of the right one, r of them:
the ranking loss that WARP (Weston et al. 2011) estimates by drawing until one does.

A fact of another base needs no training: its row is made of what was learnt of questions.

W_V is the rows of the memories `words` and `names`, W_S those of `entities` and `relations`. Where
the paper is silent, or this differs:
* A name and a word that are spelt alike are two rows of W_V.
* Names begin as the entities that bear them (`models.tasks.naming`), where the paper has every
  entity in training, by questions made of facts; nothing is made of facts here.
* Objects are left out of f unless they are given: no question has its answer in it.

Letters: Q questions, W n-grams, N names, K facts, O objects of a fact, E entities, R relations,
B facts of another base, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from memstore import NO_SLOT
from memstore.memory import Slots
from memstore.torch import RowTable


@dataclass(frozen=True)
class Bag:
    """g(q) of Q questions: slots of n-grams `[Q, W]` and of names `[Q, N]`, `NO_SLOT` padded."""

    words_QW: Slots
    names_QN: Slots

    def __len__(self) -> int:
        return len(self.words_QW)

    def take(self, at: Slots | slice) -> Bag:
        """The questions at some positions."""
        return Bag(self.words_QW[at], self.names_QN[at])


@dataclass(frozen=True)
class Facts:
    """f(y) of K facts a question: slots of entities and relations `[Q, K]`; of objects
    `[Q, K, O]`, or None for none. `NO_SLOT` padded; a fact is there where its subject is."""

    subject_QK: Slots
    relation_QK: Slots
    objects_QKO: Slots | None = None

    def take(self, at: Slots | slice) -> Facts:
        """The facts of the questions at some positions."""
        objects = self.objects_QKO
        return Facts(
            self.subject_QK[at], self.relation_QK[at], None if objects is None else objects[at]
        )


class SimpleQA(nn.Module):
    """Scores facts for questions. It has no weights of its own: all it learns are rows."""

    def __init__(
        self, words: RowTable, names: RowTable, entities: RowTable, relations: RowTable
    ) -> None:
        super().__init__()
        self.words, self.names, self.entities, self.relations = words, names, entities, relations

    def forward(self, asked: Bag, facts: Facts) -> Tensor:
        """S `[Q, K]`, −inf where there is no fact."""
        query_QD, fact_QKD = self.encode(asked), self.encode_facts(facts)
        scores_QK = torch.einsum("qd,qkd->qk", query_QD, fact_QKD)
        return scores_QK.masked_fill(torch.from_numpy(facts.subject_QK == NO_SLOT), -torch.inf)

    def encode(self, asked: Bag) -> Tensor:
        """W_V g(q) over its length, `[Q, D]`."""
        sums_QD = self.words(asked.words_QW).sum(1) + self.names(asked.names_QN).sum(1)
        return functional.normalize(sums_QD, dim=-1)

    def encode_facts(self, facts: Facts) -> Tensor:
        """W_S f(y) over its length, `[Q, K, D]`."""
        sums_QKD = self.entities(facts.subject_QK) + self.relations(facts.relation_QK)
        if facts.objects_QKO is not None:
            there_QKO = facts.objects_QKO != NO_SLOT
            shares = 1.0 / np.maximum(there_QKO.sum(-1, keepdims=True), 1)
            rows_QKOD = self.entities(facts.objects_QKO)
            sums_QKD = sums_QKD + rows_QKOD.sum(2) * torch.from_numpy(shares).to(rows_QKOD)
        return functional.normalize(sums_QKD, dim=-1)

    def score_pairs(self, asked: Bag, entities_QE: Slots, relation_R: Slots) -> Tensor:
        """S of every pair of a candidate subject and a relation, whether the base has it or not,
        `[Q, E, R]`; −inf where there is no entity. Nothing of that size times D is made."""
        query_QD = self.encode(asked)
        entity_QED, relation_RD = self.entities(entities_QE), self.relations(relation_R)
        dot_QER = torch.einsum("qd,qed->qe", query_QD, entity_QED)[:, :, None]
        dot_QER = dot_QER + (query_QD @ relation_RD.T)[:, None]
        norm_QER = entity_QED.square().sum(-1)[:, :, None] + relation_RD.square().sum(-1)
        norm_QER = norm_QER + 2 * entity_QED @ relation_RD.T
        scores_QER = dot_QER / norm_QER.clamp(min=1e-24).sqrt()
        return scores_QER.masked_fill(
            torch.from_numpy(entities_QE == NO_SLOT)[..., None], -torch.inf
        )

    def encode_linked(self, subject_B: Slots, object_B: Slots, words_BW: Slots) -> Tensor:
        """W_VS h(y) over its length, `[B, D]`, for facts of another base.

        subject_B, object_B: the entities that bear their names, `NO_SLOT` where none does.
        words_BW: the words of the relation and of each string that is no entity's name.
        """
        symbols_BD = self.entities(subject_B) + self.entities(object_B)
        return functional.normalize(symbols_BD + self.words(words_BW).sum(1), dim=-1)


def ranking_loss(scores_QK: Tensor, margin: float) -> tuple[Tensor, float]:
    """The loss, the mean over questions, of the right fact in column 0 among sampled wrong ones,
    and the share of questions for which it scores highest. −inf marks what is no fact."""
    short_QN = (margin - scores_QK[:, :1] + scores_QK[:, 1:]).clamp(min=0)
    violations_Q = (short_QN > 0).sum(1)
    harmonic = (1.0 / torch.arange(1, scores_QK.shape[1]).to(scores_QK)).cumsum(0)
    weight_Q = harmonic[(violations_Q - 1).clamp(min=0)] / violations_Q.clamp(min=1)
    hits = float((scores_QK.argmax(dim=1) == 0).double().mean())
    return (weight_Q * short_QN.sum(1)).mean(), hits
