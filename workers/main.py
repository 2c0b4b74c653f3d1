"""memtrain: the command line, or what it needs where that is not installed."""

from __future__ import annotations

import sys

from memstore.extras import install

OWN = ("memstore", "models", "workers")


def main() -> int:
    """As `workers.cli.main`; 1 where a library is missing, which is said."""
    try:
        from workers import cli
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", *OWN):
            raise
        sys.stderr.write(f"memtrain needs {missing}: {install('cpu,train,demo')}\n")
        return 1
    return cli.main()
