"""SpreadCandidates: what several parts of a memory have for training, as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from memstore.filters import Filter
from memstore.kernels.topk import top_k
from memstore.memory import NO_SLOT, Array, SearchOptions, Slots
from memstore.widening import Candidates


class SpreadCandidates:
    """The candidates of parts.  fan: asks all of them at once."""

    def __init__(
        self, parts: Sequence[Candidates], fan: Callable[[Sequence[Callable[[], Any]]], list[Any]]
    ) -> None:
        self._parts, self._fan = parts, fan

    def sampled(
        self, queries_QD: Array, k: int, options: SearchOptions, seed: int
    ) -> tuple[Slots, Array, npt.NDArray[np.int64]]:
        found = self._fan([partial(p.sampled, queries_QD, k, options, seed) for p in self._parts])
        slots, scores = (np.concatenate([each[i] for each in found], axis=1) for i in (0, 1))
        best = top_k(slots, scores, k)
        return best[0], best[1], np.sum([tried_Q for *_, tried_Q in found], axis=0)

    def standing(self, slots_B: Slots, tree: Filter | None) -> npt.NDArray[np.bool_]:
        found = self._fan([partial(part.standing, slots_B, tree) for part in self._parts])
        standing_B: npt.NDArray[np.bool_] = np.any(found, axis=0)
        return standing_B

    def live_passing(self, tree: Filter | None) -> Slots:
        return np.concatenate(self._fan([partial(p.live_passing, tree) for p in self._parts]))

    def scored(
        self, queries_QD: Array, slots_QC: Slots, tree: Filter | None
    ) -> tuple[Slots, Array, npt.NDArray[np.int64]]:
        calls = [partial(part.scored, queries_QD, slots_QC, tree) for part in self._parts]
        found = self._fan(calls)
        found_QC = np.full(slots_QC.shape, NO_SLOT)
        scores_QC = np.full(slots_QC.shape, -np.inf, queries_QD.dtype)
        for own_QC, part_QC, _ in found:
            here_QC = own_QC != NO_SLOT
            found_QC[here_QC], scores_QC[here_QC] = own_QC[here_QC], part_QC[here_QC]
        return found_QC, scores_QC, np.max([versions_S for *_, versions_S in found], axis=0)
