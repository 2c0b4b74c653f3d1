"""A server of a store in a process of its own, and calls timed; no benchmark itself."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.benchmarks.peers.client import ROOT


@contextlib.contextmanager
def served(
    folder: str | Path, *options: str, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serves the store in a folder on loopback; gives the address.

    options: of `memstore serve`.  variables: of its environment, beyond ours.
    """
    with begun(folder, *options, variables=variables) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@contextlib.contextmanager
def begun(
    folder: str | Path,
    *options: str,
    variables: Mapping[str, str] | None = None,
    core: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """As `served`; gives the process, which says its address when it listens.

    core: the only one that it may run on.
    """
    pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
    command = [*pinned, sys.executable, "-m", "memstore.cli", "serve", str(folder)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", *options],
        cwd=ROOT,
        env=os.environ | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def median_s(call: Callable[[], object], times: int) -> float:
    """Seconds of a call, the median, once it was made some times."""
    for _ in range(min(times, 20)):
        call()
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)
