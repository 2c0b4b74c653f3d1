"""Servers of parts in processes of their own, which are killed and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


class Process:
    """A server of one part in a process of its own."""

    def __init__(self, folder: Path, number: int, of: int, topology: Path) -> None:
        part = f"{number}/{of}"
        own = str(folder / str(number))
        main = "import sys; from memstore.cli import main; sys.exit(main())"
        serve = [sys.executable, "-c", main, "serve", own, "--listen", "127.0.0.1:0"]
        self._errors = (folder / f"log-{number}").open("a")
        self.process = subprocess.Popen(
            [*serve, "--part", part, "--topology", str(topology)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def address(self) -> str:
        """Where it listens, once it does."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def stop(self) -> None:
        """Stops it as SIGSTOP does: it is there, and says nothing."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


class Cluster:
    """All servers, and the file that says where they are."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._topology = folder, folder / "topology.json"
        self._version, self._count = 0, count
        self._servers = [Process(folder, i, count, self._topology) for i in range(count)]
        self.addresses = [server.address() for server in self._servers]
        self._tell()

    def kill(self, number: int) -> None:
        self._servers[number].kill()

    def stop(self, number: int) -> None:
        self._servers[number].stop()

    def go_on(self, number: int) -> None:
        self._servers[number].go_on()

    def restart(self, number: int) -> None:
        self._servers[number] = Process(self._folder, number, self._count, self._topology)
        self.addresses[number] = self._servers[number].address()
        self._tell()

    def close(self) -> None:
        for server in self._servers:
            server.kill()

    def _tell(self) -> None:
        self._version += 1
        draft = self._topology.with_suffix(".new")
        draft.write_text(json.dumps({"version": self._version, "servers": self.addresses}))
        draft.replace(self._topology)
