"""Folders that a command writes to."""

from __future__ import annotations

from pathlib import Path

from memstore import files
from memstore.errors import InvalidArgument


def make(folder: Path, what: str) -> None:
    """Makes a folder where there is none; raises `InvalidArgument`.  what: it is to be."""
    try:
        files.make_folder(folder)
    except OSError as error:
        raise InvalidArgument(
            f"{folder} cannot be made {what}",
            got=str(error),
            expected="a folder that may be written, or none yet",
        ) from error
