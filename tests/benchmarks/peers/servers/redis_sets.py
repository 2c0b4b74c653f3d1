"""Redis as a server of vectors: a vector set, whose graph knows cosine alone.

So it is given `[x, √(M² − ‖x‖²)]`, of equal norms, among which the order of cosine to `[q, 0]` is
that of inner product. A batch of queries is one pipeline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.peers.servers.redis_server import CHUNK, NAME, RedisServer


class Engine(RedisServer):
    """links, width: M and EF of the graph while building. A command is seen by the next one."""

    def __init__(self, width_D: int, links: int = 16, width: int = 200) -> None:
        super().__init__()
        self._links, self._width = links, width
        self.about = f"{NAME}, vector set Q8 M {links} EF {width}"

    def fill(self, keys_ND: Any) -> None:
        self._norm = float(np.linalg.norm(keys_ND, axis=1).max())
        for first in range(0, len(keys_ND), CHUNK):
            some = np.arange(first, min(first + CHUNK, len(keys_ND)))
            self.replace(some, keys_ND[some])

    def load(self, path: Path, keys_ND: Any) -> None:
        self._norm = float(np.linalg.norm(keys_ND, axis=1).max())
        super().load(path, keys_ND)

    def exert(self, effort: int) -> None:
        self._effort = effort

    def search(self, queries_QD: Any, k: int) -> Any:
        pipeline = self.client.pipeline(transaction=False)
        wide = np.pad(queries_QD, ((0, 0), (0, 1))).astype(np.float32)
        for query in wide:
            pipeline.execute_command(
                "VSIM", "rows", "FP32", query.tobytes(), "COUNT", k, "EF", self._effort
            )
        ids_QK = np.full((len(queries_QD), k), -1, np.int64)
        for place, found in zip(ids_QK, pipeline.execute(), strict=True):
            place[: len(found)] = [int(row) for row in found]
        return ids_QK

    def replace(self, ids: Any, keys: Any) -> None:
        rest = np.sqrt(np.maximum(self._norm**2 - (keys**2).sum(1, keepdims=True), 0))
        pipeline = self.client.pipeline(transaction=False)
        for row, key in zip(ids.tolist(), np.hstack([keys, rest]).astype(np.float32), strict=True):
            pipeline.execute_command(
                "VADD", "rows", "FP32", key.tobytes(), row,
                "EF", self._width, "M", self._links,
            )  # fmt: skip
        pipeline.execute()
