"""Shelf: objects by name, in a folder that several machines share. An object is put once, whole.

That it is put *if absent* is what everything else rests on: of two who put the same name one does,
and the other is told. `pyarrow.fs` has no such call, nor has it one for object stores; a folder has
`link`, which every file system that is shared by POSIX rules does at one moment.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from memstore import files
from memstore.disk import DISK
from memstore.errors import InvalidArgument, Unsupported


class Shelf:
    """Objects in one folder; a name may have folders in it. Errors of the storage are `OSError`."""

    def __init__(self, uri: str | Path) -> None:
        """uri: an absolute path, or `file://` before it; raises `InvalidArgument`."""
        scheme, _, rest = str(uri).rpartition("://")
        if scheme not in ("", "file"):
            raise Unsupported(
                "objects cannot be put there if they are absent",
                got=str(uri),
                expected="a folder that all machines mount",
            )
        self._folder = Path(rest)
        if not self._folder.is_absolute():
            raise InvalidArgument("not a shared folder", got=str(uri), expected="an absolute path")

    def within(self, name: str) -> Shelf:
        """The objects whose names begin with a folder."""
        return Shelf(self._folder / name)

    def keep_private(self) -> None:
        """Makes the folder, if it is not there, one that its owner alone may read."""
        files.make_folder(self._folder)
        self._folder.chmod(0o700)

    def put(self, name: str, data: bytes) -> bool:
        """Puts an object, durably, unless there is one of that name; returns whether it did."""
        path = self._folder / name
        files.make_folder(path.parent)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        files.make(draft, lambda file: file.write(data))
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        DISK.sync_folder(path.parent)
        return True

    def get(self, name: str) -> bytes | None:
        """An object; None where there is none of that name."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """The names of the objects in a folder, rising, without it; none where there is none."""
        try:
            found = [path.name for path in (self._folder / folder).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith("."))

    def remove(self, names: Iterable[str]) -> None:
        """Takes objects away that nobody reads any more; those that are gone already as well."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
