"""Shelf: objects by name on storage that several machines share. An object is put once, whole.

That it is put *if absent* is what everything else rests on: of two who put the same name one does,
and the other is told, however often the storage was asked meanwhile.

    folder.py    in a folder that all machines mount
    objects.py   in an object store: s3://, gs://, az://
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from memstore.errors import Unsupported
from memstore.extras import install
from memstore.shared.folder import FolderShelf


class Shelf(Protocol):
    """Objects under one address; a name may have folders in it. Errors of the storage are
    `OSError`. Any thread may call."""

    def within(self, name: str) -> Shelf:
        """The objects whose names begin with a folder."""

    def keep_private(self) -> None:
        """Makes the place, if it is not there, one that its owner alone may read, as far as that
        is up to who writes there."""

    def put(self, name: str, data: bytes) -> bool:
        """Puts an object, durably, unless there is one of that name; returns whether it did.

        Where it raises nobody knows whether the object is there, or will be.
        """

    def get(self, name: str) -> bytes | None:
        """An object; None where there is none of that name."""

    def names(self, folder: str) -> list[str]:
        """The names of the objects in a folder, rising, without it; none where there is none."""

    def remove(self, names: Iterable[str]) -> None:
        """Takes objects away that nobody reads any more; those that are gone already as well."""


def open_shelf(uri: str | Path) -> Shelf:
    """The shelf at an address; nothing is asked of the storage yet.

    uri: an absolute path, `file://` before one, or as `ObjectShelf` takes it. Raises
    `InvalidArgument` where it is none of these, and `Unsupported` where objects cannot be put there
    if absent, or the extra `cloud` is not installed.
    """
    scheme = str(uri).partition("://")[0] if "://" in str(uri) else ""
    if scheme in ("", "file"):
        return FolderShelf(uri)
    try:
        from memstore.shared.objects import SCHEMES, ObjectShelf
    except ImportError as error:
        raise Unsupported(
            "object stores need a library that is not installed",
            got=str(error),
            hint=install("cloud"),
        ) from error
    if scheme not in SCHEMES:
        raise Unsupported(
            "objects cannot be put there if they are absent",
            got=f"{scheme}://",
            expected="a folder that all machines mount, or one of "
            + ", ".join(f"{known}://" for known in SCHEMES),
        )
    return ObjectShelf(str(uri))


def check(shelf: Shelf) -> None:
    """Raises `Unsupported` where the storage puts an object although there is one of its name."""
    name = f"check/{secrets.token_hex(8)}"
    first = shelf.put(name, b"first")
    second = shelf.put(name, b"second")
    found = shelf.get(name)
    shelf.remove([name])
    if (first, second, found) != (True, False, b"first"):
        raise Unsupported(
            "the storage does not keep to putting an object only if it is absent",
            got=f"{found!r} of two objects of one name, of which {first + second} were put",
            expected="the first of them",
            hint="take storage that does: two owners of a part would both write",
        )
