"""What the servers share: a folder for their data, a process, and keeping the folder for later."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOBODY = 65_534
PR_SET_PDEATHSIG = 1
PATIENCE_S = 120.0

_libc = ctypes.CDLL(None)


class Served:
    """Holds a server that keeps all it knows in `folder`; subclasses say how it is run and filled.

    A server is started on an empty folder by `build`, on a copy of a kept one by `load`. `start`
    leaves it ready to be asked, `stop` leaves everything in the folder.
    """

    about: str
    unprivileged = False
    """Whether it refuses to run as root, and is run as nobody instead."""

    ends = signal.SIGTERM
    """Asks it to end."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="memstore-server-")
        self.folder = Path(self._place.name, "data")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        raise NotImplementedError

    def fill(self, keys_ND: Any) -> None:
        raise NotImplementedError

    def build(self, keys_ND: Any, threads: int) -> None:
        self.folder.mkdir()
        self.own()
        self.start()
        self.fill(keys_ND)

    def save(self, path: Path) -> None:
        self.stop()
        shutil.copytree(self.folder, path)
        self.start()

    def load(self, path: Path, keys_ND: Any) -> None:
        shutil.copytree(path, self.folder)
        self.own()
        self.start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self.ends)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        self._place.cleanup()

    def own(self) -> None:
        """Gives the folder to whom the server runs as."""
        if self.unprivileged and os.geteuid() == 0:
            Path(self._place.name).chmod(0o755)
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
            self.folder.chmod(0o700)

    def run(self, *command: object) -> None:
        """Runs a command of the server to its end; raises `RuntimeError` with what it said."""
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, check=False, **self._as_whom()
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr or done.stdout}")

    def spawn(self, *command: object, is_ready: Callable[[], bool]) -> None:
        """Starts the server and waits until it is ready; it ends with this process."""
        said = Path(self._place.name, "said")
        with said.open("ab") as out:
            self._process = subprocess.Popen(
                [*map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | {"RUST_LOG": "error"},
                preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, self.ends),
                **self._as_whom(),
            )
        end = time.monotonic() + PATIENCE_S
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                last = said.read_text(errors="replace")[-1_000:]
                raise RuntimeError(f"{command[0]} did not start: {last}")
            time.sleep(0.05)

    def _as_whom(self) -> dict[str, Any]:
        if self.unprivileged and os.geteuid() == 0:
            return {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
        return {}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def beside_python(name: str) -> Path:
    """A command that was installed into this environment."""
    return Path(sys.executable).with_name(name)
