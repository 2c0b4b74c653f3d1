"""What is known by a name, or is a user's own: `NAME` or `module:attribute`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from memstore.errors import InvalidArgument


def find(kind: str, name: str, known: Mapping[str, object]) -> object:
    """The one of a name, or the attribute of a module, looked for in the working folder too.

    kind: what it is, for errors. Raises `InvalidArgument`.
    """
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise unknown(kind, name, known, "or your own, as module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidArgument(
            f"{kind} {name!r} is not found", got=str(error), expected="module:attribute"
        ) from error


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> InvalidArgument:
    """The error for a name that is not known: it names those that are near, or all."""
    near = difflib.get_close_matches(name, list(known), n=3)
    expected = f"{' or '.join(map(repr, near))}" if near else f"one of {sorted(known)}"
    return InvalidArgument(f"no such {kind}", got=repr(name), expected=expected, hint=hint)
