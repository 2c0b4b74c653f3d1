"""Sparse differentiable neural computer, after Rae et al. 2016, arXiv 1610.09027, appendix D.

Sparse access memory (`models.sam`) that knows which word it wrote after which, as the
differentiable neural computer of Graves et al. 2016 (Nature 538) does, and can read along that.

    h_t, q, β, a, α, γ, w^W_t, M_t                       as in `models.sam`
    p_t        = (1 − Σ w^W_t) p_{t-1} + w^W_t           how lately a word was written     eq. 11
    N_t(i, j)  = (1 − w^W_t(i)) N_{t-1}(i, j) + w^W_t(i) p_{t-1}(j)      i after j         eq. 19
    c_t        = softmax over the K nearest i of β cos(q, M_t(i))
    b_t, f_t   = what was written before, and after, the words of w^R_{t-1}, by N_t
    w^R_t      = π_1 b_t + π_2 c_t + π_3 f_t,   π = softmax of W_p h_t
    r_t        = Σ w^R_t(i) M_t(i)
    y_t        = W_y [h_t, r_t]

Of w^W_t, as far as it links, of p and of each row of N and of its transpose the L greatest entries
are kept, of b and f the K greatest; where the paper leaves this open, or asks for more than a step
may cost, `memstore.kernels.episode_links` says what is done. The paper takes the usage of SAM in
place of the DNC's allocation; so here. It passes no gradients through the linkage: N and p are
constants here too, but π and w^R_{t-1} learn through b and f. Each head has links of its own,
between the words that it wrote.

Letters: as in `models.sam`; π in the order of the DNC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memstore.episodic import Asked, Read
from memstore.episodic.linked import MODES, LinkedMemory
from models.controller import Controller, access, access_size


class State(NamedTuple):
    """What one step hands to the next: the LSTM's state, what was read, its weights and words.

    weights_BHK: w^R, K columns of each mode, differentiable, as are the three before it.  memory:
    changed in place.
    """

    hidden_BC: Tensor
    cell_BC: Tensor
    read_BHD: Tensor
    weights_BHK: Tensor
    read: Read
    memory: LinkedMemory


class SDNC(Controller[State]):
    """The network; the memory is the caller's, one for each element of a batch."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int = 100,
        heads: int = 4,
        reads: int = 4,
        width: int = 32,
    ) -> None:
        asked = access_size(heads, width) + heads * MODES
        super().__init__(inputs, outputs, asked, hidden=hidden, heads=heads, width=width)
        self.reads = reads

    def begin(self, memory: LinkedMemory) -> State:
        """The state before the first step of an episode."""
        read = memory.unread(self.heads, MODES * self.reads)
        weights_BHK = torch.from_numpy(read.weights_BHK)
        return State(*self.nothing(memory.batch), weights_BHK, read, memory)

    def step(self, inputs_BX: Tensor, state: State) -> State:
        hidden_BC, cell_BC = self.hear(inputs_BX, state)
        asked_BA, modes_BA = self.interface(hidden_BC).split(
            [access_size(self.heads, self.width), self.heads * MODES], dim=1
        )
        modes_BH3 = modes_BA.unflatten(1, (self.heads, MODES)).softmax(2)
        asked = access(asked_BA, self.heads, self.width)
        call = _Call(state.memory, state.read, self.reads)
        read_BHD, weights_BHK = _Access.apply(call, *asked, modes_BH3, state.weights_BHK)
        return State(hidden_BC, cell_BC, read_BHD, weights_BHK, call.found, state.memory)


@dataclass
class _Call:
    """An access, on its way through autograd: `found` is what it read."""

    memory: LinkedMemory
    found: Read
    reads: int


class _Access(torch.autograd.Function):
    """`LinkedMemory.access_linked` forward, `LinkedMemory.retreat_linked` back."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        *asked, modes_BH3, weights_BHK = (
            np.ascontiguousarray(tensor.numpy()) for tensor in tensors
        )
        before = call.found._replace(weights_BHK=weights_BHK)
        call.found, shares, least_BH, read_BHD = call.memory.access_linked(
            Asked(*asked), modes_BH3, before, call.reads
        )
        ctx.memory, ctx.step = call.memory, call.memory.step
        ctx.given = Asked(*asked), modes_BH3, before, call.found, shares, least_BH
        return torch.from_numpy(read_BHD), torch.from_numpy(call.found.weights_BHK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        asked_grad, modes_grad_BH3, before_grad_BHK = ctx.memory.retreat_linked(
            ctx.step, *ctx.given, *(grad.numpy() for grad in grads)
        )
        return None, *map(torch.from_numpy, (*asked_grad, modes_grad_BH3, before_grad_BHK))
