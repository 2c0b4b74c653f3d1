"""Finds the real data sets, which are read where they lie and are never part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

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
