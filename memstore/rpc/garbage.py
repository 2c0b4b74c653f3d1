"""Garbage: what a server has loaded for good is looked through once, and not again and again.

Python collects cycles with the interpreter held: a whole collection of the 310,000 objects that a
server has loaded, modules and kernels for the most part, takes 160 ms in which no call is answered.
What survived one that took long is left out of all later ones, which then take 0.1 ms.
"""

from __future__ import annotations

import gc
from time import perf_counter
from typing import Any

LONG_S = 0.02
"""What is left out may be garbage later: so it is where it pays."""

WHOLE = 2
"""The oldest generation, with which all others are collected."""


class Survivors:
    """Leaves survivors of long collections out of later ones, from `start` to `stop`.

    They go as ever when nothing refers to them; only cycles of theirs stay.
    """

    def __init__(self) -> None:
        self._begun = 0.0

    def start(self) -> None:
        gc.callbacks.append(self._collected)

    def stop(self) -> None:
        """Lets all be collected again."""
        gc.callbacks.remove(self._collected)
        gc.unfreeze()

    def _collected(self, phase: str, facts: dict[str, Any]) -> None:
        if facts["generation"] < WHOLE:
            return
        if phase == "start":
            self._begun = perf_counter()
        elif perf_counter() - self._begun > LONG_S:
            gc.freeze()
