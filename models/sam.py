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

Letters: T steps, B memories, X inputs, Y outputs, H heads, K words read, D width of a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from memstore.episodic import Asked, EpisodicMemory, Read


class State(NamedTuple):
    """What one step hands to the next: the LSTM's state, what was read, its weights and words.

    weights_BHK: w^R, differentiable, as are the others but `read`.
    """

    hidden_BC: Tensor
    cell_BC: Tensor
    read_BHD: Tensor
    weights_BHK: Tensor
    read: Read


class SAM(nn.Module):
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
        super().__init__()
        self.heads, self.reads, self.width = heads, reads, width
        self.controller = nn.LSTMCell(inputs + heads * width, hidden)
        self.interface = nn.Linear(hidden, heads * (2 * width + 3))
        self.output = nn.Linear(hidden + heads * width, outputs)

    def begin(self, memory: EpisodicMemory) -> State:
        """The state before the first step of an episode."""
        like, read = self.output.weight, memory.unread(self.heads, self.reads)
        hidden_BC = like.new_zeros(memory.batch, self.controller.hidden_size)
        read_BHD = like.new_zeros(memory.batch, self.heads, self.width)
        return State(hidden_BC, hidden_BC, read_BHD, torch.from_numpy(read.weights_BHK), read)

    def forward(
        self, inputs_TBX: Tensor, memory: EpisodicMemory, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Outputs `[T, B, Y]` of an episode, or of what follows `state` in it."""
        state = self.begin(memory) if state is None else state
        seen = []
        for inputs_BX in inputs_TBX:
            state = self.step(inputs_BX, memory, state)
            seen.append(torch.cat([state.hidden_BC, state.read_BHD.flatten(1)], dim=1))
        return self.output(torch.stack(seen)), state

    def step(self, inputs_BX: Tensor, memory: EpisodicMemory, state: State) -> State:
        """One step; the output is W_y of its hidden state and of what it read."""
        inputs_BI = torch.cat([inputs_BX, state.read_BHD.flatten(1)], dim=1)
        hidden_BC, cell_BC = self.controller(inputs_BI, (state.hidden_BC, state.cell_BC))
        query_BHD, add_BHD, gates_BH3 = (
            self.interface(hidden_BC)
            .unflatten(1, (self.heads, -1))
            .split([self.width, self.width, 3], dim=2)
        )
        strength_BH = 1 + functional.softplus(gates_BH3[..., 0])
        write_BH, previous_BH = gates_BH3[..., 1:].sigmoid().unbind(2)
        call = _Call(memory, state.read, self.reads)
        read_BHD, weights_BHK = _Access.apply(
            call, query_BHD, strength_BH, add_BHD, write_BH, previous_BH, state.weights_BHK
        )
        return State(hidden_BC, cell_BC, read_BHD, weights_BHK, call.found)


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
