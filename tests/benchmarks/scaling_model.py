"""How trainers and servers scale, reckoned from times that were measured; no benchmark itself.

A trainer is a customer who takes step after step; a step takes D seconds of processor in all, some
of it the trainer's own, the rest at servers that work side by side. Of T trainers who share what
serves in d seconds, one finds Q others before it, on average: X = T / R, Q = X · R_d (Little), and

    R_d(T) = d · (1 + Q(T - 1))            Reiser and Lavenberg 1980, exact mean values

so that R(1) is the step alone and X → 1/d with many. Nothing is fitted but what a request takes of
processor, which is measured at few numbers of shards; the others are predicted.

Seconds of processor are not the same whoever runs beside: two cores may be two threads of one, and
share caches. So costs are those of a process that has the machine for itself, and `crowded` says by
how much they are more where all cores work: that is how they come where several servers, or
several trainers, work side by side on one machine, and not how they are on machines of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Point:
    """What was measured with so many shards, each on a server of its own, and trainers.

    others: of the cores, what processes took that are no part of it. The rest is of one step:
    requests, bytes both ways, seconds, those of processor that the trainer and that all servers
    took.
    """

    shards: int
    trainers: int
    requests: float
    bytes: float
    seconds: float
    trainer_s: float
    servers_s: float
    others: float = 0.0


def requests(shards: int) -> int:
    """Calls of a step: it searches, gathers, prepares and applies; one shard need not prepare."""
    return 3 if shards == 1 else 4 * shards


PHASES = 4
"""Times that a step waits for all servers, where there are several."""


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds of processor where nobody works beside.

    step_s: of the trainer, whatever the shards.  request_s: of the trainer, a request.
    server_request_s: of a server, a request, beside `search_s`, which a search of one shard
    computes; row_byte_s, query_byte_s: of a byte of rows and gradients, with what is done to them,
    and of a byte of a search.
    bytes, bytes_shard: of a step: its rows, and for each shard a search.  wait_s: what a step of
    one trainer on one shard takes beyond that, in which nobody works.
    crowded: how many times as much processor all of it takes where all cores work.
    """

    step_s: float
    request_s: float
    server_request_s: float
    row_byte_s: float
    query_byte_s: float
    search_s: float
    bytes: float
    bytes_shard: float
    wait_s: float
    crowded: float = 1.0

    @classmethod
    def of(
        cls,
        points: Sequence[Point],
        crowd: Point,
        search_s: float,
        row_byte_s: float,
        query_byte_s: float,
    ) -> Costs:
        """Fits what is linear to points of one trainer, at least two, one of them of one shard.

        crowd: on one shard too, of as many trainers as keep all cores at work.
        """
        [first] = [point for point in points if point.shards == 1]
        crowded = (crowd.trainer_s + crowd.servers_s) / (first.trainer_s + first.servers_s)
        crowded = max(crowded, 1.0)
        ones = np.ones(len(points))
        counts = np.array([point.requests for point in points])
        sizes = np.array([point.bytes for point in points])
        shards = np.array([float(point.shards) for point in points])
        total, per_shard = _fit([ones, shards], sizes)
        step, request = _fit([ones, counts], np.array([point.trainer_s for point in points]))
        known = (search_s + query_byte_s * per_shard) * shards + row_byte_s * total
        there_s = [p.servers_s / (crowded if p.shards > 1 else 1.0) for p in points]
        [server_request] = _fit([counts], np.array(there_s) - known)
        waits = max(first.seconds - first.trainer_s - first.servers_s, 0.0)
        return cls(
            step_s=step,
            request_s=request,
            server_request_s=server_request,
            row_byte_s=row_byte_s,
            query_byte_s=query_byte_s,
            search_s=search_s,
            bytes=total,
            bytes_shard=per_shard,
            wait_s=waits,
            crowded=crowded,
        )

    def bytes_of(self, shards: int) -> float:
        return self.bytes + self.bytes_shard * shards

    def trainer(self, shards: int) -> float:
        """Seconds of a trainer's processor."""
        return self.step_s + self.request_s * requests(shards)

    def servers(self, shards: int) -> float:
        """Seconds of processor of all servers together."""
        each = self.search_s + self.query_byte_s * self.bytes_shard
        return (
            self.server_request_s * requests(shards) + self.row_byte_s * self.bytes + each * shards
        )

    def on_cores(self, shards: int, trainers: int, cores: int) -> float:
        """Steps a second of all trainers, where they and the servers share the cores."""
        total = self.crowded * (self.trainer(shards) + self.servers(shards))
        phases = 1 if shards == 1 else PHASES / 3
        # Of one trainer, servers work beside each other where there are several.
        beside = 1.0 if shards == 1 else self.crowded / min(shards, cores)
        alone = self.trainer(shards) + beside * self.servers(shards) + self.wait_s * phases
        return _rate(trainers, total / cores, max(alone, total / cores))

    def on_network(
        self, shards: int, trainers: int, network: Network, server_cores: int = 1
    ) -> float:
        """Steps a second of all trainers, each a machine of its own, as is each server."""
        moved_s = self.bytes_of(shards) / network.bytes_per_s
        server_s = self.servers(shards) / shards / server_cores + moved_s / shards
        # What a server moves is in its seconds; the trainer moves the rest meanwhile.
        alone = self.trainer(shards) + PHASES * network.there_and_back_s
        alone += moved_s * (1 - 1 / shards) + server_s
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
