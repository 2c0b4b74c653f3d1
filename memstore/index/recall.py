"""Recall: what was measured of an index, and the least effort that reaches a target by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from memstore.memory import Array, Slots


@dataclass(frozen=True)
class Recall:
    """Recall@10 by probe, measured on queries against exact search of the same rows.

    probes_P: rising.  recalls_P, errors_P: mean over the queries and its standard error.
    asked: whether the queries were real ones, and not rows jittered.  rows: how many there were.
    """

    probes_P: Slots
    recalls_P: Array
    errors_P: Array
    asked: bool
    rows: int

    def probe(self, target: float, clusters: int) -> int:
        """The fewest lists that reach the target, a standard error kept in hand.

        Between two measured probes recall is taken to rise with the logarithm of the probe.
        Beyond the last measured one, every list.
        """
        sure_P = np.maximum.accumulate(self.recalls_P - self.errors_P)
        at = int(np.searchsorted(sure_P, target))
        if at == len(sure_P):
            return clusters
        if at == 0:
            return int(self.probes_P[0])
        low, high = np.log(self.probes_P[at - 1 : at + 1])
        share = (target - sure_P[at - 1]) / (sure_P[at] - sure_P[at - 1])
        return int(np.ceil(np.exp(low + share * (high - low)) - 1e-9))

    @property
    def most(self) -> float:
        """The highest target that a measured probe reaches."""
        return float((self.recalls_P - self.errors_P).max())

    def at(self, probe: int) -> float:
        """The recall of a probe, read off the same line."""
        return float(np.interp(np.log(probe), np.log(self.probes_P), self.recalls_P))

    def arrays(self) -> dict[str, Array]:
        """What a file keeps of it."""
        return {
            "probes": self.probes_P,
            "recalls": self.recalls_P,
            "errors": self.errors_P,
            "asked": np.array(self.asked),
            "measured_rows": np.array(self.rows),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Recall:
        return cls(
            arrays["probes"],
            arrays["recalls"],
            arrays["errors"],
            bool(arrays["asked"]),
            int(arrays["measured_rows"]),
        )
