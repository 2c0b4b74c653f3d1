"""A million inputs with MEMSTORE_LONG=1, some thousand otherwise: nothing is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memstore.errors import MemstoreError
from memstore.rpc import splice
from memstore.rpc.v1 import memory_pb2 as pb
from tests.conftest import LONG
from tests.fuzz import codec, corpus
from tests.fuzz.findings import seeded
from tests.fuzz.mutate import mutated


@pytest.mark.timeout(14_400 if LONG else 300)
def test_nothing_is_found() -> None:
    inputs = 1_000_000 if LONG else 4_000
    command = [sys.executable, "-m", "tests.fuzz.run", "--inputs", str(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
    assert done.stdout.count('"findings": {}') == 2


def test_what_is_mutated_is_right() -> None:
    for message in codec.messages():
        if not isinstance(message, (pb.Error, *codec.REPLIES)):
            codec.decode(type(message), message.SerializeToString())


def test_mutations_reach_both_what_is_refused_and_what_is_not() -> None:
    rng, refused = seeded(0, "both"), 0
    message = dict(corpus.calls())["search"]
    for _ in range(500):
        try:
            codec.decode(pb.SearchRequest, mutated(message, (), rng))
        except MemstoreError:
            refused += 1
    assert 50 < refused < 450


def test_an_input_is_found_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "decode", lambda *_: 1 / 0)
    assert "raised ZeroDivisionError" in " ".join(codec.run(100, 0).kinds)


def test_splicing_that_reads_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = splice._joined
    monkeypatch.setattr(splice, "_joined", lambda bare, found: joined(bare, {}))
    assert any("AssertionError" in kind for kind in codec.run(500, 0).kinds)
