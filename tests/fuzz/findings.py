"""What a fuzzer finds, and how much memory a process took since it was asked last."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Findings:
    """What was found, and how fast inputs went; the first of each kind is told whole."""

    def __init__(self, part: str) -> None:
        self.part, self.inputs, self.kinds = part, 0, dict[str, int]()
        self._begun = time.monotonic()

    def add(self, kind: str, data: bytes, told: object) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if self.kinds[kind] <= 3:
            print(f"finding: {kind}: {told!r:.1000} of {data.hex():.2000}", flush=True)

    def told(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._begun
        rate = round(self.inputs / max(seconds, 1e-9))
        found = {"findings": self.kinds, "rss_mib": rss_bytes() >> 20}
        return {"part": self.part, "inputs": self.inputs, "a_second": rate, **found}


def rss_bytes(name: str = "VmRSS") -> int:
    """Main memory that the process has now; `VmHWM` is the most since `forget_most`."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


def forget_most() -> None:
    CLEAR.write_text("5")


def seeded(seed: int, part: str) -> random.Random:
    return random.Random(f"{seed} {part}")
