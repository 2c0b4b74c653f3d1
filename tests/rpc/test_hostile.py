"""Hostile callers: after each, the server answers an honest one and holds no more than before.

The server is a process of its own, as it is started for others, so that its memory is its own.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import memstore
from memstore import MemoryConfig, RequestId
from memstore.errors import (
    InvalidArgument,
    MemstoreError,
    Overloaded,
    RequestConflict,
    RequestTooOld,
    Unauthenticated,
)
from memstore.rpc import codec, failures
from memstore.rpc.security import add_token
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import MEMORY_SERVICE, VERBS, path_of
from tests.conftest import LONG

WIDTH, ROWS = 16, 2_000
MESSAGE_BYTES = 8 << 20
HELD_BYTES = 64 << 20
SLACK_BYTES = 64 << 20
"""What threads take that were begun. What calls held, the allocator may keep for the next."""

ROUNDS = 5
GROWTH_BYTES = 64 << 20
"""What three more rounds of the same may take: less than the messages of one."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
CONNECTIONS = 10_000 if LONG else 400
KEPT_BYTES = CONNECTIONS * (32 << 10)
"""What the allocator may keep of as many connections, whose small parts lie among others: once,
and not of each attack again."""


class Served:
    """A server in a process of its own, and an honest caller of it."""

    def __init__(self, process: subprocess.Popen[str], address: str, tokens: Path) -> None:
        self.process, self.address = process, address
        self.honest = memstore.connect(
            address, token=add_token(tokens, "honest", "write"), deadline_s=20
        )
        self.hostile = [
            [("authorization", f"Bearer {add_token(tokens, name, 'write', ['m'])}")]
            for name in ("hostile", "hostile-too", "hostile-as-well")
        ]
        self.metadata = self.hostile[0]
        self._memory = self.honest.memory("m")
        self._queries = np.ones((1, WIDTH), np.float32)
        for _ in range(50):
            self.check()
        self.before = self.bytes()

    def bytes(self) -> int:
        """Its main memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) << 10

    def check(self) -> None:
        """Asks as an honest caller does."""
        assert self._memory.search(self._queries, 3).counts_Q.tolist() == [3]

    def channel(self, **options: int) -> grpc.Channel:
        """A connection of its own."""
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        named = [(f"grpc.{name}", value) for name, value in options.items()]
        return grpc.insecure_channel(self.address, [*own, *named])

    def connect(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=60)

    def rounds(self, attack: Callable[[], None]) -> None:
        """Attacks some times; what an attack leaves must not add up.

        The allocator keeps what was freed, and how much of it depends on which threads were at it:
        so one round is compared with another, and not with what was before.
        """
        taken = []
        for _ in range(ROUNDS):
            attack()
            self.check()
            taken.append(self.bytes())
        until(lambda: self.bytes() < taken[1] + GROWTH_BYTES)

    def settle(self) -> None:
        """Waits until it holds about what it did; what does not go away in time is a leak."""
        until(lambda: self.bytes() <= self.before + SLACK_BYTES + HELD_BYTES + KEPT_BYTES)
        self.check()


def until(seen: Callable[[], bool]) -> None:
    """Waits for it, as long as a test may take."""
    while not seen():
        time.sleep(0.05)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("hostile")
    with memstore.open(folder / "store") as store:
        memory = store.create("m", MemoryConfig(dim=WIDTH, index="exact"))
        memory.append(np.random.default_rng(0).normal(size=(ROWS, WIDTH)))
    tokens = folder / "tokens.json"
    add_token(tokens, "nobody", "read")
    command = [sys.executable, "-m", "memstore.cli", "serve", str(folder / "store")]
    command += ["--listen", "127.0.0.1:0", "--tokens", str(tokens)]
    command += ["--message-bytes", str(MESSAGE_BYTES), "--held-bytes", str(HELD_BYTES)]
    command += ["--caller-bytes", str(HELD_BYTES // 2)]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=_many_files
    )
    assert process.stdout is not None
    try:
        one = Served(process, process.stdout.readline().strip(), tokens)
        with one.honest:
            yield one
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "Traceback" not in (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        log.close()


def _many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2 * CONNECTIONS:
        pytest.skip(f"{2 * CONNECTIONS} open files are not allowed, but {before[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def gone(answer: Any) -> MemstoreError:
    """What a call failed with."""
    with pytest.raises(grpc.RpcError) as refused:
        answer.result()
    return failures.from_call(refused.value, "it")


def test_connections_that_are_lost_half_way(served: Served) -> None:
    """A reset in the middle of a frame, and halves that are closed."""
    frame = bytes((1, 0, 0, 1, 4, 0, 0, 0, 1))  # headers of 64 KiB that never come
    for number in range(200):
        with served.connect() as connection:
            connection.sendall(PREFACE + SETTINGS + frame + bytes(number % 7))
            if number % 2:
                connection.shutdown(socket.SHUT_WR)
            else:
                hard = (1).to_bytes(4, "little") + bytes(4)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
    served.settle()


def test_nothing_is_read_of_who_is_unknown(served: Served) -> None:
    """A hundred callers without a token send as much as a message may have, and more."""
    data = bytes(MESSAGE_BYTES - 100)
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(served.channel()) for _ in range(20)]
        for verb in VERBS:
            calls = [channel.unary_unary(path_of(MEMORY_SERVICE, verb)) for channel in channels]
            for answer in [call.future(data, timeout=60) for call in calls]:
                assert isinstance(gone(answer), Unauthenticated)
            assert served.bytes() < served.before + SLACK_BYTES
    served.settle()


def frame(kind: int, flags: int, data: bytes) -> bytes:
    """A frame of HTTP/2, of its stream 1."""
    return len(data).to_bytes(3, "big") + bytes((kind, flags, 0, 0, 0, 1)) + data


def begun(path: str, metadata: list[tuple[str, str]], size: int, sent: int) -> bytes:
    """A call of which so many bytes of a message of that size have come."""
    told = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "it")]
    told += [("te", "trailers"), ("content-type", "application/grpc"), *metadata]
    texts = [text.encode() for pair in told for text in pair]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    headers = b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in pairs
    )
    message = b"\0" + size.to_bytes(4, "big") + bytes(sent)
    return PREFACE + SETTINGS + frame(1, 4, headers) + frame(0, 0, message)


def test_messages_that_only_begin(served: Served) -> None:
    """More callers than are read at once stop in the middle of a message, and come again when they
    are refused; an honest one is answered in the time that its calls have."""
    over = threading.Event()

    def attack(metadata: list[tuple[str, str]]) -> None:
        data = begun(path_of(MEMORY_SERVICE, "append"), metadata, MESSAGE_BYTES - 100, 10_000)
        while not over.is_set():
            with served.connect() as connection:
                connection.settimeout(0.2)
                connection.sendall(data)
                ended = False
                while not (ended or over.is_set()):
                    with contextlib.suppress(TimeoutError):
                        # Headers that come back are the refusal.
                        came = connection.recv(1 << 16)
                        ended = not came or b"grpc-status" in came or len(came) > 200

    attackers = [
        threading.Thread(target=attack, args=(metadata,), daemon=True)
        for metadata in served.hostile
        for _ in range(64 // len(served.hostile) + 1)
    ]
    for thread in attackers:
        thread.start()
    try:
        for _ in range(30):
            served.check()
    finally:
        over.set()
        for thread in attackers:
            thread.join()
    served.settle()


def test_messages_that_are_refused(served: Served) -> None:
    """Nothing of a long message stays once it is answered that it is malformed."""
    data = b"\x0a\xff\xff\xbf\x01" + bytes(3 << 20)

    def attack() -> None:
        with contextlib.ExitStack() as stack:
            channels = [stack.enter_context(served.channel()) for _ in range(20)]
            calls = [channel.unary_unary(path_of(MEMORY_SERVICE, "append")) for channel in channels]
            answers = [
                call.future(data, timeout=60, metadata=served.metadata) for call in 2 * calls
            ]
            served.check()
            for answer in answers:
                assert isinstance(gone(answer), InvalidArgument | Overloaded)

    served.rounds(attack)


def test_slow_readers(served: Served) -> None:
    """Replies that nobody takes are bounded by the bytes of their caller, and given back."""
    slots = codec.to_tensor(np.arange(50_000) % ROWS)  # of 3.6 MB
    gather = pb.GatherRequest(memory="m", slots=slots).SerializeToString()
    call = pb.Call(number=1, gather=pb.GatherRequest(memory="m", slots=slots)).SerializeToString()

    def attack() -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                channel = stack.enter_context(served.channel(**{"http2.lookahead_bytes": 1 << 10}))
                stream = channel.stream_stream(path_of(MEMORY_SERVICE, "session"))
                stack.callback(stream(iter([call] * 50), metadata=served.metadata).cancel)
                unary = channel.unary_unary(path_of(MEMORY_SERVICE, "gather"))
                for _ in range(10):
                    stack.callback(unary.future(gather, metadata=served.metadata).cancel)
            for _ in range(10):
                served.check()
                assert served.bytes() < served.before + SLACK_BYTES + 6 * HELD_BYTES

    served.rounds(attack)


def test_clients_that_vanish_in_mid_stream(served: Served) -> None:
    code = """
