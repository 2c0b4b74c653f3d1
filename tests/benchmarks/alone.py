"""Measures in a process of its own with one thread; no benchmark itself.

Libraries read their number of threads when they load, so it must be said before.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.benchmarks.runner import Curve, Figure, Measured, Missing

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)

KINDS: dict[str, type[Figure] | type[Missing] | type[Curve]] = {
    kind.__name__: kind for kind in (Figure, Missing, Curve)
}


def measured_alone(module: str, *arguments: object) -> Iterator[Measured]:
    """Runs `python -m module arguments`, which must `tell`, and yields what it tells."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        for line in child.stdout or ():
            kind, fields = json.loads(line)
            yield KINDS[kind](**fields)
    if child.returncode:
        raise RuntimeError(f"{command} ended with {child.returncode}")


def tell(all_measured: Iterable[Measured]) -> None:
    """Writes what was measured to standard output, a JSON line each; whatever else is written there
    meanwhile, by a library or a child, goes to standard error."""
    sys.stdout.flush()
    told = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(told, "w") as out:
        try:
            for measured in all_measured:
                fields = dataclasses.asdict(measured)
                line = json.dumps([type(measured).__name__, fields], default=float)
                print(line, file=out, flush=True)
        finally:
            sys.stdout.flush()
            os.dup2(told, 1)
