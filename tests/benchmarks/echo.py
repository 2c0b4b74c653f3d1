"""What gRPC itself takes for a call that does nothing; no benchmark itself.

python -m tests.benchmarks.echo     serves, and prints its port

An asyncio server as ours, asked by a synchronous client as ours: one call each, and over a stream.
"""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc import aio

from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.served import median_s

ASKED, ANSWERED = b"a" * 560, b"b" * 240
"""About what a search of one query of 128 takes, and the ten best."""

TIMES = 1_000


def unary_s() -> float:
    """Seconds of a call of its own, the median."""
    with _channel() as channel:
        call = channel.unary_unary("/echo/Unary")
        return median_s(lambda: call(ASKED), TIMES)


def stream_s() -> float:
    """Seconds of a call over a stream that is open, the median."""
    with _channel() as channel:
        calls: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        answers = channel.stream_stream("/echo/Stream")(iter(calls.get, None))

        def call() -> None:
            calls.put(ASKED)
            next(answers)

        took_s = median_s(call, TIMES)
        calls.put(None)
        return took_s


@contextmanager
def _channel() -> Iterator[grpc.Channel]:
    """To a server in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.echo"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}") as channel:
                yield channel
        finally:
            process.terminate()
            process.wait()


async def _serve() -> None:
    async def unary(_: bytes, context: Any) -> bytes:
        return ANSWERED

    async def stream(calls: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in calls:
            yield ANSWERED

    server = aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
