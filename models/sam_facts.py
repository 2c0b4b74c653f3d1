"""Sparse access memory that reads facts as well: what was said in an episode is in its own memory
(`models.sam`), what always holds is in one of facts, which is far larger, shared, and searched.

    h_t, r_t  as in `models.sam`
    q_t = W_q [h_t, r_t]
    f_t = Σ_k softmax_k ⟨q_t, key_k⟩ value_k            the K facts of highest inner product
    y_t = W_y [h_t, r_t] + W_f f_t                      where an answer is asked for

    loss = the cost of y_t − log of what the right fact was given

The facts are searched once an episode, for all its answers. While training, the right fact is put
in where the search missed it, and what it is given is learnt as well, as by `models.hmn`: a query
that is near to no fact yet finds by chance what it is compared with, and of values alone hears
little. Rae et al. 2016 have no such memory.

Letters: as in `models.controller`; A answers, K facts read, V width of their values.
"""

from __future__ import annotations

from torch import Tensor, nn

from memstore.episodic import EpisodicMemory
from memstore.memory import Slots
from memstore.torch import Reading, SparseReader, attend
from models.hmn import with_right
from models.sam import SAM, State


class FactSAM(nn.Module):
    """The network; facts: a plain memory, whose rows learn too.  outputs: Y."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        facts: SparseReader,
        *,
        hidden: int = 100,
        heads: int = 4,
        reads: int = 4,
        width: int = 32,
    ) -> None:
        super().__init__()
        config = facts.memory.config
        self.facts, self.split = facts, [outputs, config.dim]
        self.sam = SAM(
            inputs, sum(self.split), hidden=hidden, heads=heads, reads=reads, width=width
        )
        self.told = nn.Linear(config.value_dim or config.dim, outputs, bias=False)

    def begin(self, memory: EpisodicMemory) -> State:
        """The state before the first step of an episode."""
        return self.sam.begin(memory)

    def forward(
        self, inputs_TBX: Tensor, state: State, asked_TB: Tensor, right_A: Slots | None = None
    ) -> tuple[Tensor, Reading]:
        """Answers `[A, Y]` where asked_TB is true, and the facts read for each.  right_A: the slots
        of the facts asked for."""
        said_TBY, _ = self.sam(inputs_TBX, state)
        said_AY, query_AD = said_TBY[asked_TB].split(self.split, dim=1)
        slots_AK = self.facts.search(query_AD)
        if right_A is not None:
            slots_AK = with_right(slots_AK, right_A[:, None])
        reading = attend(query_AD, self.facts.gather(slots_AK))
        return said_AY + self.told(reading.output_QV), reading
