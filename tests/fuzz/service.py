"""The service: mutated messages and random bytes to every rpc, of a store that is watched.

Whoever writes has a token for some memories, whoever administers another server, and a memory that
nobody may change is as it was to the bit. What was answered well is counted: the rows that are
there are those of the answers.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc import aio

import memstore
from memstore import Store
from memstore.errors import MemstoreError
from memstore.rpc import failures
from memstore.rpc.limits import Limits
from memstore.rpc.security import Tokens, add_token
from memstore.rpc.server import Server
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import (
    ADMIN,
    ADMIN_SERVICE,
    MEMORY_SERVICE,
    VERBS,
    Role,
    path_of,
    reply_type,
)
from tests.fuzz import corpus
from tests.fuzz.findings import Findings, forget_most, rss_bytes, seeded
from tests.fuzz.mutate import mutated

MESSAGE_BYTES = 1 << 20
MOST_BYTES = 512 << 20
"""What a server of such messages may take beyond what it took when it was warm."""

AT_ONCE = 32
WITHIN_S = 600.0
"""For an answer: first calls may compile kernels on a machine that is busy."""

BEFORE_SEEN = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Statuses of gRPC itself, that need no error of ours."""

Input = tuple[str, str, bytes]
"""Service, verb, and the message."""


class Fuzzer:
    """Sends inputs to two servers of one process."""

    def __init__(self, found: Findings, rng: random.Random, folder: Path) -> None:
        self._found, self._rng = found, rng
        self._store, self._spare = memstore.open(folder / "store"), memstore.open(folder / "spare")
        corpus.fill(self._store, "m", "r", "h", "kept")
        corpus.fill(self._spare, "m", "r")
        self._kept = _state(self._store)
        tokens = folder / "tokens.json"
        allowed: dict[Role, list[str] | None]
        allowed = {"read": None, "write": ["m", "r", "h"], "admin": ["r"]}
        self._tokens = {
            role: [("authorization", f"Bearer {add_token(tokens, role, role, names)}")]
            for role, names in allowed.items()
        }
        limits = Limits(
            message_bytes=MESSAGE_BYTES, held_bytes=16 << 20, caller_bytes=8 << 20, writers=4
        )
        self._server = Server(self._store, tokens=Tokens(tokens), limits=limits).start()
        self._admin = Server(self._spare, limits=limits).start()
        self._calls, self._loads = corpus.calls(), corpus.loads()
        self._exports, self._administration = corpus.exports(), corpus.administration()
        self._others = [message.SerializeToString() for _, message in self._calls]
        self._appended = 0
        self._told = set[tuple[str, int]]()
        """Appends under a number that were answered: again, they are no others."""

    async def run(self, inputs: int) -> None:
        async with (
            aio.insecure_channel(self._server.address) as channel,
            aio.insecure_channel(self._admin.address) as spare,
        ):
            before = 0
            while self._found.inputs < inputs:
                count = min(AT_ONCE, inputs - self._found.inputs)
                await asyncio.gather(*(self._one(channel, spare) for _ in range(count)))
                self._check_rows()
                if self._found.inputs % (50 * AT_ONCE) < AT_ONCE:
                    before = before or rss_bytes()
                    if (most := rss_bytes("VmHWM")) - before > MOST_BYTES:
                        told = f"{most >> 20} MiB, were {before >> 20}"
                        self._found.add("memory", b"", told)
                    forget_most()

    def close(self) -> None:
        """Ends the servers and looks at what is left of the stores."""
        for server in (self._server, self._admin):
            server.close(5)
        after = _state(self._store)
        if after != self._kept:
            self._found.add("a memory changed that nobody may change", b"", "kept")
        rows = {name: self._store.memory(name).describe().rows for name in self._store.list()}
        path = self._store.path
        for store in (self._store, self._spare):
            store.close()
        with memstore.open(path) as again:
            there = {name: again.memory(name).describe().rows for name in again.list()}
            if there != rows or _state(again) != self._kept:
                self._found.add("rows are others once opened again", b"", (rows, there))

    def _check_rows(self) -> None:
        """Of `m`, which nobody erases from but by calls that are answered, all rows are known."""
        there = self._store.memory("m").describe().rows
        if there != corpus.ROWS + self._appended:
            told = f"{there} rows, expected {corpus.ROWS + self._appended}"
            self._found.add("rows that no answer told of", b"", told)
            self._appended = there - corpus.ROWS

    async def _one(self, channel: Any, spare: Any) -> None:
        kind = self._rng.random()
        if kind < 0.75:
            verb, message = self._rng.choice(self._calls)
            await self._unary(channel, (MEMORY_SERVICE, verb, self._mutated(message)))
        elif kind < 0.85:
            await self._session(channel)
        elif kind < 0.88:
            await self._load(channel)
        elif kind < 0.91:
            await self._export(channel)
        elif kind < 0.93:
            await self._beside(channel)
        elif kind < 0.95:
            verb = self._rng.choice([*ADMIN])
            await self._unary(channel, (ADMIN_SERVICE, verb, self._rng.randbytes(20)))
        else:
            verb, message = self._rng.choice(self._administration)
            await self._unary(spare, (ADMIN_SERVICE, verb, self._mutated(message)))

    def _mutated(self, message: Any) -> bytes:
        if self._rng.random() < 0.05:
            return self._rng.randbytes(self._rng.choice((0, 1, 5, 50, 500, MESSAGE_BYTES + 9)))
        return mutated(message, self._others, self._rng)

    def _token(self, *roles: Role) -> list[tuple[str, str]]:
        """A token, or sometimes one that is none."""
        if self._rng.random() < 0.02:
            wrong = ["", "Bearer ", "Bearer read.x", "Basic x", "Bearer " + "x" * 4_000]
            return [("authorization", self._rng.choice(wrong))]
        return self._tokens[self._rng.choice(roles)]

    async def _unary(self, channel: Any, given: Input) -> None:
        service, verb, data = given
        self._found.inputs += 1
        call = channel.unary_unary(
            path_of(service, verb), None, reply_type(service, verb).FromString
        )
        try:
            reply = await call(data, timeout=WITHIN_S, metadata=self._token("write"))
        except aio.AioRpcError as error:
            self._refused(verb, data, error)
            return
        if service == MEMORY_SERVICE and verb in ("append", "erase"):
            self._count(VERBS[verb].request.FromString(data), reply)

    def _count(self, asked: Any, reply: Any) -> None:
        """Notes the rows of `m` that an answer tells of."""
        if asked.memory != "m":
            return
        if isinstance(asked, pb.EraseRequest):
            self._appended -= reply.applied
            return
        if asked.HasField("request_id"):
            known = (asked.request_id.client, asked.request_id.number)
            if known in self._told:
                return
            self._told.add(known)
        self._appended += reply.slots.shape[0]

    async def _session(self, channel: Any) -> None:
        """Frames that are broken, one behind the other; none changes what rows `m` has."""
        frames = []
        for number in range(self._rng.randrange(1, 12)):
            verb, message = self._rng.choice(self._calls)
            if verb in ("append", "erase") and message.memory == "m":
                continue
            call = pb.Call(number=number, **{verb: message})
            frames.append(self._framed(call))
        self._found.inputs += len(frames)
        stream = channel.stream_stream(
            path_of(MEMORY_SERVICE, "session"), None, pb.Reply.FromString
        )
        metadata = self._tokens["read"] if self._rng.random() < 0.5 else self._tokens["admin"]
        await self._streamed(
            "session", frames, stream(_sent(frames), timeout=WITHIN_S, metadata=metadata)
        )

    def _framed(self, call: Any) -> bytes:
        return self._mutated(call) if self._rng.random() < 0.7 else bytes(call.SerializeToString())

    async def _load(self, channel: Any) -> None:
        messages = [
            self._mutated(self._rng.choice(self._loads)) for _ in range(self._rng.randrange(4))
        ]
        self._found.inputs += max(1, len(messages))
        call = channel.stream_unary(
            "/memstore.v1.MemoryService/Load", None, pb.LoadReply.FromString
        )
        try:
            await call(_sent(messages), timeout=WITHIN_S, metadata=self._token("admin"))
        except aio.AioRpcError as error:
            self._refused("load", b"".join(messages), error)

    async def _export(self, channel: Any) -> None:
        data = self._mutated(self._rng.choice(self._exports))
        self._found.inputs += 1
        call = channel.unary_stream(
            "/memstore.v1.MemoryService/Export", None, pb.ExportReply.FromString
        )
        await self._streamed(
            "export", [data], call(data, timeout=WITHIN_S, metadata=self._token("read"))
        )

    async def _beside(self, channel: Any) -> None:
        """Health and reflection."""
        data = self._rng.randbytes(self._rng.choice((0, 1, 9, 1_000)))
        self._found.inputs += 1
        if self._rng.random() < 0.5:
            call = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
            try:
                await call(data, timeout=WITHIN_S)
            except aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    self._refused("check", data, error)
            return
        path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        stream = channel.stream_stream(path, None, None)
        metadata = self._token("read")
        try:
            async for _ in stream(_sent([data]), timeout=WITHIN_S, metadata=metadata):
                pass
        except aio.AioRpcError as error:
            self._refused("reflection", data, error)

    async def _streamed(self, verb: str, sent: Sequence[bytes], replies: Any) -> None:
        data, numbers = b"".join(sent), 0
        try:
            async for reply in replies:
                numbers += 1
                if isinstance(reply, pb.Reply) and reply.WhichOneof("outcome") == "error":
                    self._told_of(verb, data, failures.from_message(reply.error))
            if verb == "session" and numbers != len(sent):
                self._found.add("calls of a session unanswered", data, f"{numbers} of {len(sent)}")
        except aio.AioRpcError as error:
            self._refused(verb, data, error)

    def _refused(self, verb: str, data: bytes, error: Any) -> None:
        typed = any(key == failures.KEY for key, _ in error.trailing_metadata() or ())
        if not (typed or failures.was_being_sent(error)) and error.code() not in BEFORE_SEEN:
            self._found.add(f"{verb} refused untyped", data, (error.code(), error.details()))
        elif typed:
            self._told_of(verb, data, failures.from_call(error, "it"))

    def _told_of(self, verb: str, data: bytes, error: MemstoreError) -> None:
        if failures.code_of(error) in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
            self._found.add(f"{verb} failed", data, error)


async def _sent(frames: Sequence[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        yield frame


def _state(store: Store) -> tuple[bytes, ...]:
    """The rows that nobody may change."""
    rows = store.memory("kept").gather(np.arange(corpus.ROWS), vectors=True)
    arrays = (rows.keys_BD, rows.values_BV, rows.generations_B)
    return tuple(b"" if array is None else array.tobytes() for array in arrays)


def run(inputs: int, seed: int) -> Findings:
    found = Findings("service")
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(found, seeded(seed, "service"), Path(folder))
        asyncio.run(fuzzer.run(inputs))
        fuzzer.close()
    return found
