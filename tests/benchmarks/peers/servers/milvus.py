"""Milvus Lite: `milvus-lite server` in a process of its own, over gRPC, an HNSW index of faiss."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from tests.benchmarks.peers.servers.served import Served, beside_python, free_port, listens

AT_ONCE = 10_000

PINGED_MS = 3_600_000
"""How often the client asks whether the server lives: one that builds an index answers nothing for
minutes, then takes the pings of meanwhile for an attack."""


class Engine(Served):
    """links, width: of the graph while building. Searches ask for `Strong` consistency."""

    _client: Any = None

    def __init__(self, width_D: int, links: int = 16, width: int = 200) -> None:
        super().__init__()
        self._width_D, self._links, self._width = width_D, links, width
        version = importlib.metadata.version("milvus-lite")
        self.about = f"Milvus Lite {version} HNSW M {links} ef {width}"

    def start(self) -> None:
        port = free_port()
        self.spawn(
            beside_python("milvus-lite"), "server", "--data-dir", self.folder,
            "--host", "127.0.0.1", "--port", port,
            is_ready=lambda: listens(port),
        )  # fmt: skip
        options = {"grpc.keepalive_time_ms": PINGED_MS}
        self._client = MilvusClient(f"http://127.0.0.1:{port}", grpc_options=options)
        if self._client.has_collection("rows"):
            self._client.load_collection("rows")

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        super().stop()

    def fill(self, keys_ND: Any) -> None:
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("key", DataType.FLOAT_VECTOR, dim=self._width_D)
        self._client.create_collection("rows", schema=schema)
        for first in range(0, len(keys_ND), AT_ONCE):
            some = keys_ND[first : first + AT_ONCE]
            self._client.insert("rows", _rows(range(first, first + len(some)), some))
        self._client.flush("rows")
        index = self._client.prepare_index_params()
        graph = {"M": self._links, "efConstruction": self._width}
        index.add_index("key", index_type="HNSW", metric_type="IP", params=graph)
        self._client.create_index("rows", index)
        self._client.load_collection("rows")

    def exert(self, effort: int) -> None:
        self._effort = effort

    def search(self, queries_QD: Any, k: int) -> Any:
        found = self._client.search(
            "rows",
            data=list(queries_QD),
            anns_field="key",
            limit=k,
            search_params={"metric_type": "IP", "params": {"ef": self._effort}},
            consistency_level="Strong",
        )
        ids_QK = np.full((len(queries_QD), k), -1, np.int64)
        for place, hits in zip(ids_QK, found, strict=True):
            place[: len(hits)] = [hit["id"] for hit in hits]
        return ids_QK

    def replace(self, ids: Any, keys: Any) -> None:
        self._client.upsert("rows", _rows(ids.tolist(), keys))


def _rows(ids: Any, keys: Any) -> list[dict[str, Any]]:
    return [{"id": row, "key": key} for row, key in zip(ids, keys, strict=True)]
