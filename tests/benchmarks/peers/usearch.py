"""usearch: a graph in layers, of inner product."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np


class Engine:
    """links: connectivity; width: expansion while building; dtype: of what it stores.

    bf16 finds as much as f32 does, here at nearly twice the rate.
    """

    def __init__(
        self, width_D: int, links: int = 16, width: int = 128, dtype: str = "bf16"
    ) -> None:
        library = importlib.import_module("usearch.index")
        self._index: Any = library.Index(
            ndim=width_D, metric="ip", dtype=dtype, connectivity=links, expansion_add=width
        )
        version = importlib.metadata.version("usearch")
        self.about = f"usearch {version} {dtype} connectivity {links} expansion {width}"

    def build(self, keys_ND: Any, threads: int) -> None:
        self._index.add(np.arange(len(keys_ND)), keys_ND, threads=threads)

    def save(self, path: Path) -> None:
        self._index.save(str(path))

    def load(self, path: Path, keys_ND: Any) -> None:
        self._index.load(str(path))

    def exert(self, effort: int) -> None:
        self._index.expansion_search = effort

    def search(self, queries_QD: Any, k: int) -> Any:
        return self._index.search(queries_QD, k, threads=1).keys

    def insert(self, ids: Any, keys: Any) -> None:
        self._index.add(ids, keys, threads=1)

    def replace(self, ids: Any, keys: Any) -> None:
        self._index.remove(ids, threads=1)
        self._index.add(ids, keys, threads=1)

    def delete(self, ids: Any) -> None:
        self._index.remove(ids, threads=1)
