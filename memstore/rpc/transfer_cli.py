"""What `memstore load` and `memstore export` do: rows between files and a memory that is served.

memstore load HOST:PORT MEMORY FILE …      loads Arrow IPC and Parquet files as one
memstore export HOST:PORT MEMORY FILE      writes its rows to one
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from memstore.bar import Bar
from memstore.errors import InvalidArgument
from memstore.rpc.cli import add_tls, client_tls
from memstore.rpc.client import Client
from memstore.rpc.target import Target

TOKEN = "MEMSTORE_TOKEN"

BATCH_ROWS = 16_384
"""Rows read of a Parquet file at a time."""


def add_commands(commands: Any) -> None:
    """Adds `load` and `export` to the commands of `memstore`."""
    words = "append the rows of Arrow IPC or Parquet files to a memory that is served: all, or none"
    load = commands.add_parser("load", help=words, description=words)
    _add_server(load)
    load.add_argument("files", nargs="+", type=Path, metavar="FILE", help="columns key, value, …")
    load.add_argument("--step", type=int, help="counts as a use of the rows at that step")

    words = "write the rows of a memory that is served to an Arrow IPC or a .parquet file"
    export = commands.add_parser("export", help=words, description=words)
    _add_server(export)
    export.add_argument("file", type=Path, metavar="FILE", help="that is not there yet")
    export.add_argument("--no-vectors", action="store_true", help="leave key and value out")
    export.add_argument("--columns", nargs="*", metavar="NAME", help="the record columns; else all")


def _add_server(command: argparse.ArgumentParser) -> None:
    command.add_argument("address", metavar="HOST:PORT", help="of the server")
    command.add_argument("memory", help="its name")
    command.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"that has the token; else ${TOKEN} has it"
    )
    add_tls(command)
    command.add_argument("--deadline-s", type=float, metavar="SECONDS", help="an hour unless told")


def load(options: argparse.Namespace) -> int:
    """Loads the files, one behind the other, as one."""
    sources = [_source(path) for path in options.files]
    whole, bar = sum(rows for rows, _ in sources), Bar("rows", 1, 0)

    def counted() -> Iterator[pa.RecordBatch]:
        there = 0
        for _, batches in sources:
            for batch in batches:
                yield batch
                there += len(batch)
                bar(there, whole)

    with _connected(options) as client:
        done = client.load(
            options.memory, counted(), step=options.step, deadline_s=options.deadline_s
        )
    slots = f" in slots {done.first} to {done.last}" if done.rows else ""
    sys.stdout.write(f"{done.rows:,} rows were loaded{slots}.\n")
    return 0


def export(options: argparse.Namespace) -> int:
    """Writes the rows under a name of its own first: a file that is there is whole."""
    if options.file.exists():
        raise InvalidArgument(f"{options.file} is there already", hint="name another file")
    draft = options.file.with_name(f"{options.file.name}.{os.getpid()}.part")
    rows, bar = 0, Bar("rows", 1, 0)
    with _connected(options) as client:
        whole = client.memory(options.memory).describe().rows
        batches = client.export(
            options.memory,
            vectors=not options.no_vectors,
            columns=options.columns,
            deadline_s=options.deadline_s,
        )
        first = next(batches)
        try:
            with _writer(draft, options.file.suffix, first.schema) as writer:
                for batch in _from(first, batches):
                    writer.write_batch(batch)
                    rows += len(batch)
                    bar(rows, max(rows, whole))
            draft.replace(options.file)
        except OSError as error:
            raise InvalidArgument(
                f"{options.file} cannot be written", got=str(error), expected="a file to be made"
            ) from error
        finally:
            draft.unlink(missing_ok=True)
    sys.stdout.write(f"{rows:,} rows are in {options.file}.\n")
    return 0


def _from(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _connected(options: argparse.Namespace) -> Client:
    token = os.environ.get(TOKEN)
    if options.token_file is not None:
        try:
            token = options.token_file.read_text().strip()
        except OSError as error:
            raise InvalidArgument(f"{options.token_file} cannot be read", got=str(error)) from error
    return Client(Target(options.address, token or None, client_tls(options)))


def _source(path: Path) -> tuple[int, Iterator[pa.RecordBatch]]:
    """How many rows a file has, and its batches, read as they are asked for."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            file = pyarrow.parquet.ParquetFile(path)
            return file.metadata.num_rows, file.iter_batches(BATCH_ROWS)
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        numbers = range(reader.num_record_batches)
        rows = sum(reader.get_batch(number).num_rows for number in numbers)
        return rows, map(reader.get_batch, numbers)
    except (pa.ArrowException, OSError) as error:
        raise InvalidArgument(
            f"{path} cannot be read", got=str(error), expected="an Arrow IPC or a .parquet file"
        ) from error


@contextlib.contextmanager
def _writer(path: Path, suffix: str, schema: pa.Schema) -> Iterator[Any]:
    if suffix == ".parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            yield writer
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            yield writer
