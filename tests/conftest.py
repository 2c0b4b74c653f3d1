"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Beside other test processes, spinning thread pools make sub-millisecond calls cost several.
# Set before numpy, torch or faiss is imported, since they read it then.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# The first call of a kernel compiles it, which no deadline should count.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

LONG = os.environ.get("MEMSTORE_LONG") == "1"
"""Whether what is random is tried as often as it should be, not as often as there is time for."""

TOGETHER = tuple(
    f"tests/cluster/test_{name}.py"
    for name in ("cluster", "refresh", "shared_storage", "snapshots", "training")
)
"""Files whose tests share what takes long to start: one process does all of them."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deals out tests one by one, but those of some files together."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return TOGETHER[0] if file in TOGETHER else nodeid

    return Scheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Returns the folder of real data sets, or skips with the reason."""
    from models.tasks import data

    try:
        return data.require(".")
    except data.DataMissing as missing:
        pytest.skip(str(missing))
