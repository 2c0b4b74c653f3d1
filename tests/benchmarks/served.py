"""A server of a store in a process of its own; no benchmark itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.benchmarks.peers.client import ROOT


@contextlib.contextmanager
def served(
    folder: str | Path, *options: str, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serves the store in a folder on loopback; gives the address.

    options: of `memstore serve`.  variables: of its environment, beyond ours.
    """
    command = [sys.executable, "-m", "memstore.cli", "serve", str(folder)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", *options],
        cwd=ROOT,
        env=os.environ | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait()
