"""Trimming: a process that serves gives back what it freed, though something stands behind it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

GLIBC = hasattr(ctypes.CDLL(None), "mallopt")

LEAVES = """
import threading
from pathlib import Path

import numpy as np

from memstore.trim import keep_little

MIB = 1 << 20


def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def work(kept):
    for _ in range(4):
        passing = np.ones(8 * MIB, np.uint8)
        kept.append(np.ones(50_000, np.uint8))  # stands behind it from now on
        del passing


keep_little()
np.ones(20 * MIB, np.uint8)  # from here on glibc by itself maps nothing smaller apart
before, kept = anonymous(), []
for _ in range(4):
    thread = threading.Thread(target=work, args=(kept,))
    thread.start()
    thread.join()
print(anonymous() - before)
"""


def left_mib(**variables: str) -> float:
    ours = {name: text for name, text in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", LEAVES]
    done = subprocess.run(command, env=ours | variables, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="glibc alone is told")
def test_what_was_freed_is_given_back_though_something_stands_behind_it() -> None:
    assert left_mib() < 6


@pytest.mark.skipif(not GLIBC, reason="glibc alone is told")
def test_who_sets_the_allocator_has_it_that_way() -> None:
    assert left_mib(MALLOC_PERTURB_="0") > 8
