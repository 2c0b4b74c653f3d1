"""Dense access memory, after Rae et al. 2016, arXiv 1610.09027, section 3.2 and appendix: what
sparse access memory (`models.sam`) approximates. The same network, but each head reads every word,
and what is evicted is the word of least discounted usage:

    U_t(i)    = Σ_s λ^(t−s) (w^W_s(i) + w^R_s(i))                  the paper's first definition
    w^W_t     = α (γ w^R_{t-1} + (1 − γ) I^U_t)
    M_t       = (1 − R_t) ∘ M_{t-1} + Σ w^W_t a^T                  R_t erases the unused word whole
    w^R_t     = softmax_i β cos(q, M_t(i))
    y_t       = W_y [h_t, Σ_i w^R_t(i) M_t(i)]

Head h writes to the h-th least used word; usage is that of all heads, and takes no gradient.

Letters: T steps, B memories, X inputs, Y outputs, H heads, N words, D width of a word.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.ntm import cosines


class State(NamedTuple):
    """weights_BHN: w^R; usage_BN: U."""

    hidden_BC: Tensor
    cell_BC: Tensor
    read_BHD: Tensor
    weights_BHN: Tensor
    words_BND: Tensor
    usage_BN: Tensor


class DAM(nn.Module):
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
        super().__init__()
        self.heads, self.width, self.discount = heads, width, discount
        self.controller = nn.LSTMCell(inputs + heads * width, hidden)
        self.interface = nn.Linear(hidden, heads * (2 * width + 3))
        self.output = nn.Linear(hidden + heads * width, outputs)

    def begin(self, words_BND: Tensor) -> State:
        batch, words, width = words_BND.shape
        hidden_BC = words_BND.new_zeros(batch, self.controller.hidden_size)
        read_BHD = words_BND.new_zeros(batch, self.heads, width)
        weights_BHN = words_BND.new_zeros(batch, self.heads, words)
        return State(
            hidden_BC, hidden_BC, read_BHD, weights_BHN, words_BND, weights_BHN[:, 0].clone()
        )

    def forward(self, inputs_TBX: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs `[T, B, Y]` of an episode, or of what follows `state` in it."""
        seen = []
        for inputs_BX in inputs_TBX:
            state = self.step(inputs_BX, state)
            seen.append(torch.cat([state.hidden_BC, state.read_BHD.flatten(1)], dim=1))
        return self.output(torch.stack(seen)), state

    def step(self, inputs_BX: Tensor, state: State) -> State:
        inputs_BI = torch.cat([inputs_BX, state.read_BHD.flatten(1)], dim=1)
        hidden_BC, cell_BC = self.controller(inputs_BI, (state.hidden_BC, state.cell_BC))
        query_BHD, add_BHD, gates_BH3 = (
            self.interface(hidden_BC)
            .unflatten(1, (self.heads, -1))
            .split([self.width, self.width, 3], dim=2)
        )
        strength_BH1 = 1 + functional.softplus(gates_BH3[..., :1])
        write_BH1, previous_BH1 = gates_BH3[..., 1:].sigmoid().split(1, dim=2)
        # Sorted stably: of equal ones the first.
        least_BH = state.usage_BN.argsort(dim=1, stable=True)[:, : self.heads]
        unused_BHN = functional.one_hot(least_BH, state.usage_BN.shape[1]).to(hidden_BC)
        written_BHN = write_BH1 * torch.lerp(unused_BHN, state.weights_BHN, previous_BH1)
        words_BND = state.words_BND * (1 - unused_BHN.sum(1))[..., None]
        words_BND = words_BND + written_BHN.mT @ add_BHD
        weights_BHN = (strength_BH1 * cosines(query_BHD, words_BND)).softmax(dim=2)
        accessed_BN = (written_BHN + weights_BHN).sum(1).detach()
        usage_BN = self.discount * state.usage_BN + accessed_BN
        read_BHD = weights_BHN @ words_BND
        return State(hidden_BC, cell_BC, read_BHD, weights_BHN, words_BND, usage_BN)
