"""memstore: looks at stores from the command line.

memstore describe PATH      what a store holds
memstore verify PATH        whether it is whole: exit status 0, or 1 and what is wrong with it
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from memstore.errors import MemstoreError
from memstore.verify import describe, verify


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 where something is wrong, 2 for bad usage."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "describe":
            for line in describe(options.path):
                _say(line)
            return 0
        problems = 0
        for problem in verify(options.path):
            problems += 1
            _say(problem)
    except MemstoreError as error:
        _say(f"{type(error).__name__}: {error}")
        return 1
    if not problems:
        _say(f"{options.path} is whole.")
    return 1 if problems else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="memstore", description="Look at stores.")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    for name, words in (
        ("describe", "what a store holds"),
        ("verify", "check every checksum, and what must hold of the rows and their index"),
    ):
        sub = commands.add_parser(name, help=words, description=words)
        sub.add_argument("path", type=Path, help="the directory of the store")
    return parser


if __name__ == "__main__":
    sys.exit(main())
