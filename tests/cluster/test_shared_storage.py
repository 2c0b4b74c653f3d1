"""A part on storage that nodes share: it starts again on another node, and an actor that is woken
up after another owner came writes nothing.

A folder of this machine is what the nodes mount, and an S3 server of this process what they reach.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import MemoryConfig
from memstore.errors import (
    DiskFailed,
    InvalidArgument,
    MemstoreError,
    ShardElsewhere,
    Unreachable,
)
from memstore.memory import Array
from memstore.shared.disk import SharedDisk
from tests.cluster.conftest import NAMESPACE
from tests.s3 import S3Server

pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")

from workers import cli
from workers.cluster import ClusterSpec, down, status, up

WIDTH, LONG_S = 3, 120.0
CONFIG = MemoryConfig(dim=WIDTH, index="exact", optimizer="sgd", updates="logged")


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-9, 10, (count, WIDTH)).astype(np.float32)


@pytest.fixture(params=["folder", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "shared")
    server: S3Server = request.getfixturevalue("objects")
    return server.uri("cluster", str(tmp_path).strip("/"))


def test_a_part_goes_to_another_node_with_all_that_was_acknowledged(
    nodes: Any, tmp_path: Path, shared: str
) -> None:
    spec = ClusterSpec(
        folder=tmp_path / "disk",
        name="moving",
        namespace=NAMESPACE,
        shared=shared,
        cpus=5.0,  # as only the nodes have that are added here
    )
    added = [nodes.add_node(num_cpus=5, object_store_memory=80 << 20) for _ in range(2)]
    try:
        [before] = up(spec, LONG_S).parts
        assert before.host == ""
        with memstore.connect(spec.address, deadline_s=LONG_S) as client:
            memory = client.create("m", CONFIG)
            memory.append(rows(20))
            memory.update(range(20), rows(20, 1), lr=0.5)
            [node] = [node for node in added if node.node_id == before.node]
            added.remove(node)
            nodes.remove_node(node, allow_graceful=False)
            # Who answers may be the process that has not heard yet that its node is gone.
            assert memory.append(rows(1)).tolist() == [20]
            after, ends = before, time.monotonic() + LONG_S
            while after.term == before.term or after.state != "serving":
                assert time.monotonic() < ends, after
                time.sleep(0.1)
                with contextlib.suppress(Unreachable):  # the registry may have been there too
                    [after] = status(spec.name, NAMESPACE).parts
            assert after.node == added[0].node_id
            found = memory.gather(range(21)).keys_BD
            learnt = rows(20) - 0.5 * rows(20, 1)
            np.testing.assert_array_equal(found, np.concatenate([learnt, rows(1)]))
        down(spec.name, NAMESPACE)
    finally:
        for node in added:
            nodes.remove_node(node)


def test_an_actor_that_was_stopped_and_wakes_up_writes_nothing_and_says_so(
    nodes: Any, tmp_path: Path, shared: str
) -> None:
    spec = ClusterSpec(
        folder=tmp_path / "disk",
        name="stopped",
        namespace=NAMESPACE,
        shared=shared,
        cpus=0.5,
    )
    [part] = up(spec, LONG_S).parts
    with memstore.connect(spec.address, deadline_s=LONG_S) as client:
        client.create("m", CONFIG).append(rows(20))
    [lock] = spec.home("part-0").glob("disk-*/LOCK")
    shelf = spec.shelf("part-0")
    os.kill(int(lock.read_text()), signal.SIGSTOP)
    try:
        disk = SharedDisk.open(tmp_path / "taken", shelf, part.term + 1)
        store = memstore.Store(tmp_path / "taken", fsync="always", disk=disk)
        memory = store.memory("m")
        assert memory.append(rows(3, 1)).tolist() == [20, 21, 22]
        there = shelf.names("ops")
    finally:
        os.kill(int(lock.read_text()), signal.SIGCONT)
    with (
        memstore.connect(spec.address, deadline_s=5.0) as client,
        pytest.raises((ShardElsewhere, Unreachable)),
    ):
        client.memory("m").append(rows(1))
    ends = time.monotonic() + LONG_S
    while status(spec.name, NAMESPACE).serving and time.monotonic() < ends:
        time.sleep(0.1)
    [found] = status(spec.name, NAMESPACE).parts
    assert (found.state, found.term) == ("refused", part.term)
    assert "under a newer term" in found.why
    assert shelf.names("ops") == there
    assert memory.append(rows(1)).tolist() == [23]
    store.close()
    down(spec.name, NAMESPACE)
    up(spec, LONG_S)
    with memstore.connect(spec.address, deadline_s=LONG_S) as client:
        np.testing.assert_array_equal(
            client.memory("m").gather(range(24)).keys_BD,
            np.concatenate([rows(20), rows(3, 1), rows(1)]),
        )
    down(spec.name, NAMESPACE)


def test_a_part_is_opened_anew_when_storage_that_failed_is_back(
    nodes: Any, objects: S3Server, tmp_path: Path
) -> None:
    spec = ClusterSpec(
        folder=tmp_path / "disk",
        name="failing",
        namespace=NAMESPACE,
        shared=objects.uri("cluster", str(tmp_path).strip("/")),
        cpus=0.5,
    )
    assert spec.shared is not None
    own = ("--namespace", NAMESPACE, "--folder", str(spec.folder), "--cpus", "0.5")
    assert cli.main(["cluster", "up", spec.name, *own, "--shared", spec.shared]) == 0
    [before] = status(spec.name, NAMESPACE).parts
    with memstore.connect(spec.address, deadline_s=LONG_S) as client:
        memory = client.create("m", CONFIG)
        memory.append(rows(3))

        def deny(method: str, path: str) -> str | None:
            return "denied" if method == "PUT" and "/failing/part-0/" in path else None

        objects.trouble = deny
        try:
            with pytest.raises(MemstoreError):
                memory.append(rows(1), deadline_s=5.0)
            after, ends = before, time.monotonic() + LONG_S
            while after.term == before.term and "does not take" not in after.why:
                assert time.monotonic() < ends, after
                time.sleep(0.1)
                [after] = status(spec.name, NAMESPACE).parts
        finally:
            objects.trouble = lambda method, path: None
        assert memory.append(rows(1, 1)).tolist() == [3]
        np.testing.assert_array_equal(
            memory.gather(range(4)).keys_BD, np.concatenate([rows(3), rows(1, 1)])
        )
        [after] = status(spec.name, NAMESPACE).parts
        assert (after.state, after.term > before.term) == ("serving", True)
    down(spec.name, NAMESPACE)


def test_storage_that_fails_is_told_at_once(nodes: Any, objects: S3Server, tmp_path: Path) -> None:
    """A bucket that is not there, a folder in a file, and a file for a folder."""
    (tmp_path / "file").touch()
    bucket = objects.uri("cluster", "x").replace("s3://cluster", "s3://another")
    wrong: tuple[tuple[type[Exception], str, Path, str | None], ...] = (
        (DiskFailed, "NoSuchBucket", tmp_path / "disk", bucket),
        (DiskFailed, "File exists", tmp_path / "disk", str(tmp_path / "file/shared")),
        (InvalidArgument, "cannot be made the registry's folder", tmp_path / "file", None),
    )
    for kind, told, folder, shared in wrong:
        spec = ClusterSpec(folder=folder, name="nowhere", namespace=NAMESPACE, shared=shared)
        with pytest.raises(kind, match=told):
            up(spec, LONG_S)
        with pytest.raises(Unreachable):
            status(spec.name, NAMESPACE)
