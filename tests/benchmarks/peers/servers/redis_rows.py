"""Redis as a row store: rows of 512 bytes under their numbers, read by MGET and set by MSET.

The faster of one command a call and a pipeline of some is what a caller should use: `parts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.peers.servers.redis_server import CHUNK, NAME, RedisServer


class Engine(RedisServer):
    """parts: commands that the rows of a call are dealt out to, sent as one pipeline."""

    def __init__(self, width_D: int, durable: bool = False, parts: int = 1) -> None:
        super().__init__(durable)
        kept = "synced once a second" if durable else "in memory alone"
        self.about = f"{NAME}, {kept}, {parts} command{'s' * (parts > 1)} a call"
        self._width_D, self._parts = width_D, parts

    def fill(self, keys_ND: Any) -> None:
        # The names of rows are known to who has asked for them before.
        self._names = [b"%d" % row for row in range(len(keys_ND))]
        for first in range(0, len(keys_ND), CHUNK):
            some = np.arange(first, min(first + CHUNK, len(keys_ND)))
            self._set(some, keys_ND[some])

    def load(self, path: Path, keys_ND: Any) -> None:
        raise NotImplementedError("rows are not kept between runs")

    def gather(self, ids: Any) -> None:
        """Reads rows `[calls, B]`, a call after the other, each into an array `[B, D]`."""
        for ids_B in ids:
            commands = [("MGET", *self._named(some)) for some in self._dealt(ids_B)]
            rows = [row for found in self._sent(commands) for row in found]
            read_BD = np.frombuffer(b"".join(rows), np.float32).reshape(len(ids_B), self._width_D)
            assert read_BD.shape == (len(ids_B), self._width_D)

    def replace(self, ids: Any, keys: Any) -> None:
        """Sets rows `[calls, B]` to `keys [calls, B, D]`, a call after the other."""
        for ids_B, keys_BD in zip(ids, keys, strict=True):
            self._set(ids_B, keys_BD)

    def _set(self, ids_B: Any, keys_BD: Any) -> None:
        rows = keys_BD.view(f"V{4 * self._width_D}").ravel().tolist()
        pairs: list[bytes] = [b""] * (2 * len(rows))
        pairs[::2], pairs[1::2] = self._named(ids_B), rows
        self._sent(
            [
                ("MSET", *pairs[2 * some[0] : 2 * some[-1] + 2])
                for some in self._dealt(range(len(rows)))
            ]
        )

    def _named(self, ids_B: Any) -> list[bytes]:
        names = self._names
        return [names[row] for row in np.asarray(ids_B).tolist()]

    def _dealt(self, ids_B: Any) -> list[Any]:
        each = -(-len(ids_B) // self._parts)
        return [ids_B[first : first + each] for first in range(0, len(ids_B), each)]

    def _sent(self, commands: list[Any]) -> list[Any]:
        if len(commands) == 1:
            return [self.client.execute_command(*commands[0])]
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute()
