"""Collecting garbage: what a server has loaded is looked through once."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from memstore.rpc import garbage
from memstore.rpc.garbage import Survivors


class Knot:
    """Refers to itself: only a collection finds that nobody else does."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def survivors() -> Iterator[Survivors]:
    survivors = Survivors()
    survivors.start()
    yield survivors
    survivors.stop()
    assert not gc.get_freeze_count()


def test_what_survives_a_long_collection_is_left_out_of_the_next(
    survivors: Survivors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "LONG_S", 0.0)
    kept, lost = Knot(), Knot()
    seen = weakref.ref(lost)
    del lost
    gc.collect(1)
    assert not gc.get_freeze_count()  # of the young alone
    gc.collect()
    assert seen() is None
    assert gc.get_freeze_count() > 1_000
    assert not any(found is kept for found in gc.get_objects())

    # What goes by itself goes as ever, and what comes is collected.
    class Plain: ...

    plain = Plain()
    gc.collect()
    gone = weakref.ref(plain)
    del plain
    assert gone() is None
    later = weakref.ref(Knot())
    monkeypatch.setattr(garbage, "LONG_S", 1e9)
    gc.collect()
    assert later() is None


def test_short_collections_leave_nothing_out(
    survivors: Survivors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "LONG_S", 1e9)
    gc.collect()
    assert not gc.get_freeze_count()


SERVED = """
import gc, os, signal, sys, threading, time
from memstore.cli import main

def end():
    while not gc.callbacks:
        time.sleep(0.01)
    gc.disable()  # or some is left out before all is there
    held = [[] for _ in range(1_000_000)]
    gc.collect()
    print("left out", gc.get_freeze_count() > 1_000_000, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end, daemon=True).start()
code = main(["serve", sys.argv[1], "--listen", "127.0.0.1:0"])
print("after", len(gc.callbacks), gc.get_freeze_count(), code)
"""


def test_a_server_leaves_out_what_it_has_loaded(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVED, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "left out True" in done.stdout
    assert "after 0 0 0" in done.stdout
