"""A trainer that wakes after others took its place: it changes nothing any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore.errors import UnknownMemory
from memstore.memory import Array
from memstore.rpc.server import Server
from tests.congruence.spread import Servers
from tests.training import small
from tests.training.stopped import EVERY, RECIPE, opened
from workers.checkpoints import Holder
from workers.group import Group
from workers.run import Run

TABLES = ("words", "entities", "relations")
LONG_S = 240.0
"""For a process that starts on a machine that is busy."""


def untold(what: str, done: int, total: int) -> None:
    """Progress that nobody asks for."""


def rows(holder: Holder) -> dict[str, Array]:
    found = {}
    for name in TABLES:
        memory = holder.memory(name)
        keys_BD = memory.gather(np.arange(memory.describe().next_slot)).keys_BD
        assert keys_BD is not None
        found[name] = keys_BD
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    """The rows of a run that nothing happened to."""
    folder, base = tmp_path_factory.mktemp("alone"), small.base(RECIPE.places)
    Run.build(folder, RECIPE, base, untold)
    with Run(folder) as run:
        for _ in run.train(base, EVERY):
            pass
        return rows(run.holder)


@contextmanager
def served(folder: Path, count: int) -> Iterator[str]:
    """Where so many new servers are."""
    if count == 1:
        with memstore.open(folder / "store") as store, Server(store) as server:
            yield server.address
    else:
        servers = Servers(folder, count)
        yield ",".join(server.address for server in servers.servers)
        servers.close()


@pytest.mark.parametrize(
    ("servers", "stop"),
    [(1, 2 * EVERY + 2), (2, 2 * EVERY)],
    ids=["of one server, behind a checkpoint", "of two, at one"],
)
def test_its_update_is_refused(
    tmp_path: Path, expected: dict[str, Array], servers: int, stop: int
) -> None:
    folder, base = tmp_path / "run", small.base(RECIPE.places)
    with (
        served(tmp_path, servers) as address,
        memstore.connect(address, deadline_s=LONG_S) as client,
    ):
        Run.build(folder, RECIPE, base, untold, client)
        told = json.dumps({"folder": str(folder), "address": address, "stop": stop})
        first = subprocess.Popen(
            [sys.executable, "-m", "tests.training.stopped", told],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            with opened(folder, address, tmp_path / "meeting") as run:
                assert run.trainer.done == 2 * EVERY
                for _ in run.train(base, EVERY):
                    if run.trainer.done == 2 * EVERY + 1:
                        first.send_signal(signal.SIGCONT)
                        errors = first.communicate(timeout=LONG_S)[1]
                        assert first.returncode == 1
                        assert "UnknownMemory" in errors.splitlines()[-1]
                        assert "another was made under its name" in errors
            found = rows(client)
        finally:
            first.kill()
            first.wait()
    for name, keys_BD in expected.items():
        np.testing.assert_array_equal(found[name], keys_BD)


def test_it_makes_no_checkpoint_and_opens_no_memory_of_others(tmp_path: Path) -> None:
    """Where the memories are made anew while it is in the middle of either."""

    class Late(Group):
        """Others put back the run behind its first trainer."""

        def first(self, number: int) -> int:
            if self.replaced:
                again()
            return number

    folder, base = tmp_path / "run", small.base(RECIPE.places)
    with memstore.open(tmp_path / "store") as store:
        Run.build(folder, RECIPE, base, untold, store)

        def again() -> None:
            with Run(folder, store) as other:
                other.checkpoints.restore(store, anew=True)

        with Run(folder, store) as run:
            steps = run.train(base, EVERY)
            for _ in range(EVERY + 1):
                next(steps)
            run.checkpoints.wait()
            again()
            with pytest.raises(UnknownMemory, match="no checkpoint was made"):
                run.save()
            assert store.marks() == []
            assert run.checkpoints.steps() == [0, EVERY]
            with pytest.raises(UnknownMemory):
                next(steps)
        late = Late()
        late.replaced = True
        with pytest.raises(UnknownMemory, match="made anew since they were opened; nothing"):
            Run(folder, store, group=late)
