"""Factual memory network, after Jain 2016, "Question Answering over Knowledge Base using Factual
Memory Networks", NAACL student research workshop; equations 126-127 of the survey "Research
Progress of Deep Memory Networks", 2020.

    q_1     = Σ_j l_j ∘ A x_j                     the words of the question, by their positions
    F_1     = the facts of the linked entity      fact extraction
    f       = A s + A R                           a fact: its subject and its relation
    a_f     = softmax_{f ∈ F_k} ⟨q_k, f⟩          relevance
    F_k'    = {f ∈ F_k : a_f ≥ ε max a}           fact pruning
    q_{k+1} = W_k (q_k + Σ_{f ∈ F_k'} a_f f)      question update
    F_{k+1} = F_k' ∪ {f' : the subject of f' is an object of f ∈ F_k', ⟨q_{k+1}, f'⟩ > ⟨q_{k+1}, f⟩}
    answer  = argmax_o Σ_{f ∈ F_L, o ∈ f} a_f     an object of the facts scored highest
    loss    = Σ_k −log Σ_{f ∈ F_k} a_f r_f        over all L layers

Facts are found by `lookup`, never by search: a step costs what lies around the linked entity.

Where the paper's text leaves room, this is read as follows.
* Words, entities and relations share one space. W_k begins as the identity, with which the update
  is the paper's sum; it lets a layer take away what the question has been answered of.
* A fact of several objects (subject, relation, objects) is one fact, and a path along it goes on
  from each of them, but not back to the linked entity, which is also no answer.
* The rule that adds a fact only where it is more relevant than the one it was reached by holds
  once training is over (`eval()`): before, it would drop right facts that have yet to be learnt.
* The loss wants facts in each layer whose objects are near to the right answers. Nearness is taken
  by paths: r_f is the share of right ones among the objects of f, or, if that is more, among those
  that are reached through f by one relation a layer, in the layers that are left.
* `kept`, `objects` and `facts` bound what a layer holds, where the paper bounds nothing.

Letters: Q questions, W words, F facts of a layer, U subjects, R relations, D width, E edges:
pairs of a fact and one of its objects, or of a fact and one reached by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from memstore import NO_SLOT, Memory
from memstore.memory import Array, Slots
from memstore.torch import RowTable
from models.asked import Asked
from models.tasks.answers import ragged, weighed

Flags = npt.NDArray[np.bool_]


class Edges(NamedTuple):
    """How the facts of a layer were reached: that in row question_E and column to_E from that in
    column from_E of the layer before, which is in column still_E of this one. All int64."""

    question_E: Slots
    from_E: Slots
    still_E: Slots
    to_E: Slots


@dataclass(frozen=True)
class Layer:
    """What a layer read: facts, relation numbers and objects, and their relevance.

    slots_QF, relation_QF: `NO_SLOT` padded. object_E: objects, of the facts in rows question_E
    and columns fact_E. scores_QF: ⟨q, f⟩, least where there is no fact, and a, 0 there, in
    weights_QF. kept_QF: F'.
    """

    slots_QF: Slots
    relation_QF: Slots
    question_E: Slots
    fact_E: Slots
    object_E: Slots
    edges: Edges
    scores_QF: Tensor
    weights_QF: Tensor
    kept_QF: Flags


@dataclass(frozen=True)
class Traced:
    """q_L `[Q, D]`, the question as the last layer meets it, and the layers."""

    query_QD: Tensor
    layers: list[Layer]


class FactualMN(nn.Module):
    """Reads facts layer by layer, from the linked entity on. Its own weights are the matrices W_k,
    D × D, of all layers but the last; all else lives in the memories of `words`, `entities` and
    `relations`.

    facts: a memory with the columns subject, relation and objects, and lookup by subject.
    layers: L, as many as an answer is facts away.  prune: ε, > 0.  kept: facts of F' at most.
    objects: of a fact that are looked at, the first so many.  branch: facts of an object at most.
    """

    def __init__(
        self,
        words: RowTable,
        entities: RowTable,
        relations: RowTable,
        facts: Memory,
        *,
        layers: int = 2,
        prune: float = 0.1,
        kept: int = 64,
        objects: int = 32,
        branch: int = 32,
    ) -> None:
        super().__init__()
        self.words, self.entities, self.relations, self.facts = words, entities, relations, facts
        self.prune, self.kept, self.objects, self.branch = prune, kept, objects, branch
        width = entities.memory.config.dim
        self.updates = nn.ParameterList(torch.eye(width) for _ in range(layers - 1))

    def forward(self, asked: Asked) -> Traced:
        query_QD = self.encode(asked)
        slots_QF, edges = asked.slots_QK, Edges(*(np.empty(0, np.int64) for _ in range(4)))
        if slots_QF is None:
            slots_QF = self.facts.lookup("subject", asked.entity_Q, self.branch).padded()
        layers: list[Layer] = []
        for update in (*self.updates, None):
            if layers:
                slots_QF, edges = self._add(layers[-1], asked.entity_Q)
            facts = _Facts(self, slots_QF)
            scores_QF = facts.score(query_QD)
            there_QF = slots_QF != NO_SLOT
            if layers and not self.training:
                there_QF &= _more_relevant(scores_QF, edges)
            mask_QF = torch.from_numpy(there_QF)
            scores_QF = scores_QF.masked_fill(~mask_QF, torch.finfo(scores_QF.dtype).min)
            weights_QF = torch.softmax(scores_QF, 1) * mask_QF
            kept_QF = self._pruned(weights_QF.detach().numpy()) & there_QF
            layers.append(facts.layer(there_QF, edges, scores_QF, weights_QF, kept_QF))
            if update is not None:
                read_QD = facts.sum(weights_QF * torch.from_numpy(kept_QF))
                query_QD = (query_QD + read_QD) @ update.T
        return Traced(query_QD, layers)

    def encode(self, asked: Asked) -> Tensor:
        """q_1 `[Q, D]`: l_jd = (1 − j/J) − (d/D)(1 − 2j/J), word j of J (Sukhbaatar et al. 2015,
        arXiv 1503.08895, section 4.1)."""
        rows_QWD = self.words(asked.words_QW)
        there_QW = asked.words_QW != NO_SLOT
        j_QW = np.cumsum(there_QW, axis=1) / np.maximum(there_QW.sum(axis=1, keepdims=True), 1)
        j_QW1 = torch.from_numpy(j_QW).to(rows_QWD)[:, :, None]
        d_D = torch.arange(1, rows_QWD.shape[2] + 1).to(rows_QWD) / rows_QWD.shape[2]
        return (((1 - j_QW1) - d_D * (1 - 2 * j_QW1)) * rows_QWD).sum(dim=1)

    def _pruned(self, weights_QF: Array) -> Flags:
        """Which facts are kept: those of a ≥ ε max a, and of these the best `kept`."""
        rank_QF = np.argsort(np.argsort(-weights_QF, axis=1, kind="stable"), axis=1, kind="stable")
        least_Q1 = self.prune * weights_QF.max(axis=1, keepdims=True, initial=0.0)
        return (weights_QF >= least_Q1) & (rank_QF < self.kept)

    def _add(self, before: Layer, entity_Q: Slots) -> tuple[Slots, Edges]:
        """F' and the facts of its objects, each once a question, and how these were reached."""
        goes_E = before.kept_QF[before.question_E, before.fact_E]
        goes_E &= before.object_E != entity_Q[before.question_E]
        distinct, at_E = np.unique(before.object_E[goes_E], return_inverse=True)
        found = self.facts.lookup("subject", distinct, self.branch)
        counts_E = found.counts_Q[at_E]
        # An edge to an object becomes one to each fact of it.
        behind_E = np.arange(counts_E.sum()) - np.repeat(np.cumsum(counts_E) - counts_E, counts_E)
        added_E = found.slots[np.repeat(found.offsets[at_E], counts_E) + behind_E]
        question_E = np.repeat(before.question_E[goes_E], counts_E)
        from_E = np.repeat(before.fact_E[goes_E], counts_E)

        question_K, from_K = np.nonzero(before.kept_QF)
        question_B = np.concatenate([question_K, question_E])
        slot_B = np.concatenate([before.slots_QF[question_K, from_K], added_E])
        # Numbers each fact of a question once, question by question.
        span = int(slot_B.max(initial=0)) + 1
        fact_U, at_B = np.unique(question_B * span + slot_B, return_inverse=True)
        counts_Q = np.bincount(fact_U // span, minlength=len(entity_Q))
        column_B = at_B - (np.cumsum(counts_Q) - counts_Q)[question_B]
        still_QF = np.full(before.slots_QF.shape, NO_SLOT)
        still_QF[question_K, from_K] = column_B[: len(question_K)]
        edges = Edges(question_E, from_E, still_QF[question_E, from_E], column_B[len(question_K) :])
        return ragged(fact_U % span, counts_Q), edges


class _Facts:
    """The facts of a layer, with each row that they are made of once."""

    def __init__(self, network: FactualMN, slots_QF: Slots) -> None:
        there_QF = slots_QF != NO_SLOT
        records = network.facts.gather(
            slots_QF[there_QF],
            vectors=False,
            columns=["subject", "relation", "objects"],
            list_limit=network.objects,
        ).records
        assert records is not None
        rows = []
        for table, name in ((network.entities, "subject"), (network.relations, "relation")):
            distinct, at_B = np.unique(records[name].to_numpy(), return_inverse=True)
            at_QF = np.zeros(slots_QF.shape, np.int64)
            at_QF[there_QF] = at_B
            # One row of zeros behind the last, so that none is no special case.
            distinct = np.append(distinct, NO_SLOT)
            rows.append((table(distinct), torch.from_numpy(at_QF)))
        self._rows, self.slots_QF = rows, slots_QF
        self.relation_QF = np.full(slots_QF.shape, NO_SLOT)
        self.relation_QF[there_QF] = records["relation"].to_numpy()
        objects = records["objects"].combine_chunks()
        counts_B = np.diff(objects.offsets.to_numpy())
        self.object_E = np.asarray(objects.flatten().to_numpy())
        self.question_E, self.fact_E = (np.repeat(at, counts_B) for at in np.nonzero(there_QF))

    def layer(
        self, there_QF: Flags, edges: Edges, scores_QF: Tensor, weights_QF: Tensor, kept_QF: Flags
    ) -> Layer:
        """Those facts that are there."""
        on_E = there_QF[self.question_E, self.fact_E]
        on_edge_E = there_QF[edges.question_E, edges.to_E]
        return Layer(
            np.where(there_QF, self.slots_QF, NO_SLOT),
            np.where(there_QF, self.relation_QF, NO_SLOT),
            self.question_E[on_E],
            self.fact_E[on_E],
            self.object_E[on_E],
            Edges(*(column_E[on_edge_E] for column_E in edges)),
            scores_QF,
            weights_QF,
            kept_QF,
        )

    def score(self, query_QD: Tensor) -> Tensor:
        """⟨q, f⟩ `[Q, F]`; of no meaning where there is no fact."""
        return torch.stack(
            [(query_QD @ rows_UD.T).gather(1, at_QF) for rows_UD, at_QF in self._rows]
        ).sum(0)

    def sum(self, weights_QF: Tensor) -> Tensor:
        """Σ_f a_f f, `[Q, D]`."""
        sums = []
        for rows_UD, at_QF in self._rows:
            shares_QU = weights_QF.new_zeros(len(weights_QF), len(rows_UD))
            sums.append(shares_QU.scatter_add(1, at_QF, weights_QF) @ rows_UD)
        return torch.stack(sums).sum(0)


def _more_relevant(scores_QF: Tensor, edges: Edges) -> Flags:
    """Which facts were kept, or score more than one that they were reached by."""
    known_QF = scores_QF.detach().numpy()
    more_QF = np.ones(known_QF.shape, bool)
    more_QF[edges.question_E, edges.to_E] = False
    more_QF[edges.question_E, edges.still_E] = True
    reached_E = known_QF[edges.question_E, edges.to_E]
    more_E = reached_E > known_QF[edges.question_E, edges.still_E]
    more_QF[edges.question_E[more_E], edges.to_E[more_E]] = True
    return more_QF


def layers_loss(traced: Traced, right_QA: Slots) -> tuple[Tensor, float]:
    """Σ_k −log Σ_f a_f r_f, the mean over questions, and the share of questions whose most relevant
    fact in the last layer has right objects alone.

    right_QA: right answers, `NO_SLOT` padded. A question with nothing right in a layer adds
    nothing to it.
    """
    near = nearness(traced, right_QA)
    total = traced.query_QD.new_zeros(())
    for layer, near_QF in zip(traced.layers, near, strict=True):
        on_Q = near_QF.any(axis=1)
        scores_QF = layer.scores_QF[torch.from_numpy(on_Q)]
        near_scores_QF = scores_QF + torch.from_numpy(near_QF[on_Q]).to(scores_QF).log()
        total = total + (torch.logsumexp(scores_QF, 1) - torch.logsumexp(near_scores_QF, 1)).sum()
    last = traced.layers[-1].scores_QF.detach().numpy()
    near_QF = np.pad(near[-1], ((0, 0), (0, 1)))
    best_Q = np.pad(last, ((0, 0), (0, 1)), constant_values=-np.inf).argmax(axis=1)
    hits_Q = near_QF[np.arange(len(last)), best_Q] == 1.0
    return total / max(len(last), 1), float(hits_Q.mean()) if len(last) else 0.0


def nearness(traced: Traced, right_QA: Slots) -> list[Array]:
    """r of the facts of each layer, float64 `[Q, F]`, 0 where there is none."""
    span = int(max([right_QA.max(initial=0), *(x.object_E.max(initial=0) for x in traced.layers)]))
    row_Q1 = np.arange(len(right_QA))[:, None] * (span + 1)
    right = (row_Q1 + right_QA)[right_QA != NO_SLOT]
    near: list[Array] = []
    for layer in traced.layers:
        shape, width = layer.slots_QF.shape, max(layer.slots_QF.shape[1], 1)
        at_E = layer.question_E * width + layer.fact_E
        right_E = np.isin(row_Q1[layer.question_E, 0] + layer.object_E, right)
        near.append(_mean(at_E, right_E, shape[0] * width).reshape(shape[0], width)[:, : shape[1]])
    for i in range(len(near) - 1, 0, -1):
        layer, edges, (questions, width) = (
            traced.layers[i],
            traced.layers[i].edges,
            near[i - 1].shape,
        )
        relations = int(layer.relation_QF.max(initial=0)) + 1
        path_E = (edges.question_E * width + edges.from_E) * relations
        path_E += layer.relation_QF[edges.question_E, edges.to_E]
        reached_E = near[i][edges.question_E, edges.to_E]
        paths = _mean(path_E, reached_E, questions * width * relations)
        through_QF = paths.reshape(questions, width, relations).max(axis=2, initial=0.0)
        near[i - 1] = np.maximum(near[i - 1], through_QF)
    return near


def answers(traced: Traced, entity_Q: Slots) -> tuple[Slots, Array]:
    """The objects of the facts of the last layer, and their relevance: see `answers.weighed`."""
    last = traced.layers[-1]
    weight_E = last.weights_QF.detach().numpy()[last.question_E, last.fact_E]
    return weighed(last.question_E, last.object_E, weight_E, entity_Q)


def _mean(at_E: Slots, values_E: Array, length: int) -> Array:
    """The mean of the values at each place, 0 where there is none."""
    counts = np.bincount(at_E, minlength=length)
    return np.bincount(at_E, values_E, length) / np.maximum(counts, 1)
