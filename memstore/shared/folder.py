"""FolderShelf: objects in a folder that several machines mount.

A folder has `link`, which every file system that is shared by POSIX rules does at one moment, and
does not where the name is there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from memstore import files
from memstore.disk import DISK
from memstore.errors import InvalidArgument


class FolderShelf:
    """A `Shelf` in one folder."""

    def __init__(self, uri: str | Path) -> None:
        """uri: an absolute path, or `file://` before it; raises `InvalidArgument`."""
        self._folder = Path(str(uri).removeprefix("file://"))
        if not self._folder.is_absolute():
            raise InvalidArgument("not a shared folder", got=str(uri), expected="an absolute path")

    def __str__(self) -> str:
        return str(self._folder)

    def within(self, name: str) -> FolderShelf:
        return FolderShelf(self._folder / name)

    def keep_private(self) -> None:
        files.make_folder(self._folder)
        self._folder.chmod(0o700)

    def put(self, name: str, data: bytes) -> bool:
        path = self._folder / name
        files.make_folder(path.parent)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        files.make(draft, lambda file: file.write(data))
        try:
            os.link(draft, path)
        except FileExistsError:
            # Over a network it may have been asked for twice, and done at the first time.
            if draft.stat().st_nlink < 2:
                return False
        finally:
            draft.unlink()
        DISK.sync_folder(path.parent)
        return True

    def get(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            found = [path.name for path in (self._folder / folder).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith("."))

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
