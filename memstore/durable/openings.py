"""Openings: how a part tells its folder from copies of it, as far as that can be told.

Whenever a part is opened to write it counts that, and draws a few digits. Who was answered by one
opening and is later answered by a store that never had it, or only had what came before, speaks to
another copy of the folder.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Any, Self

from memstore.errors import InvalidArgument

KEPT = 64
"""Openings of which a part knows what was drawn."""

_TOLD = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{8})")


@dataclass(frozen=True)
class Openings:
    """The openings of a part.  count: of them all, ≥ 0.  drawn: at the last of them, in order."""

    count: int = 0
    drawn: tuple[str, ...] = ()

    @classmethod
    def of(cls, kept: list[Any]) -> Self:
        """What `kept` gave."""
        return cls(kept[0], tuple(kept[1]))

    @property
    def kept(self) -> list[Any]:
        """As JSON has it."""
        return [self.count, list(self.drawn)]

    def another(self) -> Openings:
        """One more."""
        return Openings(self.count + 1, (*self.drawn, secrets.token_hex(4))[-KEPT:])

    @property
    def newest(self) -> str:
        """The last one, as callers are told of it; empty where there was none."""
        return f"{self.count}-{self.drawn[-1]}" if self.drawn else ""

    def has(self, told: str) -> bool:
        """Whether one of them was this, or may have been: what was drawn long ago is not known.

        Raises `InvalidArgument` on what no part tells.
        """
        found = _TOLD.fullmatch(told)
        if found is None:
            raise InvalidArgument(
                "no opening of a part", got=repr(told[:64]), expected="5-0123abcd"
            )
        at = int(found[1]) - self.count - 1
        return at < 0 and (at < -len(self.drawn) or self.drawn[at] == found[2])
