"""Chroma: `chroma run` in a process of its own, over HTTP, a collection of inner product."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings

from tests.benchmarks.peers.servers.served import Served, beside_python, free_port, listens


class Engine(Served):
    """links, width: of its hnswlib while building. The manual: a query sees what was added."""

    def __init__(self, width_D: int, links: int = 16, width: int = 100) -> None:
        super().__init__()
        self._width_D, self._links, self._width, self._effort = width_D, links, width, 0
        self.about = f"Chroma {importlib.metadata.version('chromadb')} M {links} ef {width}"

    def start(self) -> None:
        port = free_port()
        self.spawn(
            beside_python("chroma"), "run", "--path", self.folder, "--port", port,
            is_ready=lambda: listens(port),
        )  # fmt: skip
        self._client = chromadb.HttpClient(
            "127.0.0.1", port, settings=Settings(anonymized_telemetry=False)
        )
        hnsw = {"space": "ip", "max_neighbors": self._links, "ef_construction": self._width}
        self._rows = self._client.get_or_create_collection(
            "rows", configuration={"hnsw": hnsw}, embedding_function=None
        )

    def fill(self, keys_ND: Any) -> None:
        most = self._client.get_max_batch_size()
        for first in range(0, len(keys_ND), most):
            some = keys_ND[first : first + most]
            self._rows.add([str(first + i) for i in range(len(some))], embeddings=some)

    def exert(self, effort: int) -> None:
        if effort == self._effort:
            return
        self._rows.modify(configuration={"hnsw": {"ef_search": effort}})
        self._effort = effort
        # It is taken over when the graph is loaded, by the first search of a new server.
        self.stop()
        self.start()
        self.search(np.ones((1, self._width_D), np.float32), 1)

    def search(self, queries_QD: Any, k: int) -> Any:
        found = self._rows.query(query_embeddings=queries_QD, n_results=k, include=[])["ids"]
        return np.array(found, np.int64)

    def replace(self, ids: Any, keys: Any) -> None:
        self._rows.upsert([*map(str, ids.tolist())], embeddings=keys)
