"""Intel's Scalable Vector Search: a Vamana graph over rows held in few bits."""

from __future__ import annotations

import importlib
import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any


class Engine:
    """links: largest degree; width: window while building; bits: of a number, (first, residual)
    of locally adaptive quantization, which Intel's processors alone have, or none for float16."""

    def __init__(
        self,
        width_D: int,
        links: int = 64,
        width: int = 200,
        bits: tuple[int, int] | None = (4, 8),
    ) -> None:
        self._svs = importlib.import_module("svs")
        self._width, self._links, self._window, self._bits = width_D, links, width, bits
        self._index: Any = None
        stored = "float16" if bits is None else f"LVQ{bits[0]}x{bits[1]}"
        version = importlib.metadata.version("scalable-vs")
        self.about = f"scalable-vs {version} {stored} degree {links} window {width}"

    def build(self, keys_ND: Any, threads: int) -> None:
        svs = self._svs
        parameters = svs.VamanaBuildParameters(
            alpha=0.95, graph_max_degree=self._links, window_size=self._window
        )
        with tempfile.TemporaryDirectory() as folder:
            data = self._stored(keys_ND, Path(folder))
            self._index = svs.Vamana.build(
                parameters, data, svs.DistanceType.MIP, num_threads=threads
            )
        self._index.num_threads = 1

    def _stored(self, keys_ND: Any, folder: Path) -> Any:
        if self._bits is None:
            return keys_ND.astype("float16")
        svs = self._svs
        vectors, converted = str(folder / "keys.fvecs"), str(folder / "keys.svs")
        svs.write_vecs(keys_ND, vectors)
        svs.convert_vecs_to_svs(vectors, converted)
        whole = svs.VectorDataLoader(converted, svs.DataType.float32, dims=self._width)
        first, residual = self._bits
        return svs.LVQLoader(whole, primary=first, residual=residual)

    def save(self, path: Path) -> None:
        path.mkdir()
        self._index.save(*(str(path / part) for part in ("config", "graph", "data")))

    def load(self, path: Path, keys_ND: Any) -> None:
        svs = self._svs
        data = str(path / "data")
        self._index = svs.Vamana(
            str(path / "config"),
            svs.GraphLoader(str(path / "graph")),
            svs.VectorDataLoader(data, svs.DataType.float16, dims=self._width)
            if self._bits is None
            else svs.LVQLoader(data),
            distance=svs.DistanceType.MIP,
            num_threads=1,
        )

    def exert(self, effort: int) -> None:
        self._index.search_window_size = effort

    def search(self, queries_QD: Any, k: int) -> Any:
        return self._index.search(queries_QD, k)[0]
