"""The manifest of a store: which memories there are, and which files hold their last checkpoint."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from memstore import files
from memstore.disk import DISK, Disk
from memstore.durable import checkpoints
from memstore.errors import UnsupportedVersion
from memstore.placement import WHOLE, Part

FORMAT, PART_FORMAT = 9, 10
"""Of a store, and of one that holds a part of its memories."""

READ, PART_READ = (6, 8, FORMAT), (7, PART_FORMAT)
"""Those that are read; what is written to such a store has the format of now."""

NAME = "memstore.json"
MEMORIES, LOGS, MARKS = "memories", "logs", "marks"
"""The folders of a store."""

FACTS = ("cluster", "openings", "turn", "loads", "loaded")
"""What a part may have besides."""

Body = dict[str, Any]


def read(path: Path) -> Body:
    """Reads a manifest; raises `CorruptFile` on what is none, `UnsupportedVersion` on another."""
    body = files.read_json(path)
    check_format(body, str(path.parent))
    return body


def part_of(body: Body) -> Part:
    """Which part of its memories a store holds."""
    return Part(*body["part"]) if "part" in body else WHOLE


def head(part: Part) -> Body:
    """What says so in its manifest, and the format that goes with it."""
    if part != WHOLE:
        return {"format": PART_FORMAT, "part": [part.number, part.of]}
    return {"format": FORMAT}


def check_format(body: Body, where: str) -> None:
    """Raises `UnsupportedVersion` on one that is not read."""
    known = PART_READ if "part" in body else READ
    if body.get("format") not in known:
        raise UnsupportedVersion(
            f"{where} has another format",
            got=body.get("format"),
            expected=f"one of {READ}, or of a part one of {PART_READ}",
            hint="open it with the version of memstore that wrote it, or build it anew",
        )


def write(path: Path, body: Body, disk: Disk = DISK) -> None:
    """Puts a manifest in the place of the one that is there, once its files are durable."""
    files.replace_json(path, body, disk)


def files_of(body: Body) -> dict[str, files.Fingerprint]:
    """All files that a manifest names, by their paths in the folder of the store."""
    part = part_of(body)
    return {
        str(PurePosixPath(MEMORIES, name, path)): fingerprint
        for name, entry in body["memories"].items()
        for path, fingerprint in checkpoints.files_of(entry, part).items()
    }
