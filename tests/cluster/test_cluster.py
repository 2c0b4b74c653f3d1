"""A cluster of two parts on two nodes: where they lie, what is lost and found again, what is told.

Processes end by `kill -9`, as where a machine has no memory left: nobody tells Ray, nor the others.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import ClientTls, MemoryConfig, SearchOptions
from memstore.errors import InvalidArgument, MemstoreError, Unauthenticated, Unreachable
from memstore.finding import finder
from memstore.memory import Array
from tests.cluster.conftest import NAMESPACE
from tests.ingest.made import contents, facts, write_tsv

pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")

import ray

from workers import cli
from workers.cluster import ClusterSpec, ClusterStatus, down, status, up
from workers.cluster.finding import find
from workers.ingest import Layout, ingest

WIDTH, PARTS = 3, 2
CONFIG = MemoryConfig(dim=WIDTH, shards=3, index="exact", optimizer="sgd")
EXACT = SearchOptions(exact=True)
LONG_S = 120.0
"""For a process to be started on a machine that is busy."""


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-9, 10, (count, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def spec(nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSpec]:
    folder = tmp_path_factory.mktemp("cluster")
    spec = ClusterSpec(folder=folder, name="facts", namespace=NAMESPACE, parts=PARTS)
    up(spec, LONG_S)
    yield spec
    down(spec.name, NAMESPACE)
    shutil.rmtree(folder)


@pytest.fixture
def client(spec: ClusterSpec) -> Iterator[Any]:
    with memstore.connect(spec.address, deadline_s=LONG_S) as client:
        yield client
        for name in client.list():
            client.drop(name)


def kill(home: Path) -> None:
    """Ends the process that has a folder."""
    [lock] = home.glob("**/LOCK")
    os.kill(int(lock.read_text()), signal.SIGKILL)


@contextmanager
def stopped(*processes: int) -> Iterator[None]:
    """Stops processes for as long as it lasts, as where their machine hangs."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def settled(spec: ClusterSpec) -> ClusterStatus:
    """How the cluster is when every part is served again."""
    ends = time.monotonic() + LONG_S
    while True:
        try:
            found = status(spec.name, NAMESPACE)
            if found.serving or time.monotonic() > ends:
                return found
        except Unreachable:
            if time.monotonic() > ends:
                raise
        time.sleep(0.1)


def test_parts_lie_apart_and_say_to_which_node_they_are_pinned(spec: ClusterSpec) -> None:
    found = status(spec.name, NAMESPACE)
    assert found.serving
    assert found.spec == spec
    assert len({part.node for part in found.parts}) == PARTS
    for part in found.parts:
        assert part.address.startswith(f"{part.host}:")
        assert (part.folder / "store" / "memstore.json").exists()
    groups = ray.util.placement_group_table().values()
    [group] = [group for group in groups if group["name"] == spec.group]
    assert group["strategy"] == "STRICT_SPREAD"
    assert [bundle["CPU"] for bundle in group["bundles"].values()] == [1.0] * PARTS


def test_nobody_is_let_in_who_was_not_given_a_token(spec: ClusterSpec) -> None:
    found = find(spec.address, LONG_S)
    assert found.authority is not None
    tls = ClientTls(found.authority.encode())
    with (
        memstore.connect(found.servers[0], tls=tls) as client,
        pytest.raises(Unauthenticated),
    ):
        client.list()
    with (
        memstore.connect(found.servers[0], deadline_s=2.0) as client,
        pytest.raises(Unreachable),
    ):
        client.list()
    with (
        memstore.connect(spec.address, token="driver.wrong") as client,
        pytest.raises(Unauthenticated),
    ):
        client.list()


