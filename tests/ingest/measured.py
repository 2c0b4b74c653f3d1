"""What an ingest holds at most: python -m tests.ingest.measured SOURCE INTO BUDGET [MEDIATORS]

Prints the bytes that were resident at most until rows were loaded, above what was before.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.ingest.made import SMALL, facts, write_tsv
from workers.ingest import Layout, Reading, ingest


def main(source: str, into: str, budget: int, mediators: str = "") -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Everything is imported and compiled by then.
        warm = write_tsv(Path(folder) / "warm.tsv", facts(1_000))
        named = Path(folder) / "named"
        named.write_text("/m/001\n")
        reading = Reading(mediators=str(named))
        ingest([warm], Path(folder) / "warm", reading=reading, layout=SMALL)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    peaks = dict[str, int]()

    def told(what: str, done: int, total: int) -> None:
        peaks.setdefault(what, resident("VmHWM") - before)

    ingest(
        [Path(source)],
        into,
        reading=Reading(mediators=mediators),
        layout=Layout(dim=4, index="none"),
        memory_bytes=budget,
        progress=told,
    )
    print(peaks["Loading entities"])


def resident(what: str) -> int:
    """A figure of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(what))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    source, into, budget, *named = sys.argv[1:]
    main(source, into, int(budget), *named)
