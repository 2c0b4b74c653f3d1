"""Sparse access memory, after Rae et al. 2016, "Scaling Memory-Augmented Neural Networks with
Sparse Reads and Writes", arXiv 1610.09027, section 3; equations 128-131 of the survey "Research
Progress of Deep Memory Networks", 2020.

    h_t       = LSTM([x_t, r_{t-1}], h_{t-1})
    q, β, a, α, γ = W_p h_t                              of each head
    w^W_t     = α (γ w^R_{t-1} + (1 − γ) I^U_t)          writes: what was read before, or unused
    M_t       = (1 − R_t) ∘ M_{t-1} + Σ w^W_t a^T        R_t erases the unused word whole
    w^R_t     = softmax over the K nearest i of β cos(q, M_t(i)),  0 elsewhere
    r_t       = Σ w^R_t(i) M_t(i)
    y_t       = W_y [h_t, r_t]

I^U_t is the word least used. The paper evicts argmin_i U_t(i); by its second definition of usage,
the time since the last access, that would be the word used last, so what is meant is the longest
unused: `memstore.kernels.episode_usage`. With H heads the paper leaves open, and here: head h
writes to the h-th least used word, all H are erased before any head writes, and accesses are
counted on the sum of the heads. Words that were never written cannot be read.

The memory is changed in place; the backward pass takes back each step, so that it has M_t as it was
and, at the end, is what it was before the episode. No step knows N.

Letters: as in `models.controller`; K words read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memstore.episodic import Asked, EpisodicMemory, Read
from models.controller import Controller, access, access_size


class State(NamedTuple):
    """What one step hands to the next: the LSTM's state, what was read, its weights and words.

    weights_BHK: w^R, differentiable, as are the three before it. memory: changed in place.
    """

    hidden_BC: Tensor
    cell_BC: Tensor
    read_BHD: Tensor
    weights_BHK: Tensor
    read: Read
    memory: EpisodicMemory


class SAM(Controller[State]):
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
        asked = access_size(heads, width)
        super().__init__(inputs, outputs, asked, hidden=hidden, heads=heads, width=width)
        self.reads = reads

    def begin(self, memory: EpisodicMemory) -> State:
        """The state before the first step of an episode."""
        read = memory.unread(self.heads, self.reads)
        weights_BHK = torch.from_numpy(read.weights_BHK)
        return State(*self.nothing(memory.batch), weights_BHK, read, memory)

    def step(self, inputs_BX: Tensor, state: State) -> State:
        hidden_BC, cell_BC = self.hear(inputs_BX, state)
        asked = access(self.interface(hidden_BC), self.heads, self.width)
        call = _Call(state.memory, state.read, self.reads)
        read_BHD, weights_BHK = _Access.apply(call, *asked, state.weights_BHK)
        return State(hidden_BC, cell_BC, read_BHD, weights_BHK, call.found, state.memory)


@dataclass
class _Call:
    """An access, on its way through autograd: `found` is what it read."""

    memory: EpisodicMemory
    found: Read
    reads: int


class _Access(torch.autograd.Function):
    """`EpisodicMemory.access` forward, `EpisodicMemory.retreat` back."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        *asked, weights_BHK = (np.ascontiguousarray(tensor.numpy()) for tensor in tensors)
        before = call.found._replace(weights_BHK=weights_BHK)
        call.found, least_BH, read_BHD = call.memory.access(Asked(*asked), before, call.reads)
        ctx.memory, ctx.step = call.memory, call.memory.step
        ctx.given = Asked(*asked), before, call.found, least_BH
        return torch.from_numpy(read_BHD), torch.from_numpy(call.found.weights_BHK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        asked_grad, before_grad_BHK = ctx.memory.retreat(
            ctx.step, *ctx.given, *(grad.numpy() for grad in grads)
        )
        return None, *map(torch.from_numpy, (*asked_grad, before_grad_BHK))
