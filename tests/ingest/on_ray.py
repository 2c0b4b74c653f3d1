"""An ingest by two workers of Ray: python -m tests.ingest.on_ray SOURCE INTO FLAG

The worker that reads the fourth piece first is killed in the middle of it, and leaves FLAG.
A torn source is refused by a worker: the error is printed.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

from tests.ingest.made import SMALL
from workers.ingest import SourceError, ingest, pipeline, plan, runs


def read(flag: Path, work: Path, of: plan.Plan, number: int) -> runs.Made:
    if number == 3:
        try:
            flag.touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return runs.read_piece(work, of, of.pieces[number])


def main(source: str, into: str, flag: str) -> None:
    plan.MOST_BLOCK_BYTES = 4096
    pipeline._read = partial(read, Path(flag))
    print(ingest([source], into, layout=SMALL, workers=2).given)
    torn = Path(source).with_name("torn.tsv.gz")
    torn.write_bytes(b"\x1f\x8b" + bytes(100))
    try:
        ingest([torn], f"{into}.torn", layout=SMALL, workers=2)
    except SourceError as error:
        print(error.path, error.line)


if __name__ == "__main__":
    main(*sys.argv[1:])
