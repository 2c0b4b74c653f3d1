"""Episodic memory that knows, for each head, which word it wrote after which.

    memory = LinkedMemory(8, 1_000_000, 32, heads=4)

Links are sparse, belong to the episode, and are taken back with its steps: `kernels.episode_links`.
They are made by `access_linked` alone; what `blend` and `access` write is linked to nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memstore import checks
from memstore.episodic.memory import Asked, EpisodicMemory, Read
from memstore.episodic.room import no_links, roomy_links
from memstore.errors import InvalidArgument
from memstore.kernels.episode_linked import MODES, Shares, access_linked, retreat_linked
from memstore.kernels.episode_links import linked, mark_links, undo_links
from memstore.memory import Array

__all__ = ["MODES", "LinkedMemory", "Shares"]


class LinkedMemory(EpisodicMemory):
    """An `EpisodicMemory` with links.

    heads: that access it.  links: L, how many words written before each word, and after it, are
    known; the paper has 8, and saw no benefit from more.  options: those of `EpisodicMemory`.
    """

    def __init__(
        self, batch: int, words: int, width: int, *, heads: int, links: int = 8, **options: Any
    ) -> None:
        super().__init__(batch, words, width, **options)
        self.heads, self.links = checks.positive("heads", heads), checks.positive("links", links)
        self._links = no_links(self.batch, self.heads, self.links, self.dtype)

    @property
    def journal_bytes(self) -> int:
        return super().journal_bytes + sum(array.nbytes for array in self._links)

    def access_linked(
        self, asked: Asked, modes_BH3: Array, before: Read, k: int
    ) -> tuple[Read, Shares, npt.NDArray[np.int32], Array]:
        """Takes a step of the sparse differentiable neural computer: `kernels.episode_linked`.

        modes_BH3: π, the weights of reading backward, by content and forward.  k: words a mode.
        Returns what was read and with what weights, the shares of each mode, the words that were
        erased `[B, H]`, and what the heads read, `[B, H, D]`.
        """
        if asked.query_BHD.shape[1] != self.heads:
            got = asked.query_BHD.shape[1]
            raise InvalidArgument("heads are not those linked", got=got, expected=self.heads)
        self._as_is("modes", modes_BH3, (self.batch, self.heads, MODES), self.dtype)
        found, least_BH, read_BHD = self._ready(asked, before, MODES * k)
        shares = Shares(np.zeros_like(found.weights_BHK), np.ones_like(modes_BH3))
        kept = linked(self._links) + 2 * self.heads * self.links
        self._links = roomy_links(self._links, self._fresh.row_BF.shape[1], kept, 0)

        def access(first: int, last: int) -> None:
            access_linked(
                self._words,
                self._sealed,
                self._fresh,
                self._usage,
                self._journal,
                self._links,
                asked,
                modes_BH3,
                before,
                self._probe,
                self._rule,
                self._step,
                first,
                last,
                least_BH,
                found,
                shares,
                read_BHD,
            )

        self._in_parts(access)
        return found, shares, least_BH, read_BHD

    def retreat_linked(
        self,
        step: int,
        asked: Asked,
        modes_BH3: Array,
        before: Read,
        found: Read,
        shares: Shares,
        least_BH: npt.NDArray[np.int32],
        read_grad_BHD: Array,
        weight_grad_BHK: Array,
    ) -> tuple[Asked, Array, Array]:
        """Takes back step `step`, an `access_linked`, as `retreat` does an `access`.

        Returns the gradients of what was asked, of π and of the weights before.
        """
        self._asked(asked, before, least_BH.shape[1])
        read_grad_BHD = self._array("gradients", read_grad_BHD, asked.query_BHD.shape)
        weight_grad_BHK = self._array("gradients", weight_grad_BHK, found.rows_BHK.shape)
        asked_grad, before_grad_BHK = self._go_back(step, asked, before)
        modes_grad_BH3 = np.zeros_like(modes_BH3)
        retreat_linked(
            self._words,
            self._fresh,
            self._usage,
            self._journal,
            self._links,
            asked,
            modes_BH3,
            before,
            found,
            shares,
            least_BH,
            self._probe.cosine,
            step,
            read_grad_BHD,
            weight_grad_BHK,
            self._grads_BFD,
            asked_grad,
            modes_grad_BH3,
            before_grad_BHK,
        )
        self._went_back(step)
        return asked_grad, modes_grad_BH3, before_grad_BHK

    def _begin(self) -> None:
        super()._begin()
        self._links = roomy_links(self._links, 0, 0, self._step + 1)
        mark_links(self._links, self._step)

    def _undo(self, step: int) -> None:
        undo_links(self._links, step)
        super()._undo(step)
