"""Serves the store in a folder until its input ends; prints the address.

python -m tests.faults.serving FOLDER LOG_BYTES
"""

from __future__ import annotations

import sys

from memstore.rpc.server import Server
from memstore.store import Store


def main(folder: str, log_bytes: str) -> None:
    with Store(folder, log_bytes=int(log_bytes)) as store, Server(store) as server:
        print(server.address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
