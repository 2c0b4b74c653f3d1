"""A network that takes its time between a client and servers of this machine; no benchmark itself.

    python -m tests.benchmarks.link SECONDS HOST:PORT,HOST:PORT…

listens once for each server and passes on what comes: to the server after half of the time, back
when all of it is over since it was asked. What servers do in between is not waited for, as if each
were a machine of its own, there and back to which takes so long. It says where it listens, and at
its end how many answers came too late for that, of how many.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence

from tests.benchmarks.peers.client import ROOT


class End(asyncio.Protocol):
    """One end of a connection, which keeps what comes until its time, then gives it to the other.

    asked_at: when something was last asked.  answers, late: that came from servers, of all ends.
    """

    answers = late = 0

    def __init__(self, wait_s: float, asking: End | None = None) -> None:
        """wait_s: there and back.  asking: the end of the client; None where this is it."""
        self._loop, self._wait_s, self._asking = asyncio.get_running_loop(), wait_s, asking
        self._kept = deque[tuple[float, bytes]]()
        self.transport: asyncio.Transport | None = None
        self.other = asking
        self.asked_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._asking is not None:
            self._asking.other = self

    def data_received(self, data: bytes) -> None:
        now = self._loop.time()
        if self._asking is None:
            self.asked_at, due = now, now + self._wait_s / 2
        else:
            due = self._asking.asked_at + self._wait_s
            End.answers += 1
            End.late += now > due
        self._kept.append((due, data))
        if len(self._kept) == 1:
            self._loop.call_at(due, self._give)

    def _give(self) -> None:
        if self.other is None or self.other.transport is None:
            self._loop.call_later(0.001, self._give)  # the way to the server is not open yet
            return
        while self._kept and self._kept[0][0] <= self._loop.time():
            self.other.transport.write(self._kept.popleft()[1])
        if self._kept:
            self._loop.call_at(self._kept[0][0], self._give)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


@contextlib.contextmanager
def linked(addresses: Sequence[str], seconds: float) -> Iterator[tuple[list[str], list[int]]]:
    """Runs it beside; gives addresses that stand for those, and a list that at the end has how many
    answers were late, and of how many."""
    command = [sys.executable, "-m", "tests.benchmarks.link", str(seconds), ",".join(addresses)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told: list[int] = []
        try:
            yield process.stdout.readline().strip().split(","), told
        finally:
            process.terminate()
            told.extend(map(int, process.stdout.read().split()))


async def _run(wait_s: float, addresses: Sequence[str]) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    begun = set[asyncio.Task[object]]()
    ports = []
    for address in addresses:
        host, _, port = address.rpartition(":")

        def asked(host: str = host, port: int = int(port)) -> End:
            end = End(wait_s)
            way = loop.create_connection(lambda: End(wait_s, end), host, port)
            begun.add(loop.create_task(way))
            return end

        server = await loop.create_server(asked, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    print(",".join(f"127.0.0.1:{port}" for port in ports), flush=True)
    await over.wait()
    print(End.late, End.answers)


if __name__ == "__main__":
    # `select` wakes up to the microsecond, `epoll` to the millisecond.
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        runner.run(_run(float(sys.argv[1]), sys.argv[2].split(",")))
