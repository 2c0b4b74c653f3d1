"""Runs the command by which a file of deploy/ serves, with its paths and ports set free."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from memstore.rpc.security import add_token
from tests.rpc import certificates

PORTS = ("7437", "9464")
"""Of the service and of its metrics, in all files of deploy/."""

MEMSTORE = [sys.executable, "-m", "memstore.cli"]


def secrets(folder: Path) -> Path:
    """The files that a server looks for, in a new folder."""
    folder.mkdir()
    made = certificates.make(folder)
    made.authority.rename(folder / "ca.crt")
    made.certificate.rename(folder / "tls.crt")
    made.key.rename(folder / "tls.key")
    add_token(folder / "tokens.json", "trainer", "write")
    return folder


@contextmanager
def served(words: Sequence[str], places: Mapping[str, Path]) -> Iterator[str]:
    """Serves by `memstore` with these words; yields the port, and ends it as an orchestrator does.

    places: what stands in the words for which folder.
    """
    free = [_moved(word, places) for word in words]
    for port in PORTS:
        free = [
            word.removesuffix(port) + "0" if word.endswith(f":{port}") else word for word in free
        ]
    with subprocess.Popen([*MEMSTORE, *free], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip().rpartition(":")[2]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def health(words: Sequence[str], port: str, places: Mapping[str, Path]) -> int:
    """The exit status of `memstore health` with these words, of a server at another port."""
    moved = [_moved(word, places).replace(PORTS[0], port) for word in words]
    return subprocess.run([*MEMSTORE, *moved], check=False).returncode


def _moved(word: str, places: Mapping[str, Path]) -> str:
    for place, folder in places.items():
        if word == place or word.startswith(f"{place}/"):
            return f"{folder}{word.removeprefix(place)}"
    return word
