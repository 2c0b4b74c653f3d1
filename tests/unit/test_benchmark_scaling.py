"""What the scaling benchmarks reckon with: a model of waiting, bytes counted, a slow network."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace

import pytest

from tests.benchmarks.link import linked
from tests.benchmarks.parted import crossed
from tests.benchmarks.scaling_model import Costs, Network, Point, requests

COSTS = Costs(
    step_s=0.002,
    request_s=0.0003,
    server_request_s=0.0005,
    row_byte_s=3e-9,
    query_byte_s=1e-9,
    search_s=0.004,
    bytes=200_000.0,
    bytes_shard=30_000.0,
    wait_s=0.001,
    crowded=1.3,
)
NEAR = Network("near", 1e-4, 3e9)


def point(shards: int, trainers: int = 1) -> Point:
    """What would be measured where costs are just these."""
    own_s, there_s = COSTS.trainer(shards), COSTS.servers(shards)
    if trainers > 1:
        own_s *= COSTS.crowded
    if trainers > 1 or shards > 1:
        there_s *= COSTS.crowded
    seconds = own_s + there_s + COSTS.wait_s
    size = COSTS.bytes_of(shards)
    return Point(shards, trainers, requests(shards), size, seconds, own_s, there_s)


def fitted(points: list[Point]) -> Costs:
    known = (COSTS.search_s, COSTS.row_byte_s, COSTS.query_byte_s)
    return Costs.of(points, point(1, 4), *known)


def test_costs_are_found_again_from_what_they_make() -> None:
    found = fitted([point(1), point(2), point(4)])
    for name, value in vars(COSTS).items():
        assert getattr(found, name) == pytest.approx(value), name


def test_what_noise_makes_negative_costs_nothing() -> None:
    points = [point(1), replace(point(2), trainer_s=0.0), replace(point(4), trainer_s=0.0)]
    found = fitted(points)
    assert found.request_s == 0.0
    assert found.step_s > 0.0


def test_cores_bound_what_many_trainers_do_and_one_waits_for_nobody() -> None:
    work_s = COSTS.trainer(1) + COSTS.servers(1)
    rates = [COSTS.on_cores(1, trainers, 2) for trainers in (1, 2, 4, 64)]
    assert rates[0] == pytest.approx(1 / (work_s + COSTS.wait_s))
    assert rates == sorted(rates)
    assert rates[1] < 2 * rates[0]
    assert rates[-1] == pytest.approx(2 / (COSTS.crowded * work_s), rel=0.02)


def test_on_a_network_the_servers_or_the_trainers_bound() -> None:
    alone = COSTS.on_network(64, 1, NEAR)
    assert alone < COSTS.on_network(64, 16, NEAR) < 16 * alone
    # The requests of a step are made one after the other.
    assert COSTS.on_network(256, 1, NEAR) < 1 / (COSTS.request_s * requests(256))
    far = replace(NEAR, there_and_back_s=0.1)
    assert COSTS.on_network(64, 1, far) < 1 / 0.4 < alone


def test_bytes_are_counted_by_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with socket.create_connection(server.getsockname()) as ours:
            theirs, _ = server.accept()
            with theirs:
                sent, got = crossed([address])
                ours.sendall(bytes(1_000))
                received = 0
                while received < 1_000:
                    received += len(theirs.recv(1_000))
                theirs.sendall(bytes(300))
                assert ours.recv(300)
                # What the other side has is acknowledged a moment later.
                there, ends = (sent + 1_000, got + 300), time.monotonic() + 60
                while crossed([address]) != there and time.monotonic() < ends:
                    time.sleep(0.01)
                assert crossed([address]) == there
                assert crossed(["127.0.0.1:1"]) == (0, 0)


def test_beyond_a_link_answers_come_when_their_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            theirs, _ = server.accept()
            with theirs:
                theirs.sendall(theirs.recv(5)[::-1])
                theirs.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with linked([address], 0.2) as ([there], late):
            host, _, port = there.rpartition(":")
            with socket.create_connection((host, int(port))) as ours:
                begun = time.monotonic()
                ours.sendall(b"hello")
                assert ours.recv(5) == b"olleh"
                assert time.monotonic() - begun >= 0.2
        thread.join()
    assert late[1] == 1
    assert late[0] in (0, 1)
