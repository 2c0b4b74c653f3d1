"""Neural Turing machine, after Graves et al. 2014, arXiv 1410.5401, section 3: the dense network
that sparse access memory is measured beside. Every head looks at every word in every step.

    h_t   = LSTM([x_t, r_{t-1}], h_{t-1})
    w^c   = softmax_i(β cos(k, M(i)))                   content                       eq. 5, 6
    w^g   = g w^c + (1 − g) w_{t-1}                     interpolation                 eq. 7
    w̃(i)  = Σ_j w^g(i − j) s(j),  j = −1, 0, 1          shift, around the end         eq. 8
    w     = w̃^γ / Σ w̃^γ                                 sharpening                    eq. 9
    M_t   = M_{t-1} ∘ Π_h (1 − w_h e_hᵀ) + Σ_h w_h a_hᵀ  the heads that write          eq. 3, 4
    r_t   = Σ_i w(i) M_t(i)                             the heads that read           eq. 2
    y_t   = W_y [h_t, r_t]

Letters: as in `models.controller`, but of heads H that read and as many that write; N words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models.controller import Controller

SHIFTS = 3


class State(NamedTuple):
    """weights_BHN: of the heads that read, then of those that write."""

    hidden_BC: Tensor
    cell_BC: Tensor
    read_BHD: Tensor
    weights_BHN: Tensor
    words_BND: Tensor


class NTM(Controller[State]):
    """The network; words_BND, where it begins, is the caller's."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int = 100,
        heads: int = 4,
        width: int = 32,
    ) -> None:
        asked = [2 * heads * (width + 3 + SHIFTS), 2 * heads * width]
        super().__init__(inputs, outputs, sum(asked), hidden=hidden, heads=heads, width=width)
        self.asked = asked

    def begin(self, words_BND: Tensor) -> State:
        """The state before the first step of an episode."""
        batch, words, _ = words_BND.shape
        weights_BHN = words_BND.new_zeros(batch, 2 * self.heads, words)
        weights_BHN[..., 0] = 1
        return State(*self.nothing(batch), weights_BHN, words_BND)

    def step(self, inputs_BX: Tensor, state: State) -> State:
        hidden_BC, cell_BC = self.hear(inputs_BX, state)
        addresses_BA, changes_BA = self.interface(hidden_BC).split(self.asked, dim=1)
        weights_BHN = self._address(addresses_BA, state.weights_BHN, state.words_BND)
        reading_BHN, writing_BHN = weights_BHN.split(self.heads, dim=1)
        changes_B2HD = changes_BA.unflatten(1, (2, self.heads, self.width))
        erase_BHD, add_BHD = changes_B2HD[:, 0].sigmoid(), changes_B2HD[:, 1]
        words_BND = state.words_BND
        for h in range(self.heads):
            erased_BND = writing_BHN[:, h, :, None] * erase_BHD[:, h, None]
            words_BND = words_BND * (1 - erased_BND)
        words_BND = words_BND + writing_BHN.mT @ add_BHD
        return State(hidden_BC, cell_BC, reading_BHN @ words_BND, weights_BHN, words_BND)

    def _address(self, addresses_BA: Tensor, before_BHN: Tensor, words_BND: Tensor) -> Tensor:
        asked_BHA = addresses_BA.unflatten(1, (2 * self.heads, -1))
        key_BHD, gates_BH3, shift_BHS = asked_BHA.split([self.width, 3, SHIFTS], dim=2)
        strength_BH1, gate_BH1, sharp_BH1 = gates_BH3.split(1, dim=2)
        cosine_BHN = cosines(key_BHD, words_BND)
        content_BHN = ((1 + functional.softplus(strength_BH1)) * cosine_BHN).softmax(dim=2)
        gated_BHN = torch.lerp(before_BHN, content_BHN, gate_BH1.sigmoid())
        shifted_BHN = sum(
            share_BH1 * gated_BHN.roll(by, dims=2)
            for by, share_BH1 in zip(
                (-1, 0, 1), shift_BHS.softmax(dim=2).split(1, dim=2), strict=True
            )
        )
        assert isinstance(shifted_BHN, Tensor)
        # Above zero, so that the power has a gradient.
        sharp_BHN = (shifted_BHN + 1e-12) ** (1 + functional.softplus(sharp_BH1))
        return sharp_BHN / sharp_BHN.sum(dim=2, keepdim=True)


def cosines(keys_BHD: Tensor, words_BND: Tensor) -> Tensor:
    """q·x / (√(‖q‖² + ε) √(‖x‖² + ε)) of each head and word, `[B, H, N]`, as `EpisodicMemory`."""
    keys_BHD = keys_BHD / (keys_BHD.square().sum(2, keepdim=True) + 1e-6).sqrt()
    return keys_BHD @ words_BND.mT / (words_BND.square().sum(2) + 1e-6).sqrt()[:, None]
