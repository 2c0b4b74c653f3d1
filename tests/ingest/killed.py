"""An ingest that is killed in the middle.

python -m tests.ingest.killed SOURCE INTO AFTER [WORKERS [MEDIATORS]]

It kills itself, by SIGKILL, once it has written so many files, its own and the store's, or
appended so many batches: before what was written has its name. It prints how many it did, or
the stage in which it was killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memstore import files
from tests.ingest.made import SMALL
from workers.ingest import Reading, ingest, plan, rows

done, stage = 0, ""


def main(source: str, into: str, after: int, workers: str = "1", mediators: str = "") -> None:
    """after: how many; 0 is never."""
    make, between = files.make, rows.Rows.between

    def counted_make(*arguments: Any) -> files.Fingerprint:
        made = make(*arguments)
        count(after)
        return made

    def counted_between(self: rows.Rows, name: str, first: int, last: int) -> Iterator[rows.Batch]:
        for batch in between(self, name, first, last):
            yield batch
            count(after)

    files.make = counted_make  # type: ignore[assignment]
    rows.Rows.between = counted_between  # type: ignore[method-assign]
    plan.MOST_BLOCK_BYTES = 4096
    rows.DRAWN = 128
    reading = Reading(mediators=mediators)
    ingest([Path(source)], into, reading=reading, layout=SMALL, workers=int(workers), progress=told)
    print(done)


def told(what: str, done: int, total: int) -> None:
    global stage
    stage = what


def count(after: int) -> None:
    global done
    done += 1
    if done == after:
        print(stage, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    source, into, after, *others = sys.argv[1:]
    main(source, into, int(after), *others)
