"""Compiles the kernels on first use and keeps what came out for the next process.

numba's own `cache=True` writes beside the source, and where it finds no place to write it fails
the import. Nor does it see that a kernel has changed which another one has inlined, and two
processes that compile at once can leave it the code of one signature under the name of another.
Here a kernel has one file a signature, and every problem with a file only means to compile anew.

A kept kernel is a pickle of machine code: to load it is to run it. So it is taken only from a
folder that nobody but this user and the superuser can have written to.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
import numpy as np
from numba.core import serialize
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult

F = TypeVar("F", bound=Callable[..., Any])

SOURCES = (
    *sorted(Path(__file__).parent.glob("*.py")),
    *(Path(__file__).parents[1] / name for name in ("memory.py", "dtypes.py")),
)
"""What the code of a kernel may depend on: all kernels, and the constants that they use."""

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

logger = logging.getLogger(__name__)


def compiled(*, nogil: bool = True, **options: Any) -> Callable[[F], F]:
    """Marks a kernel, compiled on its first call, or loaded where it was before.

    nogil: whether it lets go of the GIL. To get that back takes up to 5 ms beside a busy thread,
    so a kernel that takes some microseconds in a search keeps it.  options: of `numba.njit`.
    """

    def compile_later(function: F) -> F:
        dispatcher = numba.njit(nogil=nogil, **options)(function)
        dispatcher._cache = KeptCode(function)
        return cast(F, dispatcher)

    return compile_later


class KeptCode(NullCache):
    """The compiled signatures of one kernel in the folder; numba asks it before it compiles.

    A file is the SHA-256 of (what the code depends on, payload), then the payload.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    def load_overload(self, signature: Any, target: Any) -> Any:
        path = self._path(signature, target.codegen())
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                if not _safe(os.fstat(file.fileno())):
                    return None
                digest, payload = file.read(32), file.read()
        except OSError:
            return None
        if _digest(payload) != digest:
            return None
        kept_signature, parts = serialize.loads(payload)
        if kept_signature != signature:
            return None
        target.refresh()
        return CompileResult._rebuild(target, *parts)  # type: ignore[no-untyped-call]

    def save_overload(self, signature: Any, result: Any) -> None:
        path = self._path(signature, result.codegen)
        if path is None or result.library.has_dynamic_globals:
            return
        payload = serialize.dumps((signature, result._reduce()))  # type: ignore[no-untyped-call]
        unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            # Not for this user alone: an image may be built by another than who runs it.
            with os.fdopen(os.open(unfinished, flags, 0o644), "wb") as file:
                file.write(_digest(payload) + payload)
            unfinished.replace(path)
        except OSError as error:
            logger.debug("kernel %s is not kept: %s", self._name, error)
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        """The file of a signature. New sources have the same: they overwrite what is old."""
        place = folder()
        if place is None:
            return None
        told = repr((__file__, VERSIONS, self._name, signature, codegen.magic_tuple()))
        return place / f"{self._name}-{hashlib.sha256(told.encode()).hexdigest()[:32]}.kernel"


VERSIONS = (sys.implementation.cache_tag, numba.__version__, llvmlite.__version__, np.__version__)


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(_sources() + payload).digest()


@functools.cache
def _sources() -> bytes:
    """Changes with every source that a kernel may be compiled from."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).digest()


@functools.cache
def folder() -> Path | None:
    """The folder of compiled kernels, made where it is missing; None keeps them nowhere.

    `$MEMSTORE_CACHE` and no other, if set; it may be read-only, filled beforehand. Else the first
    that can be written to of `$XDG_CACHE_HOME/memstore`, `~/.cache/memstore` and
    `$TMPDIR/memstore-UID`.
    """
    if not all(path.is_file() for path in SOURCES):
        return None  # without them, as in an archive, old code is not told from new
    told = os.environ.get("MEMSTORE_CACHE")
    for place in [Path(told).absolute()] if told else _places():
        problem = _problem(place, 0o755 if told else 0o700)
        if problem is None and (told or os.access(place, os.W_OK)):
            return place.resolve()
        if problem is not None and told:
            logger.warning("MEMSTORE_CACHE=%s is not used: %s", told, problem)
    logger.warning("kernels are compiled in each process anew; MEMSTORE_CACHE names a folder")
    return None


def _places() -> Iterator[Path]:
    homes = (os.environ.get("XDG_CACHE_HOME", ""), str(Path("~/.cache")))
    for home in map(os.path.expanduser, homes):
        # A relative one would be a folder of wherever this process happens to stand.
        if Path(home).is_absolute():
            yield Path(home) / "memstore"
    yield Path(os.environ.get("TMPDIR") or "/tmp").absolute() / f"memstore-{os.geteuid()}"


def _problem(place: Path, mode: int) -> str | None:
    """Why a folder is not to be used; makes it where it is missing."""
    try:
        place.mkdir(mode=mode, parents=True, exist_ok=True)
        place = place.resolve(strict=True)
        for part in (place, *place.parents):
            found = part.stat()
            leaf = part == place
            # In a folder like /tmp others can write, but not take away what is ours.
            shared = not leaf and found.st_mode & stat.S_ISVTX
            if not _safe(found, shared=bool(shared), leaf=leaf):
                return f"others than this user can write to {part}"
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


def _safe(found: os.stat_result, *, shared: bool = False, leaf: bool = True) -> bool:
    """Whether only this user and the superuser can change it, or if `shared` take it away."""
    owners = {os.geteuid(), 0}
    if not leaf:
        # Inside a container the superuser outside may have any number, and so may others have.
        owners.add(Path("/").stat().st_uid)
    return found.st_uid in owners and (shared or not found.st_mode & OTHERS_WRITE)
