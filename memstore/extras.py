"""Extras: how what the store needs for some of its work is installed."""

from __future__ import annotations

DISTRIBUTION = "neural-memstore"
"""The name of this package in an index, where `memstore` is another project."""


def install(extra: str) -> str:
    """The command that installs an extra, or several with commas between."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