import os, sys, threading
import numpy as np, memstore
from memstore.rpc import codec
from memstore.rpc.v1 import memory_pb2 as pb
client = memstore.connect(sys.argv[1], token=sys.argv[2])
session = client.session()
slots = codec.to_tensor(np.arange(20_000) % 2_000)
for _ in range(200):
    session.begin("gather", pb.GatherRequest(memory="m", slots=slots))
session.memory("m")
os.kill(os.getpid(), 9)
"""
    token = served.metadata[0][1].removeprefix("Bearer ")
    command = [sys.executable, "-c", code, served.address, token]
    vanished = [subprocess.Popen(command) for _ in range(3)]
    for process in vanished:
        until(lambda process=process: process.poll() is not None)  # type: ignore[misc]
        assert process.returncode == -signal.SIGKILL
    served.settle()


def test_replayed_and_conflicting_requests(served: Served) -> None:
    memory = served.honest.memory("m")
    row = np.ones((1, WIDTH), np.float32)
    slots = memory.append(row, request_id=RequestId("replayed", 5_000))
    before = memory.describe().rows
    for _ in range(100):
        assert (
            memory.append(row, request_id=RequestId("replayed", 5_000)).tolist() == slots.tolist()
        )
        with pytest.raises(RequestConflict):
            memory.append(2 * row, request_id=RequestId("replayed", 5_000))
        with pytest.raises(RequestConflict):
            memory.erase(slots, request_id=RequestId("replayed", 5_000))
    for number in range(1, 300):  # of more clients than are remembered
        memory.touch(slots, 1, request_id=RequestId(f"client {number}", 2**63 - 1))
    with pytest.raises((RequestConflict, RequestTooOld)):
        memory.append(2 * row, request_id=RequestId("replayed", 5_000))
    assert memory.describe().rows == before
    served.settle()


@pytest.mark.parametrize("count", [-(2**63), -1, 0, 10**6, 2**31, 2**62, 2**63 - 1])
def test_counts_that_are_negative_or_huge(served: Served, count: int) -> None:
    query = codec.to_tensor(np.ones((1, WIDTH), np.float32))
    shape = pb.Tensor(dtype="float32", shape=[count, WIDTH], data=bytes(4 * WIDTH))
    slots = codec.to_tensor(np.array([count]))
    widened = pb.SearchOptions(sample_random=max(count, -1), sample_clusters=-1)
    calls: dict[str, list[Any]] = {
        "allocate": [pb.AllocateRequest(memory="m", n=count)],
        "search": [
            pb.SearchRequest(memory="m", queries=query, k=count),
            pb.SearchRequest(memory="m", queries=shape, k=3),
            pb.SearchRequest(memory="m", queries=query, k=3, options=widened),
        ],
        "append": [pb.AppendRequest(memory="m", keys=shape)],
        "gather": [pb.GatherRequest(memory="m", slots=slots if count else shape)],
        "erase": [pb.EraseRequest(memory="m", slots=slots if count else shape)],
        "touch": [pb.TouchRequest(memory="m", slots=slots if count else shape, step=count)],
        "lookup": [pb.LookupRequest(memory="m", column="x", limit=count)],
    }
    with served.channel() as channel:
        for verb, messages in calls.items():
            call = channel.unary_unary(path_of(MEMORY_SERVICE, verb))
            for message in messages:
                answer = call.future(
                    message.SerializeToString(), timeout=60, metadata=served.metadata
                )
                error = gone(answer)
                assert not isinstance(error, memstore.errors.ServerFailed), (verb, error)
    served.settle()


def test_replies_that_swell(served: Served) -> None:
    """Small requests whose replies would be a thousand times as long are refused beforehand."""
    many = codec.to_tensor(np.zeros(900_000, np.int64))  # 7.2 MB, whose rows are 64 MB
    queries = codec.to_tensor(np.ones((100_000, WIDTH), np.float32))  # 6.4 MB
    union = pb.SearchOptions(union=True)
    calls: dict[str, Any] = {
        "gather": pb.GatherRequest(memory="m", slots=many),
        "search": pb.SearchRequest(memory="m", queries=queries, k=2_000),
        "search ": pb.SearchRequest(memory="m", queries=queries, k=2, options=union),
    }
    with served.channel() as channel:
        for verb, message in calls.items():
            call = channel.unary_unary(path_of(MEMORY_SERVICE, verb.strip()))
            answer = call.future(message.SerializeToString(), timeout=60, metadata=served.metadata)
            assert isinstance(gone(answer), InvalidArgument)
            assert served.bytes() < served.before + SLACK_BYTES + 4 * MESSAGE_BYTES
    served.settle()


def test_a_message_that_is_too_long_ends_a_session_with_a_word(served: Served) -> None:
    with served.channel() as channel:
        stream = channel.stream_stream(path_of(MEMORY_SERVICE, "session"))
        describe = pb.Call(number=1, describe=pb.DescribeRequest(memory="m")).SerializeToString()
        frames = [describe, bytes(MESSAGE_BYTES + 1)]
        replies = stream(iter(frames), metadata=served.metadata, timeout=60)
        with pytest.raises(grpc.RpcError) as refused:
            list(replies)
        assert isinstance(failures.from_call(refused.value, "it"), InvalidArgument)
        assert "larger than max" in str(refused.value)
    served.settle()


def test_a_flood_of_calls(served: Served) -> None:
    """Each is answered, by its reply or by `Overloaded`, and others are served meanwhile."""
    describe = pb.DescribeRequest(memory="m").SerializeToString()
    with served.channel() as channel:
        call = channel.unary_unary(path_of(MEMORY_SERVICE, "describe"))
        answers = [
            call.future(describe, metadata=served.metadata, timeout=60) for _ in range(3_000)
        ]
        served.check()
        for answer in answers:
            if answer.exception() is not None:
                assert isinstance(gone(answer), Overloaded)
    served.settle()


def test_wrong_tokens(served: Served, tmp_path: Path) -> None:
    """Of a name that is there or not, short or long: all are refused, and none is dear."""
    wrong = ["honest.", "honest.x", "nobody.x", "none.x", "." * 5_000, "honest." + "x" * 9_000]
    describe = pb.DescribeRequest(memory="m").SerializeToString()
    with served.channel() as channel:
        call = channel.unary_unary(path_of(MEMORY_SERVICE, "describe"))
        for token in wrong:
            for _ in range(50):
                metadata = [("authorization", f"Bearer {token}")]
                answer = call.future(describe, metadata=metadata, timeout=60)
                assert isinstance(gone(answer), Unauthenticated)
        answer = call.future(describe, metadata=[("x", "y" * 60_000)], timeout=60)
        assert isinstance(gone(answer), MemstoreError)
    served.settle()


@pytest.mark.parametrize("hello", [b"", PREFACE + SETTINGS, b"GET / HTTP/1.1\r\n\r\n", PREFACE[:9]])
@pytest.mark.timeout(1_800 if LONG else 300)
def test_idle_connections(served: Served, many_files: None, hello: bytes) -> None:
    """The last of all, for the allocator keeps some of it, which would hide what others leave."""
    with contextlib.ExitStack() as stack:
        for number in range(CONNECTIONS):
            connection = stack.enter_context(served.connect())
            connection.sendall(hello)
            if number % (CONNECTIONS // 8) == 0:
                served.check()
        # What a connection takes is bounded, and is given back.
        assert served.bytes() < served.before + SLACK_BYTES + CONNECTIONS * (64 << 10)
    served.settle()
