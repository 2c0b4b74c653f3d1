"""A gRPC service that does nothing but move bytes: what no service over it can beat; no benchmark.

python -m tests.benchmarks.bare     serves until its input ends, prints the address
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from tests.benchmarks.peers.client import ROOT

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
LENGTH = 8
"""Bytes of a request that say how long the answer is to be."""


@contextlib.contextmanager
def bare() -> Iterator[Callable[[int, int], None]]:
    """Gives a call of so many bytes there and so many back, to a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bare"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with grpc.insecure_channel(process.stdout.readline().strip(), OPTIONS) as channel:
                move = channel.unary_unary("/bare/move")

                def call(there: int, back: int) -> None:
                    reply = move(back.to_bytes(LENGTH, "big") + bytes(there - LENGTH))
                    assert len(reply) == back

                yield call
        finally:
            process.stdin.close()
            process.wait()


async def main() -> None:
    async def move(data: bytes, _: Any) -> bytes:
        return bytes(int.from_bytes(data[:LENGTH], "big"))

    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(move)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bare", {"move": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
