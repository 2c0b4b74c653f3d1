"""ScaNN: a tree of one level, rows as anisotropic codes, the best of them scored again."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any


class Engine:
    """leaves: of the tree. An effort is (leaves visited, rows scored again)."""

    def __init__(self, width_D: int, leaves: int) -> None:
        library = importlib.import_module("scann")
        self._library = library.scann_ops_pybind
        self._leaves, self._visited, self._rescored = leaves, 1, 100
        self._index: Any = None
        version = importlib.metadata.version("scann")
        self.about = f"scann {version} leaves {leaves}"

    def build(self, keys_ND: Any, threads: int) -> None:
        self._index = (
            self._library.builder(keys_ND, 10, "dot_product")
            .tree(
                num_leaves=self._leaves,
                num_leaves_to_search=1,
                training_sample_size=min(len(keys_ND), 250_000),
            )
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(self._rescored)
            .set_n_training_threads(threads)
            .build()
        )

    def save(self, path: Path) -> None:
        path.mkdir()
        self._index.serialize(str(path), relative_path=True)

    def load(self, path: Path, keys_ND: Any) -> None:
        self._index = self._library.load_searcher(str(path))

    def exert(self, effort: tuple[int, int]) -> None:
        self._visited, self._rescored = effort

    def search(self, queries_QD: Any, k: int) -> Any:
        return self._index.search_batched(
            queries_QD,
            final_num_neighbors=k,
            pre_reorder_num_neighbors=self._rescored,
            leaves_to_search=self._visited,
        )[0]
