"""memstore: looks at stores from the command line, copies them, brings them back and serves them.

memstore describe PATH          what a store holds
memstore verify PATH            whether it is whole: exit status 0, or 1 and what is wrong with it
memstore snapshot PATH URI      copies it as it is now, or as it was at a mark
memstore restore URI PATH       makes a store of a snapshot
memstore serve PATH             serves it to others (extra `rpc`)
memstore health HOST:PORT       whether a server serves: exit status 0, or 1 (extra `rpc`)
memstore token FILE NAME        says who may call (extra `rpc`)
memstore load ADDRESS MEMORY FILE …     fills a memory that is served (extra `rpc`)
memstore export ADDRESS MEMORY FILE     writes its rows to a file (extra `rpc`)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memstore.bar import Bar
from memstore.durable import manifest
from memstore.durable.restoring import restore
from memstore.durable.verify import describe, verify
from memstore.errors import InvalidArgument, MemstoreError, NotAStore, Unsupported
from memstore.extras import install
from memstore.placement import WHOLE, Part
from memstore.store import Store

try:
    from memstore.rpc import cli as rpc
    from memstore.rpc import transfer_cli as transfer
except ImportError:  # without the extra `rpc` there is nothing to serve by
    rpc = transfer = None  # type: ignore[assignment]

SERVED = ("serve", "health", "token", "load", "export")
"""Commands that need the extra `rpc`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 where something is wrong, 2 for bad usage."""
    words = sys.argv[1:] if argv is None else argv
    if rpc is None and words and words[0] in SERVED:
        error = Unsupported(f"memstore {words[0]} needs grpcio", hint=install("rpc"))
        _say(f"{type(error).__name__}: {error}")
        return 1
    options = _parser().parse_args(words)
    commands = {
        "describe": _describe,
        "verify": _verify,
        "snapshot": _snapshot,
        "restore": _restore,
    }
    if rpc is not None:
        commands |= {"serve": rpc.serve, "health": rpc.health, "token": rpc.token}
        commands |= {"load": transfer.load, "export": transfer.export}
    try:
        return commands[options.command](options)
    except MemstoreError as error:
        _say(f"{type(error).__name__}: {error}")
        return 1


def _describe(options: argparse.Namespace) -> int:
    for line in describe(options.path):
        _say(line)
    return 0


def _verify(options: argparse.Namespace) -> int:
    problems = 0
    for problem in verify(options.path):
        problems += 1
        _say(problem)
    if not problems:
        _say(f"{options.path} is whole.")
    return 1 if problems else 0


def _snapshot(options: argparse.Namespace) -> int:
    if not (options.path / manifest.NAME).exists():
        raise NotAStore(f"{options.path} holds no store", hint="name the directory of one")
    # At a mark nothing is to be written to the store.
    with Store(options.path, read_only=options.at is not None) as store:
        taken = store.snapshot(options.uri, at=options.at, progress=Bar())
    _say(
        f"Snapshot {taken.number} is at {taken.uri}: {taken.bytes / 1e6:,.1f} MB, "
        f"{taken.copied / 1e6:,.1f} MB of them new."
    )
    return 0


def _restore(options: argparse.Namespace) -> int:
    shards = _shards(options.shards)
    part = WHOLE if options.part is None else Part.parsed(options.part)
    facts: dict[str, Any] = {"shards": shards, "number": options.number, "part": part}
    restore(options.uri, options.path, **facts, progress=Bar())
    _say(f"The store is at {options.path}.")
    return 0


def _shards(words: Sequence[str]) -> int | dict[str, int] | None:
    """What `--shards 4` or `--shards facts=4 words=2` means."""
    if not words:
        return None
    try:
        if len(words) == 1 and "=" not in words[0]:
            return int(words[0])
        return {name: int(count) for name, count in (word.rsplit("=", 1) for word in words)}
    except ValueError as error:
        raise InvalidArgument(
            "shards are not understood", got=" ".join(words), expected="N, or NAME=N …"
        ) from error


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memstore", description="Look at stores, copy them, bring them back and serve them."
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def command(name: str, words: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=words, description=words)

    for name, words in (
        ("describe", "what a store holds"),
        ("verify", "check every checksum, and what must hold of the rows and their index"),
    ):
        command(name, words).add_argument("path", type=Path, help="the directory of the store")

    snapshot = command("snapshot", "copy a store as it is now, or as it was at a mark")
    snapshot.add_argument("path", type=Path, help="the directory of the store")
    snapshot.add_argument("uri", help="a directory, or an address as s3://bucket/folder")
    snapshot.add_argument("--at", metavar="MARK", help="the mark whose moment it is to be")

    back = command("restore", "make a store of a snapshot")
    back.add_argument("uri", help="where the snapshots lie")
    back.add_argument("path", type=Path, help="the directory of the new store")
    back.add_argument("--number", type=int, help="of the snapshot; without it the newest")
    back.add_argument(
        "--shards",
        nargs="+",
        default=[],
        metavar="N",
        help="cut all memories into N shards, or NAME=N … those named",
    )
    back.add_argument("--part", metavar="I/N", help="make that part of several servers alone")
    if rpc is not None:
        rpc.add_commands(commands)
        transfer.add_commands(commands)
    else:
        for name in SERVED:
            command(name, f"needs the extra `rpc`: {install('rpc')}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
