"""An ingest by two workers of Ray: python -m tests.ingest.on_ray SOURCE MEDIATORS INTO FLAGS

The workers that are the first to read piece 3, and to join range 3, are killed in the middle of it,
and leave `read` and `joined` in the folder FLAGS. A torn source is refused by a worker: the error
is printed.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

from tests.ingest.made import SMALL
from workers.ingest import Reading, SourceError, ingest, joining, pipeline, plan, runs


def read(flags: Path, work: Path, of: plan.Plan, number: int) -> runs.Made:
    if number == 3:
        killed_once(flags / "read")
    return runs.read_piece(work, of, of.pieces[number])


def join(flags: Path, work: Path, names: list[str], most_facts: int, number: int) -> runs.Made:
    made = joining.join(work, names, number, most_facts)
    if number == 3:
        # As if it had been on its way to say that all of the range is there.
        (work / "runs" / "joined-000003.json").unlink(missing_ok=True)
        killed_once(flags / "joined")
        made = joining.join(work, names, number, most_facts)
    return made


def killed_once(flag: Path) -> None:
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def main(source: str, named: str, into: str, flags: str) -> None:
    plan.MOST_BLOCK_BYTES = 4096
    pipeline._read = partial(read, Path(flags))
    pipeline._join = partial(join, Path(flags))
    reading = Reading(mediators=named)
    report = ingest([source], into, reading=reading, layout=SMALL, workers=2)
    print(report.given, report.made)
    torn = Path(source).with_name("torn.tsv.gz")
    torn.write_bytes(b"\x1f\x8b" + bytes(100))
    try:
        ingest([torn], f"{into}.torn", layout=SMALL, workers=2)
    except SourceError as error:
        print(error.path, error.line)


if __name__ == "__main__":
    main(*sys.argv[1:])
