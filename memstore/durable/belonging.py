"""Belonging: one process has the directory of a store at a time, which is one part of one cluster.

What else lies in a directory is left alone; a part that is moved or copied to where it does not
belong is refused, as far as that can be told.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import IO, Any

from memstore import files
from memstore.disk import Disk
from memstore.durable import manifest
from memstore.durable.manifests import Manifests
from memstore.errors import NotAStore, WrongPart
from memstore.placement import WHOLE, Part

CLOSED = "CLOSED"
"""A file that a part has while it is closed in order: without it, steps may have been lost."""


def take(path: Path, disk: Disk, *, read_only: bool) -> IO[str]:
    """Locks the directory, or makes it; what is foreign is not even locked.

    Raises `NotAStore` and `StoreLocked`.
    """
    there = is_there(path)
    if read_only:
        if not there:
            raise NotAStore(f"{path} holds no store", hint="only one that is there can be read")
        return files.lock(path / "LOCK", shared=True)
    try:
        files.make_folder(path, disk)
    except OSError as error:
        raise NotAStore(f"{path} cannot be made", got=str(error)) from error
    return files.lock(path / "LOCK")


def is_there(path: Path) -> bool:
    """Whether there is a store; raises `NotAStore` where there is something else."""
    if not path.exists():
        return False
    if not path.is_dir():
        raise NotAStore(f"{path} is no directory", hint="name a directory")
    if (path / manifest.NAME).exists():
        return True
    # A process that died while it made the store may have left these.
    ours = {"LOCK", f"{manifest.NAME}.new"}
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in ours)
    if foreign:
        raise NotAStore(
            f"{path} holds something else",
            got=f"{foreign[:5]}",
            expected=f"{manifest.NAME}, or an empty directory",
        )
    return False


def check_part(path: Path, held: Part, part: Part) -> None:
    """Raises `WrongPart` where it holds another part than that."""
    if part != held:
        raise WrongPart(
            f"{path} is another part of its memories",
            got=f"part {part}",
            expected=f"part {held}",
            hint="each server has the directory of its own part",
        )


def check_cluster(path: Path, held: str, cluster: str) -> None:
    """Raises `WrongPart` where it belongs to another cluster; empty is to none yet."""
    if held and held != cluster:
        raise WrongPart(
            f"{path} belongs to another cluster",
            got=f"cluster {cluster}",
            expected=f"cluster {held}",
            hint="each part has a directory of its own, and is no copy of another cluster's",
        )


def opened(held: Manifests, cluster: str | None) -> dict[str, Any]:
    """What a part notes when it is opened to write."""
    if held.part == WHOLE:
        return {}
    if cluster is None and not held.part.number and not held.cluster:
        cluster = secrets.token_hex(8)
    facts = {} if cluster is None else {"cluster": cluster}
    return {**facts, "openings": held.openings.another().kept}


def note_closed(path: Path, disk: Disk) -> None:
    """Notes that a part was closed in order, where that can be."""
    with contextlib.suppress(OSError):
        files.make(path / CLOSED, lambda file: None, disk)
        disk.sync_folder(path)


def was_closed(path: Path, disk: Disk) -> bool:
    """Whether a part was closed in order, which is not noted any more then."""
    mark = path / CLOSED
    if not mark.exists():
        return False
    with files.typed("opening a store"):
        disk.remove(mark)
        disk.sync_folder(path)
    return True
