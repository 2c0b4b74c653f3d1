"""`python -m tests.benchmarks.peers NAME`: one engine, asked in JSON lines, a reply to each.

| request | reply |
|---|---|
| open: `keys`, `cache`, `threads`, `options` | `about`, `build_s` (0 where the cache had it) |
| search: `queries`, `k`, `batch`, `effort`, `found` | `seconds`; ids int64 `[Q, k]` in `found` |
| insert: `ids`, `keys` | `seconds` |
| replace: `ids`, `keys` | `seconds` |
| delete: `ids` | `seconds` |
| upsert: `ids`, `keys`, `k`, `found` | `seconds`; ids int64 `[B, k]` in `found` |
| any other method of the engine, by the names of its arrays | `seconds` |

An upsert replaces rows and searches once, which the seconds are of; then it searches for each of
the new keys, which gives the ids.

Arrays are the paths of `.npy` files, read before the clock starts; `cache` is how the name of the
file begins that keeps the index. `seconds` is the engine's own
time alone. A request that fails is answered by `error`, or by `missing` where the engine is not
installed. Row i of the keys that it is opened with has id i.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answers until standard input ends. What an engine prints goes to standard error."""
    # Building takes minutes: it ends with the process that asked for it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    serving = Serving(sys.argv[1])
    for line in sys.stdin:
        try:
            reply = serving.answer(json.loads(line))
        except ModuleNotFoundError as missing:
            reply = {"missing": str(missing.name)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
    if hasattr(serving.engine, "close"):
        serving.engine.close()


class Serving:
    """Holds one engine, and answers requests by it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.engine: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        do = request.pop("do")
        if do == "open":
            return self._open(**request)
        if do == "search":
            return self._search(**request)
        if do == "upsert":
            return self._upsert(**request)
        arrays = {name: np.load(path) for name, path in request.items()}
        change: Callable[..., None] = getattr(self.engine, do)
        return {"seconds": _seconds(lambda: change(**arrays))}

    def _open(
        self, keys: str, cache: str | None, threads: int, options: dict[str, Any]
    ) -> dict[str, Any]:
        module = importlib.import_module(f"tests.benchmarks.peers.{self.name}")
        keys_ND = np.load(keys, mmap_mode="r")
        self.engine = module.Engine(keys_ND.shape[1], **options)
        # Another version or other settings are another file.
        named = re.sub(r"[^\w.]+", "-", self.engine.about)
        at = None if cache is None else Path(f"{cache}-{named}")
        if at is not None and at.exists():
            self.engine.load(at, keys_ND)
            return {"about": self.engine.about, "build_s": 0.0}
        build_s = _seconds(lambda: self.engine.build(np.array(keys_ND), threads))
        if at is not None:
            # Whole or not at all: a run that is cut off leaves no half of an index behind.
            draft = at.with_name(f"{at.name}.{os.getpid()}")
            self.engine.save(draft)
            draft.rename(at)
        return {"about": self.engine.about, "build_s": build_s}

    def _search(self, queries: str, k: int, batch: int, effort: Any, found: str) -> dict[str, Any]:
        queries_QD = np.load(queries)
        parts: list[Any] = []

        def search() -> None:
            firsts = range(0, len(queries_QD), batch)
            parts.extend(self.engine.search(queries_QD[at : at + batch], k) for at in firsts)

        self.engine.exert(effort)
        seconds = _seconds(search)
        np.save(found, np.concatenate(parts).astype(np.int64))
        return {"seconds": seconds}

    def _upsert(self, ids: str, keys: str, k: int, found: str) -> dict[str, Any]:
        ids_B, keys_BD = np.load(ids), np.load(keys)

        def change() -> None:
            self.engine.replace(ids_B, keys_BD)
            self.engine.search(keys_BD[:1], k)

        seconds = _seconds(change)
        np.save(found, np.asarray(self.engine.search(keys_BD, k), np.int64))
        return {"seconds": seconds}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
