"""Making facts like those of Freebase FB2M: what they are beside what is published, and how fast.

The facts are made and counted, then made and written in the published format. A process of its
own tells its peak; libraries are 0.1 GB of it.

    python -m tests.benchmarks.scale_generator FB5M 100000000    # another base, another size
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from models.tasks.synthetic_counted import counted
from models.tasks.synthetic_files import write_facts
from models.tasks.synthetic_freebase import PUBLISHED, SyntheticFreebase
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.runner import Figure, at_most

NEAR = 0.02
"""How far any of the figures may be from the published one."""

MOST_BYTES = 1 << 30


def run(quick: bool) -> Iterator[Figure]:
    """Measures a base of FB2M's size, or of a hundredth."""
    facts = PUBLISHED["FB2M"].facts // (100 if quick else 1)
    yield from measured_alone("tests.benchmarks.scale_generator", "FB2M", facts)  # type: ignore[misc]


def measure(like: str, facts: int) -> Iterator[Figure]:
    """Makes so many facts like those of a published base."""
    published = PUBLISHED[like]
    wanted = published if facts == published.facts else published.scaled(facts)
    base, case = SyntheticFreebase(wanted), f"{facts:,} facts like {like}"
    start = time.perf_counter()
    found = counted(base.blocks(), wanted)
    made_s = time.perf_counter() - start
    beside = [(name, value, getattr(wanted, name)) for name, value in asdict(found).items()]
    for name, value, peer in beside:
        words = f"{case}; peer: published{'' if wanted is published else ', scaled'}"
        yield Figure(name, words, value, "", peer)
    farthest = max(abs(value / peer - 1) for _, value, peer in beside)
    yield at_most(NEAR, Figure("farthest", f"{case}, from what is published", farthest, "share"))
    yield Figure("making_rate", f"{case}, made and counted", facts / made_s, "facts/s")
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".synthetic-") as folder:
        path = Path(folder) / "facts.txt"
        start = time.perf_counter()
        write_facts(base, path)
        seconds, size = time.perf_counter() - start, path.stat().st_size
    yield Figure("writing_rate", f"{case}, made and written", facts / seconds, "facts/s")
    yield Figure("file_bytes", case, size / facts, "bytes/fact")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    yield at_most(MOST_BYTES, Figure("peak", case, peak, "bytes"))


if __name__ == "__main__":
    tell(measure(sys.argv[1], int(sys.argv[2])))
