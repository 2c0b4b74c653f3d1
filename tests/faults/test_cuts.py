"""Snapshots of servers that die while they are taken: each that is there is of one moment."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import memstore
from memstore.errors import MemstoreError
from tests.conftest import LONG
from tests.congruence import histories
from tests.faults.processes import Cluster

SERVERS, KILLS = 3, 20 if LONG else 2


def until(is_so: Callable[[], bool], running: list[Future[Any]]) -> None:
    ends = time.monotonic() + 180
    while not is_so():
        assert time.monotonic() < ends, "nothing goes on"
        assert not any(each.done() for each in running), "a writer failed"
        time.sleep(0.01)


def test_servers_die_while_snapshots_are_taken(tmp_path: Path) -> None:
    """Writers of all parts go on; what is half done when a part dies is whole, or not in it."""
    cluster, uri, rng = Cluster(tmp_path, SERVERS), tmp_path / "snapshots", random.Random(1)
    over, lost = threading.Event(), 0
    cuts: list[tuple[int, list[int], list[int]]] = []
    try:
        with (
            memstore.connect(",".join(cluster.addresses), deadline_s=60.0) as client,
            ThreadPoolExecutor(8) as pool,
        ):
            writers = histories.made(client.create("m", histories.CONFIG), 3, 6, 0.005)
            running = [pool.submit(writer.run, over) for writer in writers]

            def take() -> None:
                """A mark, and a snapshot of it; where it is lost, the mark is not there."""
                before = [writer.done for writer in writers]
                name = f"mark-{len(cuts)}-{time.monotonic_ns()}"
                client.mark(name)
                after = [len(writer.states) - 1 for writer in writers]
                taken = client.snapshot(str(uri), at=name)
                cuts.append((taken.number, before, after))
                client.unmark(name)

            try:
                for round_ in range(KILLS):
                    seen = [writer.done for writer in writers]
                    until(lambda: all(w.done > n + 2 for w, n in zip(writers, seen)), running)  # noqa: B023, B905
                    taking = pool.submit(take)
                    time.sleep(rng.uniform(0, 0.15))
                    cluster.kill(round_ % SERVERS)
                    time.sleep(0.2)
                    cluster.restart(round_ % SERVERS)
                    try:
                        taking.result(timeout=180)
                    except MemstoreError as error:
                        if not error.retryable:
                            raise
                        lost += 1
                    done = len(cuts)
                    while len(cuts) == done:
                        try:
                            take()
                        except MemstoreError as error:
                            if not error.retryable:
                                raise
                    print(f"round {round_}: {len(cuts)} snapshots, {lost} lost")
            finally:
                over.set()
            for each in running:
                each.result(timeout=180)
            marks = client.marks()
            for name in marks:
                client.unmark(name)
            assert client.marks() == []
    finally:
        over.set()
        cluster.close()
    for number, before, after in cuts:
        target = tmp_path / f"restored-{number}"
        memstore.restore(uri, target, number=number)
        with memstore.open(target) as store:
            histories.check_cut(store.memory("m"), writers, before, after)
    assert len(cuts) >= KILLS
