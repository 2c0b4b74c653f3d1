"""Hierarchical memory network, after Chandar et al. 2016, "Hierarchical Memory Networks", arXiv
1605.07427; equations 92-95 of the survey "Research Progress of Deep Memory Networks", 2020.

    h(q)  = W Φ(q)                               the question: its words and its entity
    C     = argtop-K_i ⟨h(q), M_i⟩               K-MIPS: the K cells of highest inner product
    p_i   = softmax_{i ∈ C} ⟨h(q), M_i⟩          reading no other cell
    R_out = Σ_{i ∈ C} p_i v_i
    loss  = −log Σ_{i right} p_i                 C with the right cells put in, while training

With C all cells this is soft attention over a flat memory, which costs their number; with a
hierarchy above the cells C costs less, and is found with it or not. Who proposes C is a function:

    everything          all cells: the full softmax that the paper compares with
    reader.search       exactly (`SearchOptions(exact=True)`), or by clusters: memstore's own lists
    hierarchies.Hashed  by hash codes            hierarchies.Tree  by a tree of centroids

A softmax over the K best alone is biased: cells that no query found have no share in it. The paper
adds to C what the other questions of the batch found, cells of clusters drawn by chance, and cells
drawn by chance: the reader's `SearchOptions(union=…, sample_clusters=…, sample_random=…, seed=…)`.

The paper keeps its memory fixed, since its index would grow old, and leaves learning it to future
work. Here cells learn while they are indexed: scores are those of the rows as they are now, an old
index only proposes worse, and memstore files anew what drifted. Cells that are sums are proposed by
their last encoding: rows of relations take their longest steps first, and by the second step some
of a question's K best are none by the old sums. So more than K are proposed, and those K are read
that are best by now (the reader's `spare`).

Where this differs: the paper encodes the question by a recurrent network and maps inner product to
cosine by m terms (eq. 94-95, `memstore.index.reductions.Terms`); here Φ is the bag of words and
entity, or of n-grams and names, of the other networks, and clusters are laid by the reduction that
memstore measured best.

Of the paper only the abstract and what others say of it could be had: that a softmax over the K
cells of highest inner product, found exactly, was no worse than the full one on SimpleQuestions,
that clusters were faster and answered less, and that changing the memory while training is left
for later. The equations are those of the survey. That the three ways against bias, and eq. 94-95,
are as in the paper was not checked against its text.

Letters: Q questions, W words, K cells read, R right cells, N all cells, D width, V value width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from memstore import NO_SLOT
from memstore.memory import Array, Slots
from memstore.torch import Reading, RowTable, SparseReader, attend
from models.asked import Asked
from models.kv_memnn import Answered
from models.simple_qa import Bag

Propose = Callable[[Tensor], Slots]
"""Gives the cells that queries `[Q, D]` may read: int64 `[Q, K]`, `NO_SLOT` padded, or `[1, K]`,
rising, where all read the same."""

AT_ONCE = 32
"""Queries that meet all cells together in a test."""


def everything(slots_N: Slots) -> Propose:
    """Proposes all cells to every question: soft attention. slots_N: int64, rising."""
    return lambda query_QD: slots_N[None]


class Hierarchical(nn.Module):
    """Reads the K cells of a memory that a hierarchy proposes. Its own weight is W, D × D; all
    else lives in memories.

    width: D.  propose: who proposes cells; None is the reader's own search.
    """

    def __init__(self, reader: SparseReader, width: int, *, propose: Propose | None = None) -> None:
        super().__init__()
        self.reader = reader
        self.propose = reader.search if propose is None else propose
        self.project = nn.Parameter(torch.eye(width))

    def read(
        self, query_QD: Tensor, slots_QK: Slots | None = None, right_QR: Slots | None = None
    ) -> Reading:
        """Reads once.  slots_QK: the cells; None has them proposed.  right_QR: cells to put into C,
        `NO_SLOT` padded; see `with_right`."""
        slots_QK = self.propose(query_QD) if slots_QK is None else slots_QK
        if right_QR is not None:
            slots_QK = with_right(slots_QK, right_QR)
        return attend(query_QD, self.reader.gather(slots_QK))


class HMN(Hierarchical):
    """Φ is the words of a question and the entity that was linked. Rows are those of `words`,
    `entities` and the reader's cells."""

    def __init__(
        self,
        words: RowTable,
        entities: RowTable,
        reader: SparseReader,
        *,
        propose: Propose | None = None,
    ) -> None:
        super().__init__(reader, entities.memory.config.dim, propose=propose)
        self.words, self.entities = words, entities

    def forward(self, asked: Asked, right_QR: Slots | None = None) -> Answered:
        """Reads once: see `read`."""
        query_QD = self.encode(asked)
        return Answered(query_QD, [self.read(query_QD, asked.slots_QK, right_QR)])

    def encode(self, asked: Asked) -> Tensor:
        """h(q) `[Q, D]`."""
        bag_QD = self.words(asked.words_QW).sum(dim=1) + self.entities(asked.entity_Q)
        return bag_QD @ self.project.T