def test_training_calls_ray_for_nothing(
    spec: ClusterSpec, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return plain(*args, **options)

        monkeypatch.setattr(owner, name, call)

    for name in ("get", "put", "wait", "get_actor"):
        counted(ray, name)
    counted(ray.actor.ActorMethod, "_remote")
    counted(ray.remote_function.RemoteFunction, "_remote")
    memory = client.create("m", CONFIG)
    slots = memory.append(rows(30))
    queries, target = rows(4, 1), rows(4, 2)
    for _ in range(20):
        found = memory.search(queries, 2, EXACT).slots_QK[:, 0]
        read = memory.gather(np.unique(found))
        memory.update(read.slots_B, 2 * (read.keys_BD - target[: len(read.slots_B)]), lr=0.1)
    assert memory.search(queries, 30, EXACT).counts_Q.tolist() == [len(slots)] * 4
    assert calls == []
    status(spec.name, NAMESPACE)
    assert {"get", "get_actor", "_remote"} <= set(calls)


def test_a_part_that_was_killed_is_found_again_with_all_that_was_acknowledged(
    spec: ClusterSpec, client: Any
) -> None:
    before = settled(spec)
    memory, given, sent = client.create("m", CONFIG), [], []
    for number in range(12):
        if number in (3, 8):
            kill(spec.home(f"part-{number % PARTS}"))
        batch = rows(7, number)
        given.append(memory.append(batch))
        sent.append(batch)
        assert memory.search(rows(1), 1, EXACT).counts_Q.tolist() == [1]
    slots = np.concatenate(given)
    assert slots.tolist() == list(range(84))
    np.testing.assert_array_equal(memory.gather(slots).keys_BD, np.concatenate(sent))
    after = settled(spec)
    assert [a.term - b.term for a, b in zip(after.parts, before.parts, strict=True)] == [1, 1]
    assert after.version > before.version
    assert not {p.address for p in after.parts} & {p.address for p in before.parts}
    assert [p.memories for p in after.parts] == [("m",)] * PARTS


def test_the_registry_is_not_missed_and_knows_all_when_it_is_back(
    spec: ClusterSpec, client: Any
) -> None:
    memory = client.create("m", CONFIG)
    memory.append(rows(9))
    before = settled(spec)
    kill(spec.home("registry"))
    assert memory.append(rows(1)).tolist() == [9]
    kill(spec.home("part-1"))
    assert memory.erase(range(10)).applied == 10
    after = settled(spec)
    terms = [part.term for part in before.parts]
    assert [part.term for part in after.parts] == [terms[0], terms[1] + 1]


def test_a_registry_that_hangs_is_asked_no_longer_than_the_deadline(
    spec: ClusterSpec, client: Any
) -> None:
    [lock] = spec.home("registry").glob("**/LOCK")
    with (
        stopped(int(lock.read_text())),
        pytest.raises(Unreachable, match=r"an actor did not answer: expected within (1|0\.\d+) s"),
    ):
        memstore.connect(spec.address, deadline_s=1.0)
    with memstore.connect(spec.address, deadline_s=LONG_S) as other:
        assert other.list() == client.list()


def test_servers_that_all_went_elsewhere_are_asked_for(
    nodes: Any, spec: ClusterSpec, client: Any
) -> None:
    """Of a head that hangs no longer than the call may take."""
    memory = client.create("m", CONFIG)
    memory.append(rows(9))
    [lock] = spec.home("registry").glob("**/LOCK")
    [gcs] = nodes.head_node.all_processes["gcs_server"]
    with memstore.connect(spec.address, deadline_s=3.0) as hasty, ThreadPoolExecutor(1) as pool:
        same = hasty.memory("m")
        with stopped(gcs.process.pid, int(lock.read_text())):
            for number in range(PARTS):
                kill(spec.home(f"part-{number}"))
            with pytest.raises(MemstoreError):
                pool.submit(same.search, rows(2), 9, EXACT).result(timeout=25.0)
    assert memory.search(rows(2), 9, EXACT).counts_Q.tolist() == [9, 9]
    settled(spec)


def test_what_is_up_stays_and_what_is_missing_is_started(spec: ClusterSpec) -> None:
    before = settled(spec)
    assert up(spec, LONG_S) == before
    ray.kill(ray.get_actor(spec.actor(1), NAMESPACE), no_restart=True)
    ends = time.monotonic() + LONG_S
    while status(spec.name, NAMESPACE).serving and time.monotonic() < ends:
        time.sleep(0.1)
    assert status(spec.name, NAMESPACE).parts[1].state == "absent"
    after = up(spec, LONG_S)
    assert after.parts[0] == before.parts[0]
    assert after.parts[1].term == before.parts[1].term + 1


def test_a_cluster_goes_on_with_its_rows_from_the_command_line(
    spec: ClusterSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one part, whose server tells of no others: it is looked up by who lost it."""
    at = ["alone", "--namespace", NAMESPACE]
    start = ["cluster", "up", *at, "--folder", str(tmp_path), "--cpus", "0.5"]
    assert cli.main(start) == 0
    told = capsys.readouterr().out
    assert "part 0  serving" in told
    assert "pinned to node" in told
    address = f"ray:{NAMESPACE}/alone"
    assert f'memstore.connect("{address}")' in told
    with memstore.connect(address, deadline_s=LONG_S) as client:
        memory = client.create("m", CONFIG)
        memory.append(rows(5))

        async def lost() -> list[list[int]]:
            async with memstore.connect_async(address, deadline_s=LONG_S) as other:
                theirs = await other.memory("m")
                async with other.session() as session:
                    same = await session.memory("m")
                    kill(tmp_path / NAMESPACE / "alone" / "part-0")
                    given = [memory.append(rows(1)), await theirs.append(rows(1))]
                    return [slots.tolist() for slots in (*given, await same.append(rows(1)))]

        assert asyncio.run(lost()) == [[5], [6], [7]]
        assert cli.main(["cluster", "down", *at]) == 0
        assert cli.main(start) == 0
        assert memory.append(rows(1)).tolist() == [8]
    assert cli.main(["cluster", "status", *at]) == 0
    assert "memories: m" in capsys.readouterr().out
    assert cli.main(["cluster", "down", *at]) == 0
    assert cli.main(["cluster", "status", *at]) == 1
    assert "Ray has no such actor" in capsys.readouterr().out


def test_what_cannot_be_is_refused_at_once(
    spec: ClusterSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(spec, name="other", folder=tmp_path)
    for wrong, what in (
        (replace(other, memory_bytes=1 << 60), "memory"),
        (replace(other, gpus=1), "GPU"),
    ):
        with pytest.raises(InvalidArgument, match=f"can never be placed: got {what}"):
            up(wrong)
    with pytest.raises(Unreachable, match="no such actor"):
        status("other", NAMESPACE)
    with pytest.raises(InvalidArgument, match="another configuration"):
        up(replace(spec, parts=3))
    with pytest.raises(InvalidArgument, match="the driver is in another namespace"):
        up(replace(other, namespace="elsewhere"))
    with monkeypatch.context() as patch:
        patch.setattr(memstore, "__version__", "99.0")
        with pytest.raises(InvalidArgument, match=r"another version: got memstore 99\.0"):
            up(spec)


def test_a_folder_that_is_gone_or_of_another_cluster_is_refused(
    spec: ClusterSpec, tmp_path: Path
) -> None:
    other = replace(spec, name="other", folder=tmp_path, parts=1)
    up(other, LONG_S)
    down("other", NAMESPACE)
    home = other.home("part-0")
    home.rename(tmp_path / "kept")
    with pytest.raises(InvalidArgument, match="the folder of part 0/1 is gone"):
        up(other, LONG_S)
    (tmp_path / "kept").rename(home)
    shutil.rmtree(other.home("registry"))
    with pytest.raises(InvalidArgument, match="belongs to another cluster"):
        up(other, LONG_S)
    with pytest.raises(Unreachable, match="no such actor"):
        status("other", NAMESPACE)


@pytest.mark.parametrize("wrong", ["ray:facts", "ray:a/b/c", "ray://host/a/b", "ray:/facts"])
def test_addresses_are_checked(nodes: Any, wrong: str) -> None:
    with pytest.raises(InvalidArgument):
        memstore.connect(wrong)


def test_a_cluster_that_is_not_there_is_not_found(nodes: Any) -> None:
    with pytest.raises(Unreachable, match="no such actor"):
        memstore.connect(f"ray:{NAMESPACE}/nothing")


def test_an_address_of_nobody_says_who_could_be_asked() -> None:
    assert finder("localhost:7437") is None
    with pytest.raises(InvalidArgument, match=r"nobody knows .* \['ray:…'\]"):
        finder("k8s:a/b")


def test_without_ray_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import workers

    for name in [n for n in sys.modules if n == "ray" or n.startswith("workers.cluster.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "workers.cluster")
    monkeypatch.delattr(workers, "cluster")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["cluster", "status"]) == 1
    assert "pip install 'neural-memstore[cluster" in capsys.readouterr().out
    with pytest.raises(ImportError, match=r"neural-memstore\[cluster"):
        memstore.connect("ray:memstore/facts")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own defaults
def test_facts_are_ingested_by_workers_of_the_same_ray(
    spec: ClusterSpec, client: Any, tmp_path: Path
) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(2_000))
    layout = Layout(dim=8, shards=3, index="exact", window=500)
    ingest([source], tmp_path / "embedded", layout=layout)
    work = tmp_path / "work"
    report = ingest([source], spec.address, layout=layout, workers=2, work=work)
    assert ray.is_initialized()
    wanted = contents(tmp_path / "embedded")
    assert report.facts == len(wanted["facts"][1])
    for name, (keys, records) in wanted.items():
        memory = client.memory(name)
        found = memory.gather(np.arange(len(records)), columns=records.column_names)
        assert found.keys_BD.tobytes() == keys
        assert found.records == records
    for name in ("facts", "relations", "entities"):
        client.drop(name)


ASK = """
import sys
import numpy as np
import memstore
with memstore.connect(sys.argv[1], deadline_s=120.0) as client:
    print(client.memory("m").append(np.ones((2, 3))).tolist())
"""


def test_a_process_that_is_no_part_of_ray_goes_by_its_client_server(
    nodes: Any, spec: ClusterSpec, client: Any
) -> None:
    client.create("m", CONFIG)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "ray.util.client.server", f"--address={nodes.address}"]
    with subprocess.Popen(
        [*serve, "--host=127.0.0.1", f"--port={port}", "--mode=proxy"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            address = f"ray://127.0.0.1:{port}/{NAMESPACE}/{spec.name}"
            command = [sys.executable, "-c", ASK, address]
            for _ in range(3):
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=LONG_S, check=False
                )
                # Ray gives a server of its own half a minute to start, too little beside much work.
                if "Starting Ray client server failed" not in done.stderr:
                    break
        finally:
            server.terminate()
    assert done.returncode == 0, done.stderr
    assert "[0, 1]" in done.stdout
