"""Processes killed under mixed load: what was acknowledged is there, and nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore.durable.verify import verify
from tests.conftest import LONG
from tests.faults.changes import Script, change, config, state
from tests.faults.killed import AGAIN

ROOT = Path(__file__).parents[2]

LIVES = 500 if LONG else 8

WAYS = [
    ("float32", "logged", "adagrad", 1),
    ("float32", "logged", "adam", 3),
    ("bfloat16", "logged", "rowwise_adagrad", 1),
    ("float16", "logged", "adam", 2),
]


@pytest.mark.parametrize(("dtype", "updates", "optimizer", "shards"), WAYS)
def test_a_killed_process_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, dtype: str, updates: str, optimizer: str, shards: int
) -> None:
    rng = np.random.default_rng(shards)
    how = config(dtype, updates, optimizer, shards)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "tests.faults.killed", str(tmp_path)]
    script, replies, lives = Script(), list[str](), 0
    with (
        memstore.open(tmp_path / "expected") as store,
        subprocess.Popen(
            [*command, dtype, updates, optimizer, str(shards)],
            cwd=ROOT,
            env=os.environ | threads | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent,
    ):
        memory = store.create("m", how)
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(LIVES):
            print("START", script.number, file=parent.stdin, flush=True)
            pid, more, opened = 0, int(rng.integers(1, 60)), False
            again = max(0, script.number - AGAIN)
            for line in parent.stdout:
                word, *rest = line.split()
                if word == "PID":
                    pid = int(rest[0])
                    if rng.random() < 0.3:
                        time.sleep(rng.random() * 0.05)
                        os.kill(pid, signal.SIGKILL)
                        more = 0
                elif word == "AGAIN":
                    assert rest == [str(again), replies[again]]
                    again += 1
                elif word == "OPEN":
                    # What was in flight came through, whole and once.
                    replies.append(change(memory, script))
                    assert rest == [state(memory)]
                    opened = True
                elif word == "DONE":
                    number = int(rest[0])
                    if number == len(replies):
                        replies.append(change(memory, script))
                    assert rest[1] == replies[number]
                    more -= 1
                    if more == 0:
                        time.sleep(rng.random() * 0.01)
                        os.kill(pid, signal.SIGKILL)
                elif word == "DEAD":
                    assert rest == [str(int(signal.SIGKILL))]
                    break
            lives += opened
        parent.stdin.close()
        assert parent.wait() == 0
        assert lives >= LIVES / 4
        assert list(verify(tmp_path / "store")) == []
        with memstore.open(tmp_path / "store") as after:
            found = after.memory("m")
            change(found, Script().skip(script.number))
            replies.append(change(memory, script))
            assert state(found) == state(memory)
