"""Files that are whole or not there: checksums, atomic replacement, one owner."""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from pathlib import Path
from typing import IO, Any

from memstore.errors import CorruptFile, StoreLocked

CHUNK_BYTES = 1 << 22


def settle(path: Path) -> dict[str, int]:
    """Flushes a finished file to disk; returns its size and checksum."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _fingerprint(path)


def check_size(path: Path, size: int) -> None:
    """Raises `CorruptFile` unless the file is there and has so many bytes."""
    if not path.is_file():
        raise CorruptFile(f"{path} is missing", hint="restore it from a copy of the store")
    if path.stat().st_size != size:
        raise CorruptFile(
            f"{path} is torn or foreign",
            got=f"{path.stat().st_size} bytes",
            expected=f"{size} bytes",
        )


def check(path: Path, expected: dict[str, int]) -> None:
    """Raises `CorruptFile` unless the file is there and is what `settle` saw."""
    check_size(path, expected["bytes"])
    found = _fingerprint(path)
    if found != expected:
        raise CorruptFile(
            f"{path} was altered",
            got=f"checksum {found['crc32']:08x}",
            expected=f"{expected['crc32']:08x}",
        )


def replace_json(path: Path, value: dict[str, Any]) -> None:
    """Writes JSON so that a reader finds the old file or the new one, never a part."""
    body = json.dumps(value, indent=1)
    text = json.dumps({"crc32": zlib.crc32(body.encode()), "body": body})
    draft = path.with_name(path.name + ".new")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Reads what `replace_json` wrote; raises `CorruptFile` on anything else."""
    try:
        outer = json.loads(path.read_text())
        body, expected = outer["body"], outer["crc32"]
        if zlib.crc32(body.encode()) != expected:
            raise CorruptFile(f"{path} was altered", got="another checksum than it names")
        value: dict[str, Any] = json.loads(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path} is not a manifest", got=str(error)) from error
    return value


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(path: Path, *, shared: bool = False) -> IO[str]:
    """Takes the lock of the one owner, or of any number of readers beside none.

    It is held until the returned file is closed.
    """
    if shared and not path.exists():
        # A copy of a store: whoever has it open otherwise made the file first.
        return Path(os.devnull).open()
    file = path.open("r" if shared else "a+")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise StoreLocked(
            f"{path.parent} is open elsewhere",
            got=f"a lock held by process {owner or 'unknown'}, or by readers",
            hint="close the store there first",
        ) from error
    if not shared:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    return file


def _fingerprint(path: Path) -> dict[str, int]:
    crc, size = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return {"bytes": size, "crc32": crc}
