"""Fuzzes the decoder and the service, each in a process of its own, which may not die.

python -m tests.fuzz.run --inputs 1000000 --seed 1      exits 1 where something was found
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

SHARES = {"codec": 0.9, "service": 0.1}
"""Of the inputs: one to the service takes thirty times as long as one to the decoder."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", choices=SHARES, help="this one alone, in this process")
    options = parser.parse_args(arguments)
    if options.part is not None:
        return alone(options.part, options.inputs, options.seed)
    failed = 0
    for part, share in SHARES.items():
        inputs = str(round(share * options.inputs))
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.run", "--part", part]
        done = subprocess.run(
            [*command, "--inputs", inputs, "--seed", str(options.seed)], check=False
        )
        if done.returncode not in (0, 1):
            print(f"finding: {part} died with {done.returncode}", flush=True)
        failed |= done.returncode != 0
    return failed


def alone(part: str, inputs: int, seed: int) -> int:
    import logging

    from tests.fuzz import codec, service

    # Refusals are what is wanted; a failure is logged, with where it came from.
    logging.getLogger("memstore.audit").setLevel(logging.CRITICAL)
    found = {"codec": codec.run, "service": service.run}[part](inputs, seed)
    print(json.dumps(found.told()), flush=True)
    return int(bool(found.kinds))


if __name__ == "__main__":
    sys.exit(main())
