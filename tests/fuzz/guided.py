"""The decoder again, by inputs that reach new lines of it: needs atheris, which few need.

pip install atheris && python -m tests.fuzz.guided -atheris_runs=200000 -seed=1
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["memstore.rpc", "memstore.filters", "memstore.config"]):
    from memstore.errors import MemstoreError
    from tests.fuzz import codec

KINDS: list[type[Any]] = sorted(
    {type(message) for message in codec.messages()} - {*codec.REPLIES},
    key=lambda kind: kind.__name__,
)


def one(data: bytes) -> None:
    """Its first byte says of which kind the others are to be."""
    if data:
        with contextlib.suppress(MemstoreError):
            codec.decode(KINDS[data[0] % len(KINDS)], data[1:])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, message in enumerate(codec.messages()):
            if type(message) in KINDS:
                first = bytes([KINDS.index(type(message))])
                Path(folder, str(number)).write_bytes(first + message.SerializeToString())
        atheris.Setup([*sys.argv, folder, "-rss_limit_mb=2048", "-print_final_stats=1"], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
