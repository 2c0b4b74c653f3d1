"""The controller of the networks that have a memory for an episode: an LSTM that hears the input
and what was read last, asks the memory by its interface, and speaks of what it reads then.

    h_t = LSTM([x_t, r_{t-1}], h_{t-1})
    ξ_t = W_ξ h_t                              what the heads ask
    y_t = W_y [h_t, r_t]

After Graves et al. 2014, arXiv 1410.5401, and Rae et al. 2016, arXiv 1610.09027. What ξ_t means,
and how r_t comes of it, is the network's own.

Letters: T steps, B memories, X inputs, C hidden units, A numbers asked, Y outputs, H heads, D width
of a word.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class Heard(Protocol):
    """What every state has: of the LSTM, and what was read."""

    @property
    def hidden_BC(self) -> Tensor: ...

    @property
    def cell_BC(self) -> Tensor: ...

    @property
    def read_BHD(self) -> Tensor: ...


S = TypeVar("S", bound=Heard)


class Controller(nn.Module, Generic[S]):
    """A network whose state is S; it says how it begins, and takes a step.

    asked: the numbers A of its interface.  heads: those that read.
    """

    def __init__(
        self, inputs: int, outputs: int, asked: int, *, hidden: int, heads: int, width: int
    ) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.controller = nn.LSTMCell(inputs + heads * width, hidden)
        self.interface = nn.Linear(hidden, asked)
        self.output = nn.Linear(hidden + heads * width, outputs)

    def begin(self, memory: Any, /) -> S:
        """The state before the first step of an episode, by a memory of the network's own kind."""
        raise NotImplementedError

    def step(self, inputs_BX: Tensor, state: S) -> S:
        """One step; the output is W_y of its hidden state and of what it read."""
        raise NotImplementedError

    def forward(self, inputs_TBX: Tensor, state: S) -> tuple[Tensor, S]:
        """Outputs `[T, B, Y]` of an episode, or of what follows `state` in it."""
        seen = []
        for inputs_BX in inputs_TBX:
            state = self.step(inputs_BX, state)
            seen.append(torch.cat([state.hidden_BC, state.read_BHD.flatten(1)], dim=1))
        return self.output(torch.stack(seen)), state

    def nothing(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """hidden_BC, cell_BC and read_BHD before the first step: zeros."""
        like = self.output.weight
        hidden_BC = like.new_zeros(batch, self.controller.hidden_size)
        return hidden_BC, hidden_BC, like.new_zeros(batch, self.heads, self.width)

    def hear(self, inputs_BX: Tensor, state: S) -> tuple[Tensor, Tensor]:
        """The LSTM's hidden_BC and cell_BC after an input."""
        inputs_BI = torch.cat([inputs_BX, state.read_BHD.flatten(1)], dim=1)
        hidden_BC, cell_BC = self.controller(inputs_BI, (state.hidden_BC, state.cell_BC))
        return hidden_BC, cell_BC


class Access(NamedTuple):
    """What heads ask that write what they read before, or to an unused word, and read by content:
    queries q, strengths β ≥ 1, added vectors a, gates α and γ."""

    query_BHD: Tensor
    strength_BH: Tensor
    add_BHD: Tensor
    write_BH: Tensor
    previous_BH: Tensor


def access_size(heads: int, width: int) -> int:
    """The numbers that `access` takes."""
    return heads * (2 * width + 3)


def access(asked_BA: Tensor, heads: int, width: int) -> Access:
    """Takes numbers of an interface for what sparse and dense access memory are asked."""
    query_BHD, add_BHD, gates_BH3 = asked_BA.unflatten(1, (heads, -1)).split(
        [width, width, 3], dim=2
    )
    strength_BH = 1 + functional.softplus(gates_BH3[..., 0])
    write_BH, previous_BH = gates_BH3[..., 1:].sigmoid().unbind(2)
    return Access(query_BHD, strength_BH, add_BHD, write_BH, previous_BH)
