"""Finds the real data sets, which are read where they lie and are never part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

from models.tasks.knowledge import TaskDataError

VARIABLE = "MEMSTORE_DATA"
_BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[3] / "shared" / "data"


class DataMissing(FileNotFoundError):
    """A data set is not in the data folder."""


def data_dir() -> Path:
    """Returns the folder named by MEMSTORE_DATA, else `../shared/data` seen from the checkout.

    It need not exist; `require` checks.
    """
    return Path(os.environ.get(VARIABLE) or _BESIDE_THE_CHECKOUT)


def require(name: str) -> Path:
    """Returns the path of a file or folder of the data folder, such as `metaqa/kb.txt`.

    Raises DataMissing when it is not there.
    """
    path = data_dir() / name
    if not path.exists():
        now = os.environ.get(VARIABLE)
        raise DataMissing(
            f"no data at {path}: set {VARIABLE}, which is {now or 'not set'}, "
            "to the folder of the data sets"
        )
    return path


def lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that hold something, with their numbers from 1."""
    found = path.read_text(encoding="utf-8").split("\n")
    return [(number, line) for number, line in enumerate(found, 1) if line]


def split(path: Path, number: int, line: str, separator: str, parts: int) -> list[str]:
    """The parts of a line; raises `TaskDataError` where there are more or fewer."""
    found = line.split(separator)
    if len(found) != parts:
        raise TaskDataError(
            f"{path}:{number}: {line[:200]!r}",
            f"{parts} parts with {separator!r} between",
            "mend it",
        )
    return found
