"""hnswlib: a graph in layers, of inner product."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np


class Engine:
    """links: M; width: ef while building; room: points that it is made for, if more will come."""

    def __init__(self, width_D: int, links: int = 16, width: int = 200, room: int = 0) -> None:
        self._library = importlib.import_module("hnswlib")
        self._links, self._width, self._room = links, width, room
        self._index: Any = self._library.Index(space="ip", dim=width_D)
        name = "hnswlib" if _is_installed("hnswlib") else "chroma-hnswlib"
        self.about = f"{name} {importlib.metadata.version(name)} M {links} ef {width}"

    def build(self, keys_ND: Any, threads: int) -> None:
        self._index.init_index(
            max_elements=max(self._room, len(keys_ND)),
            M=self._links,
            ef_construction=self._width,
            random_seed=0,
            allow_replace_deleted=True,
        )
        self._index.add_items(keys_ND, np.arange(len(keys_ND)), num_threads=threads)
        self._index.set_num_threads(1)

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))

    def load(self, path: Path, keys_ND: Any) -> None:
        room = max(self._room, len(keys_ND))
        self._index.load_index(str(path), max_elements=room, allow_replace_deleted=True)
        self._index.set_num_threads(1)

    def exert(self, effort: int) -> None:
        self._index.set_ef(effort)

    def search(self, queries_QD: Any, k: int) -> Any:
        return self._index.knn_query(queries_QD, k=k, num_threads=1)[0]

    def insert(self, ids: Any, keys: Any) -> None:
        self._index.add_items(keys, ids, num_threads=1, replace_deleted=True)

    def replace(self, ids: Any, keys: Any) -> None:
        # Marking as deleted and taking the place over ends in the same update of the place.
        self._index.add_items(keys, ids, num_threads=1)

    def delete(self, ids: Any) -> None:
        for label in ids.tolist():
            self._index.mark_deleted(label)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
