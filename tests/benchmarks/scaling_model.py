"""How trainers and servers scale, reckoned from times that were measured; no benchmark itself.

A trainer is a customer who takes step after step; a step takes D seconds of processor in all, some
of it the trainer's own, the rest at servers that work side by side. Of T trainers who share what
serves in d seconds, one finds Q others before it, on average: X = T / R, Q = X · R_d (Little), and

    R_d(T) = d · (1 + Q(T - 1))            Reiser and Lavenberg 1980, exact mean values

so that R(1) is the step alone and X → 1/d with many. Nothing is fitted but what a request and a
byte take of processor, which are measured at few numbers of shards; the others are predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Point:
    """What was measured with so many shards, each on a server of its own, and trainers.

    The rest is of one step: requests, bytes both ways, seconds, those of processor that the trainer
    and that all servers took.
    """

    shards: int
    trainers: int
    requests: float
    bytes: float
    seconds: float
    trainer_s: float
    servers_s: float


def requests(shards: int) -> int:
    """Calls of a step: it searches, gathers, prepares and applies; one shard need not prepare."""
    return 3 if shards == 1 else 4 * shards


PHASES = 4
"""Times that a step waits for all servers, where there are several."""


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds of processor.

    step_s: of the trainer, whatever the shards.  request_s: of the trainer, a request.
    server_request_s, server_byte_s: of a server, beside `search_s`, which a search of one shard
    computes.
    bytes, bytes_shard: of a step, and more for each shard.  wait_s: what a step of one trainer on
    one shard takes beyond that, in which nobody works.
    """

    step_s: float
    request_s: float
    server_request_s: float
    server_byte_s: float
    search_s: float
    bytes: float
    bytes_shard: float
    wait_s: float

    @classmethod
    def of(cls, points: Sequence[Point], search_s: float, byte_s: float) -> Costs:
        """Fits what is linear to points of one trainer, at least two, one of them of one shard."""
        ones = np.ones(len(points))
        counts = np.array([point.requests for point in points])
        sizes = np.array([point.bytes for point in points])
        shards = np.array([float(point.shards) for point in points])
        total, per_shard = _fit([ones, shards], sizes)
        step, request = _fit([ones, counts], np.array([point.trainer_s for point in points]))
        known = search_s * shards + byte_s * sizes
        [server_request] = _fit([counts], np.array([p.servers_s for p in points]) - known)
        [first] = [point for point in points if point.shards == 1]
        waits = max(first.seconds - first.trainer_s - first.servers_s, 0.0)
        return cls(step, request, server_request, byte_s, search_s, total, per_shard, waits)

    def bytes_of(self, shards: int) -> float:
        return self.bytes + self.bytes_shard * shards

    def trainer(self, shards: int) -> float:
        """Seconds of a trainer's processor."""
        return self.step_s + self.request_s * requests(shards)

    def servers(self, shards: int) -> float:
        """Seconds of processor of all servers together."""
        here = self.server_request_s * requests(shards) + self.server_byte_s * self.bytes_of(shards)
        return here + self.search_s * shards

    def on_cores(self, shards: int, trainers: int, cores: int) -> float:
        """Steps a second of all trainers, where they and the servers share the cores."""
        total = self.trainer(shards) + self.servers(shards)
        phases = 1 if shards == 1 else PHASES / 3
        alone = self.trainer(shards) + self.servers(shards) / min(shards, cores)
        return _rate(trainers, total / cores, alone + self.wait_s * phases)

    def on_network(
        self, shards: int, trainers: int, network: Network, server_cores: int = 1
    ) -> float:
        """Steps a second of all trainers, each a machine of its own, as is each server."""
        moved_s = self.bytes_of(shards) / network.bytes_per_s
        server_s = self.servers(shards) / shards / server_cores + moved_s / shards
        alone = self.trainer(shards) + PHASES * network.there_and_back_s + moved_s + server_s
        # A step goes on when the last of the shards has answered: of waits that are drawn
        # independently, whose law is exponential, the longest is that many times the mean.
        longest = sum(1 / i for i in range(1, shards + 1))
        return _rate(trainers, server_s, alone, longest)


@dataclass(frozen=True)
class Network:
    """there_and_back_s: of a small message.  bytes_per_s: of a machine, each way."""

    name: str
    there_and_back_s: float
    bytes_per_s: float


def _fit(columns: Sequence[np.ndarray], values: np.ndarray) -> list[float]:
    """Least squares of few points, without negative costs: such a column is left out."""
    kept = list(range(len(columns)))
    while True:
        found, *_ = np.linalg.lstsq(np.stack([columns[i] for i in kept], 1), values, rcond=None)
        if (found >= 0).all() or len(kept) == 1:
            break
        kept.pop(int(np.argmin(found)))
    costs = dict(zip(kept, found.tolist(), strict=True))
    return [max(costs.get(i, 0.0), 0.0) for i in range(len(columns))]


def _rate(customers: int, shared_s: float, alone_s: float, longest: float = 1.0) -> float:
    """Steps a second of so many, each of which takes `alone_s` where nobody else is, `shared_s` of
    it at what all share.  longest: how much longer than one such wait the longest is."""
    rest_s, before, rate = alone_s - shared_s, 0.0, 0.0
    for count in range(1, customers + 1):
        waited_s = shared_s * before
        step_s = rest_s + shared_s + longest * waited_s
        rate = min(count / step_s, 1 / shared_s)
        before = min(rate * (shared_s + waited_s), float(count))
    return rate
