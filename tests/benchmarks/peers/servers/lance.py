"""LanceDB, embedded in the process that asks: graphs in lists, of codes of a byte a dimension."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from tests.benchmarks.peers.servers.served import Served

LISTED = 1 << 20
"""Rows that one graph holds at most."""


class Engine(Served):
    """links, width: of the graphs; effort is how many rows each search scores again, as stored.

    A search also looks at the rows that came since the index was built, all of them.
    """

    def __init__(self, width_D: int, links: int = 20, width: int = 300) -> None:
        super().__init__()
        self._width_D, self._links, self._width = width_D, links, width
        version = importlib.metadata.version("lancedb")
        self.about = f"LanceDB {version} IVF_HNSW_SQ M {links} ef {width}"

    def start(self) -> None:
        connection = lancedb.connect(self.folder)
        if "rows" in connection.list_tables().tables:
            self._table = connection.open_table("rows")

    def fill(self, keys_ND: Any) -> None:
        connection = lancedb.connect(self.folder)
        self._table = connection.create_table("rows", _rows(np.arange(len(keys_ND)), keys_ND))
        self._table.create_index(
            metric="dot",
            vector_column_name="key",
            index_type="IVF_HNSW_SQ",
            num_partitions=-(-len(keys_ND) // LISTED),
            m=self._links,
            ef_construction=self._width,
        )

    def exert(self, effort: int) -> None:
        self._effort = effort

    def search(self, queries_QD: Any, k: int) -> Any:
        asked = self._table.search(list(queries_QD), vector_column_name="key")
        found = asked.ef(self._effort).limit(k).select(["id", "_distance"]).to_arrow()
        ids_QK = np.full((len(queries_QD), k), -1, np.int64)
        queries_F = found["query_index"].to_numpy() if len(queries_QD) > 1 else np.zeros(len(found))
        for query, place in enumerate(ids_QK):
            ids = found["id"].to_numpy()[queries_F == query]
            place[: len(ids)] = ids
        return ids_QK

    def replace(self, ids: Any, keys: Any) -> None:
        merging = self._table.merge_insert("id").when_matched_update_all()
        merging.when_not_matched_insert_all().execute(_rows(ids, keys))


def _rows(ids: Any, keys_BD: Any) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(keys_BD, np.float32).ravel())
    keys = pa.FixedSizeListArray.from_arrays(flat, keys_BD.shape[1])
    return pa.table({"id": pa.array(ids, pa.int64()), "key": keys})