class NamedHMN(Hierarchical):
    """Φ is the n-grams of a question and the names in it, any of which may be that of its subject:
    W_V g(q) of `models.simple_qa`. Rows are those of `words`, `names` and the reader's cells."""

    def __init__(
        self,
        words: RowTable,
        names: RowTable,
        reader: SparseReader,
        *,
        propose: Propose | None = None,
    ) -> None:
        super().__init__(reader, names.memory.config.dim, propose=propose)
        self.words, self.names = words, names

    def forward(
        self, asked: Bag, slots_QK: Slots | None = None, right_QR: Slots | None = None
    ) -> Reading:
        """Reads once: see `read`."""
        return self.read(self.encode(asked), slots_QK, right_QR)

    def encode(self, asked: Bag) -> Tensor:
        """h(q) `[Q, D]`."""
        bag_QD = self.words(asked.words_QW).sum(dim=1) + self.names(asked.names_QN).sum(dim=1)
        return bag_QD @ self.project.T


def with_right(slots_QK: Slots, right_QR: Slots) -> Slots:
    """Puts right cells among those proposed, each once: behind them `[Q, K + R]`, or into what all
    questions read, `[1, K']`, rising."""
    if len(slots_QK) == 1:
        joined_K = np.union1d(slots_QK, right_QR)
        return joined_K[None, joined_K != NO_SLOT]
    found_QR = (slots_QK[:, :, None] == right_QR[:, None]).any(axis=1)
    return np.concatenate([slots_QK, np.where(found_QR, NO_SLOT, right_QR)], axis=1)


def cell_loss(reading: Reading, right_QR: Slots) -> tuple[Tensor, float]:
    """Mean of −log Σ p over the right cells, and the share of questions whose best cell is right.

    right_QR: int64, `NO_SLOT` padded, those of a question distinct and all among the cells that it
    read; a question without one is passed over.
    """
    known_Q = (right_QR != NO_SLOT).any(axis=1)
    scores_QK = reading.scores_QK
    slots_QK = np.broadcast_to(reading.candidates.slots_QK, tuple(scores_QK.shape))
    if not known_Q.all():
        scores_QK = scores_QK[torch.from_numpy(known_Q).to(scores_QK.device)]
        slots_QK, right_QR = slots_QK[known_Q], right_QR[known_Q]
    if not len(right_QR):
        return scores_QK.sum(), 0.0
    if len(reading.candidates.slots_QK) == 1:
        at_QR = np.searchsorted(slots_QK[0], right_QR)
    else:
        at_QR = (slots_QK[:, :, None] == right_QR[:, None]).argmax(axis=1)
    at = torch.from_numpy(at_QR).to(scores_QK.device)
    padding_QR = torch.from_numpy(right_QR == NO_SLOT).to(scores_QK.device)
    right_scores_QR = scores_QK.gather(1, at).masked_fill(padding_QR, -torch.inf)
    loss_Q = torch.logsumexp(scores_QK, 1) - torch.logsumexp(right_scores_QR, 1)
    hits_Q = right_scores_QR.amax(1) == scores_QK.amax(1)
    return loss_Q.mean(), float(hits_Q.double().mean())


def heaviest(reader: SparseReader, query_QD: Tensor, slots_QK: Slots) -> tuple[Slots, Array]:
    """The cells that queries read, with their weights, `[Q, K]`; of cells that all queries read,
    `[1, K']`, the K that each gives most, a few queries at a time: all may be a million."""
    candidates = reader.gather(slots_QK)
    if len(slots_QK) == len(query_QD):
        return slots_QK, attend(query_QD, candidates).weights_QK.numpy()
    k = min(reader.k, slots_QK.shape[1])
    best = [attend(own, candidates).weights_QK.topk(k, dim=1) for own in query_QD.split(AT_ONCE)]
    at_QK = torch.cat([one.indices for one in best]).numpy()
    return slots_QK[0][at_QK], torch.cat([one.values for one in best]).numpy()
