"""Rows in bulk through the service: loaded and exported, beside the engine and Arrow Flight.

The server is a process of its own, the client another, on one machine. Loading is durable when it
returns, in the service and embedded: it ends with a checkpoint. Flight keeps the batches that it is
put in memory, and gives them back: it is what the way alone costs, in Arrow's own compiled server.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import memstore
from memstore import MemoryConfig
from memstore.rpc import columns
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.data import WIDTH
from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.runner import Figure, Measured, Missing, at_least
from tests.benchmarks.served import served

BATCH = 4_096
"""Rows a batch: 2 MiB."""

CONFIG = MemoryConfig(dim=WIDTH, index="none")
TIMES = 3


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread."""
    yield from measured_alone("tests.benchmarks.service_transfer", 100_000 if quick else 1_000_000)


def measure(rows: int) -> Iterator[Measured]:
    """Loads and exports the same rows each way."""
    keys_ND = np.random.default_rng(0).standard_normal((rows, WIDTH), np.float32)
    firsts = range(0, rows, BATCH)
    tables = [columns.table_of(keys_ND[first : first + BATCH], None, None) for first in firsts]
    case = f"{rows:,} x {WIDTH} float32, {BATCH:,} rows a batch"
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".transfer-") as folder:
        with memstore.open(Path(folder) / "embedded") as store:
            loading_s = _best(lambda name: _embedded(store, name, keys_ND))
            logged_s = _best(lambda name: _logged(store, name, keys_ND))
            one = store.memory("m0")
            gathers_s = _best(
                lambda _: [one.gather(np.arange(f, min(f + BATCH, rows))) for f in firsts]
            )
        with (
            served(Path(folder) / "served") as address,
            memstore.connect(address) as client,
        ):

            def load(name: str) -> None:
                client.create(name, CONFIG)
                client.load(name, tables)

            loaded_s = _best(load)
            exported_s = _best(lambda _: _read(client.export("m0")))
    words = f"{case}; peer: appends to an embedded memory while it is loaded"
    yield at_least(0.3, Figure("load_rate", words, rows / loaded_s, "rows/s", rows / loading_s))
    words = f"{case}; peer: logged appends to an embedded memory"
    yield Figure("load_rate_beside_log", words, rows / loaded_s, "rows/s", rows / logged_s)
    words = f"{case}; peer: gathers of as many rows from an embedded memory"
    yield Figure("export_rate", words, rows / exported_s, "rows/s", rows / gathers_s)
    yield from _beside_flight(case, rows, tables, loaded_s, exported_s)


def _beside_flight(
    case: str, rows: int, tables: list[pa.Table], loaded_s: float, exported_s: float
) -> Iterator[Measured]:
    try:
        from pyarrow import flight
    except ImportError:
        yield Missing("load_rate_beside_flight", "pyarrow has no Flight")
        return
    with _flight() as address, flight.connect(f"grpc://{address}") as client:

        def put(name: str) -> None:
            to = flight.FlightDescriptor.for_path(name)
            writer, answers = client.do_put(to, tables[0].schema)
            for table in tables:
                writer.write_table(table)
            writer.done_writing()
            answers.read()
            writer.close()

        put_s = _best(put)
        got_s = _best(lambda _: _read(chunk.data for chunk in client.do_get(flight.Ticket(b"m0"))))
    words = f"{case}; peer: Arrow Flight DoPut, which keeps the rows in memory"
    rate = Figure("load_rate_beside_flight", words, rows / loaded_s, "rows/s", rows / put_s)
    yield at_least(0.1, rate)
    words = f"{case}; peer: Arrow Flight DoGet"
    rate = Figure("export_rate_beside_flight", words, rows / exported_s, "rows/s", rows / got_s)
    yield at_least(0.2, rate)


def _embedded(store: memstore.Store, name: str, keys_ND: Any) -> None:
    memory = store.create(name, CONFIG)
    with store.loading(name):
        for first in range(0, len(keys_ND), BATCH):
            memory.append(keys_ND[first : first + BATCH])


def _logged(store: memstore.Store, name: str, keys_ND: Any) -> None:
    memory = store.create(f"logged-{name}", CONFIG)
    for first in range(0, len(keys_ND), BATCH):
        memory.append(keys_ND[first : first + BATCH])


def _read(batches: Any) -> int:
    return sum(batch.num_rows for batch in batches)


def _best(work: Callable[[str], object]) -> float:
    """Seconds of the quickest of some times."""
    seconds = []
    for number in range(TIMES):
        begun = time.perf_counter()
        work(f"m{number}")
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


@contextmanager
def _flight() -> Iterator[str]:
    """The address of a Flight server in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.service_transfer", "flight"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def serve_flight() -> None:
    """Keeps what it is put, and gives it back, until it is killed."""
    from pyarrow import flight

    class Server(flight.FlightServerBase):
        def __init__(self) -> None:
            super().__init__("grpc://127.0.0.1:0")
            self.held: dict[bytes, pa.Table] = {}

        def do_put(self, context: Any, to: Any, reader: Any, writer: Any) -> None:
            self.held[to.path[0]] = reader.read_all()
            writer.write(b"done")

        def do_get(self, context: Any, ticket: Any) -> Any:
            return flight.RecordBatchStream(self.held[ticket.ticket])

    server = Server()
    sys.stdout.write(f"127.0.0.1:{server.port}\n")
    sys.stdout.flush()
    server.serve()


if __name__ == "__main__":
    if sys.argv[1] == "flight":
        serve_flight()
    else:
        tell(measure(int(sys.argv[1])))
