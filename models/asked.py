"""Questions as networks over a knowledge base take them. Q questions, W words, K facts."""

from __future__ import annotations

from dataclasses import dataclass

from memstore.memory import Slots


@dataclass(frozen=True)
class Asked:
    """Questions, read.

    words_QW: slots of the words, `NO_SLOT` padded. entity_Q: slot of the linked entity, or
    `NO_SLOT`. slots_QK: the facts proposed by key hashing, `NO_SLOT` padded; None leaves it to
    the network to propose those of highest inner product in the whole memory. away_QK: how far from
    the entity each of them is, 1 its own; None where hops read all of them.
    """

    words_QW: Slots
    entity_Q: Slots
    slots_QK: Slots | None = None
    away_QK: Slots | None = None

    def __len__(self) -> int:
        return len(self.entity_Q)
