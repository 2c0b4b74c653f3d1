"""The manifest of a store: which memories there are, and which files hold their last checkpoint."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from memstore import checkpoints, files
from memstore.disk import DISK, Disk
from memstore.errors import UnsupportedVersion

FORMAT = 6
NAME = "memstore.json"
MEMORIES, LOGS, MARKS = "memories", "logs", "marks"
"""The folders of a store."""

Body = dict[str, Any]


def read(path: Path) -> Body:
    """Reads a manifest; raises `CorruptFile` on what is none, `UnsupportedVersion` on another."""
    body = files.read_json(path)
    check_format(body, str(path.parent))
    return body


def check_format(body: Body, where: str) -> None:
    """Raises `UnsupportedVersion` on another format."""
    if body.get("format") != FORMAT:
        raise UnsupportedVersion(
            f"{where} has another format",
            got=body.get("format"),
            expected=FORMAT,
            hint="open it with the version of memstore that wrote it, or build it anew",
        )


def write(path: Path, body: Body, disk: Disk = DISK) -> None:
    """Puts a manifest in the place of the one that is there, once its files are durable."""
    files.replace_json(path, body, disk)


def files_of(body: Body) -> dict[str, files.Fingerprint]:
    """All files that a manifest names, by their paths in the folder of the store."""
    return {
        str(PurePosixPath(MEMORIES, name, path)): fingerprint
        for name, entry in body["memories"].items()
        for path, fingerprint in checkpoints.files_of(entry).items()
    }
