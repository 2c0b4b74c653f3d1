"""Dense access memory, after Rae et al. 2016, arXiv 1610.09027, section 3.2 and appendix: what
sparse access memory (`models.sam`) approximates. The same network, but each head reads every word,
and what is evicted is the word of least discounted usage:

    U_t(i)    = Σ_s λ^(t−s) (w^W_s(i) + w^R_s(i))                  the paper's first definition
    w^W_t     = α (γ w^R_{t-1} + (1 − γ) I^U_t)
    M_t       = (1 − R_t) ∘ M_{t-1} + Σ w^W_t a^T                  R_t erases the unused word whole
    w^R_t     = softmax_i β cos(q, M_t(i))
    y_t       = W_y [h_t, Σ_i w^R_t(i) M_t(i)]

Head h writes to the h-th least used word; usage is that of all heads, and takes no gradient.

Letters: as in `models.controller`; N words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models.controller import Controller, access, access_size
from models.ntm import cosines


class State(NamedTuple):
    """weights_BHN: w^R; usage_BN: U."""

    hidden_BC: Tensor
    cell_BC: Tensor
    read_BHD: Tensor
    weights_BHN: Tensor
    words_BND: Tensor
    usage_BN: Tensor


class DAM(Controller[State]):
    """The network; words_BND, where it begins, is the caller's. discount: λ."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int = 100,
        heads: int = 4,
        width: int = 32,
        discount: float = 0.99,
    ) -> None:
        asked = access_size(heads, width)
        super().__init__(inputs, outputs, asked, hidden=hidden, heads=heads, width=width)
        self.discount = discount

    def begin(self, words_BND: Tensor) -> State:
        """The state before the first step of an episode."""
        batch, words, _ = words_BND.shape
        weights_BHN = words_BND.new_zeros(batch, self.heads, words)
        usage_BN = words_BND.new_zeros(batch, words)
        return State(*self.nothing(batch), weights_BHN, words_BND, usage_BN)

    def step(self, inputs_BX: Tensor, state: State) -> State:
        hidden_BC, cell_BC = self.hear(inputs_BX, state)
        asked = access(self.interface(hidden_BC), self.heads, self.width)
        # Sorted stably: of equal ones the first.
        least_BH = state.usage_BN.argsort(dim=1, stable=True)[:, : self.heads]
        unused_BHN = functional.one_hot(least_BH, state.usage_BN.shape[1]).to(hidden_BC)
        target_BHN = torch.lerp(unused_BHN, state.weights_BHN, asked.previous_BH[..., None])
        written_BHN = asked.write_BH[..., None] * target_BHN
        words_BND = state.words_BND * (1 - unused_BHN.sum(1))[..., None]
        words_BND = words_BND + written_BHN.mT @ asked.add_BHD
        cosine_BHN = cosines(asked.query_BHD, words_BND)
        weights_BHN = (asked.strength_BH[..., None] * cosine_BHN).softmax(dim=2)
        accessed_BN = (written_BHN + weights_BHN).sum(1).detach()
        usage_BN = self.discount * state.usage_BN + accessed_BN
        read_BHD = weights_BHN @ words_BND
        return State(hidden_BC, cell_BC, read_BHD, weights_BHN, words_BND, usage_BN)
