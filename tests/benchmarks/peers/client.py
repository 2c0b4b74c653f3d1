"""Our side of a peer: starts its process, hands it arrays as files, asks one thing at a time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from memstore.memory import Array, Slots
from tests.benchmarks.alone import ONE_THREAD
from tests.benchmarks.runner import Unavailable

ROOT = Path(__file__).parents[3]


def environment_of(engine: str) -> str:
    """The Python that runs an engine: ours for faiss, which memstore itself stands on."""
    if engine == "ivf":
        return sys.executable
    made = "servers" if is_server(engine) else "peers"
    place = ROOT / (".peers-servers" if is_server(engine) else ".peers")
    folder = Path(os.environ.get(f"MEMSTORE_{made.upper()}", place))
    python = folder / "bin" / "python"
    if not python.exists():
        raise Unavailable(f"no {made} at {folder}; make {made}")
    return str(python)


def is_server(engine: str) -> bool:
    """Whether it is a whole server."""
    return engine.startswith("servers.")


def scratch() -> Path:
    """Where keys and built indexes stay between runs; `MEMSTORE_SCRATCH` or the system's place."""
    folder = Path(os.environ.get("MEMSTORE_SCRATCH", Path(tempfile.gettempdir(), "memstore-peers")))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Keys:
    """Keys `[N, D]` float32 in a file that every peer can map, named by what they are."""

    def __init__(self, keys_ND: Array) -> None:
        keys_ND = np.ascontiguousarray(keys_ND, np.float32)
        self.digest = hashlib.sha256(keys_ND.data).hexdigest()[:16]
        self.path = scratch() / f"keys-{len(keys_ND)}-{self.digest}.npy"
        if not self.path.exists():
            draft = self.path.with_suffix(f".{os.getpid()}.npy")
            np.save(draft, keys_ND)
            draft.rename(self.path)


class Peer:
    """One engine in a process of one thread, with an index of `keys`; row i has id i.

    An engine named `servers.…` is the client of a server, which has a process of its own.

    Raises `Unavailable` where the engine is not installed, and `PeerFailed` where it fails. The
    index is built once and kept in `scratch()` under its keys and what it is, unless `cached` is
    False; `threads` only build.
    """

    def __init__(
        self, engine: str, keys: Keys, threads: int = 1, cached: bool = True, **options: Any
    ) -> None:
        python = environment_of(engine)
        self._folder = tempfile.TemporaryDirectory()
        self._files = 0
        self._process = subprocess.Popen(
            [python, "-m", "tests.benchmarks.peers", engine],
            cwd=ROOT,
            env=os.environ | ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.engine = engine
        try:
            opened = self._ask(
                "open",
                keys=str(keys.path),
                cache=str(scratch() / keys.digest) if cached else None,
                threads=threads,
                options=options,
            )
        except BaseException:
            self.close()
            raise
        self.about: str = opened["about"]
        self.build_s: float = opened["build_s"]

    def search(
        self, queries_QD: Array, k: int, effort: Any, batch: int = 64
    ) -> tuple[Slots, float]:
        """Gives ids `[Q, k]` and the seconds that finding them took."""
        found, queries = self._file(), self._saved(queries_QD)
        try:
            seconds: float = self._ask(
                "search", queries=queries, k=k, batch=batch, effort=effort, found=found
            )["seconds"]
            return np.load(found), seconds
        finally:
            for path in (found, queries):
                Path(path).unlink(missing_ok=True)

    def upsert(self, ids_B: Slots, keys_BD: Array, k: int) -> tuple[Slots, float]:
        """Replaces rows and searches once, which the seconds are of; then searches for each row.

        Gives the ids `[B, k]` that were found for the new keys.
        """
        found, ids, keys = self._file(), self._saved(ids_B), self._saved(keys_BD)
        try:
            seconds: float = self._ask("upsert", ids=ids, keys=keys, k=k, found=found)["seconds"]
            return np.load(found), seconds
        finally:
            for path in (found, ids, keys):
                Path(path).unlink(missing_ok=True)

    def gather(self, ids_CB: Slots) -> float:
        """Reads rows `[calls, B]`; returns the seconds that it took."""
        return self._change("gather", ids=ids_CB)

    def insert(self, ids_B: Slots, keys_BD: Array) -> float:
        return self._change("insert", ids=ids_B, keys=keys_BD)

    def replace(self, ids_B: Slots, keys_BD: Array) -> float:
        """Gives rows that there are new keys; returns the seconds that it took."""
        return self._change("replace", ids=ids_B, keys=keys_BD)

    def delete(self, ids_B: Slots) -> float:
        return self._change("delete", ids=ids_B)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _change(self, do: str, **arrays: Array) -> float:
        paths = {name: self._saved(array) for name, array in arrays.items()}
        try:
            seconds: float = self._ask(do, **paths)["seconds"]
        finally:
            for path in paths.values():
                Path(path).unlink()
        return seconds

    def _ask(self, do: str, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerFailed(f"{self.engine} died at {do}: status {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "missing" in reply:
            made = "servers" if is_server(self.engine) else "peers"
            raise Unavailable(f"package {reply['missing']!r} is not there; make {made}")
        if "error" in reply:
            raise PeerFailed(f"{self.engine} at {do}: {reply['error']}")
        return reply

    def _saved(self, array: Array) -> str:
        path = self._file()
        np.save(path, array)
        return path

    def _file(self) -> str:
        self._files += 1
        return str(Path(self._folder.name, f"{self._files}.npy"))


class PeerFailed(Exception):
    """An engine raised an error, or its process ended."""
