"""Shows on a terminal how far something long is."""

from __future__ import annotations

import sys

WIDTH = 30


class Bar:
    """Called with how much is there and how much there will be; says nothing but to a terminal."""

    def __init__(self, unit: str = "MB", scale: float = 1e6, digits: int = 1) -> None:
        """unit: that is shown, of `scale` of what is counted."""
        self._unit, self._scale, self._digits = unit, scale, digits

    def __call__(self, there: int, whole: int) -> None:
        if not sys.stderr.isatty():
            return
        share = min(1.0, there / whole) if whole else 1.0
        full = "█" * round(share * WIDTH)
        counts = (f"{n / self._scale:,.{self._digits}f}" for n in (there, whole))
        line = f"\r{full:░<{WIDTH}} {' of '.join(counts)} {self._unit}"
        sys.stderr.write(line + ("\n" if there >= whole else ""))
        sys.stderr.flush()
