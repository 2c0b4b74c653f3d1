"""memtrain refresh: keeps encoded memories near the sums of their parts, from the command line."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from typing import Any

import memstore
from workers.refresh import DRIFT, Progress, Refresher

DEADLINE_S = 600.0
"""Of a batch, in which an index may be built anew."""

TELL_S = 10.0


def add_command(commands: Any) -> None:
    """Adds `refresh` to the commands of `memtrain`."""
    sub = commands.add_parser("refresh", help=refresh.__doc__, description=refresh.__doc__)
    sub.set_defaults(command=refresh)
    sub.add_argument("address", help="ray:NAMESPACE/NAME, or HOST:PORT of a server")
    sub.add_argument("--share", type=float, default=0.2, help="of the time, that it works (0.2)")
    sub.add_argument("--drift", type=float, default=DRIFT, help=f"let be, of a part row ({DRIFT})")
    sub.add_argument("--memory", action="append", help="of this name alone; may come again")
    sub.add_argument("--once", action="store_true", help="end when nothing drifted further")


def refresh(options: argparse.Namespace) -> None:
    """encode anew what drifted most, at a share of the machine, until it is interrupted"""
    stop, told = threading.Event(), time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            print(progress, flush=True)

    # Behind the batch that it is at.
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with memstore.connect(options.address, deadline_s=DEADLINE_S) as client:
            worker = Refresher(
                client, share=options.share, drift=options.drift, names=options.memory
            )
            print(worker.run(stop, once=options.once, tell=tell), flush=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
