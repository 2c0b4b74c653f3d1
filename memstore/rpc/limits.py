"""What a server takes at once, of all callers and of each, and what a caller gets a second.

    gate = Gate(Limits())
    held = gate.call(caller)                   raises Overloaded: too many calls, or quota used up
    data = await held.received(context.read)   raises Overloaded: too many bytes under way
    held.charge(rows=3)
    held.leave()

`Limits` are the server's own: what is under way at one moment. What a caller may ask for a second
is its `Quota`.

Used by one event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any

from memstore.errors import InvalidArgument, Overloaded
from memstore.rpc import receiving
from memstore.rpc.quotas import NO_QUOTA, Bucket, Quota
from memstore.rpc.receiving import Places
from memstore.rpc.security import Caller

CORES = os.cpu_count() or 1

ANSWER_S = 20.0
"""For a connection to say that it is there, and for a new one to say what it is."""

METADATA_BYTES = 16 << 10
"""Of a call; a token has 100."""

RETRY_S = 0.1
"""Hint where the server cannot know: about as long as a batch of searches takes."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a server takes at once; beyond, a call is answered by `Overloaded`.

    message_bytes: of one message, in either direction.
    calls, caller_calls: under way, of all callers and of one, those of sessions included.
    held_bytes, caller_bytes: of their messages and replies, from when they have come until they
        are sent. The work on them takes up to about four times as much.
    streams, caller_streams: sessions and health watches that are open. Each holds up to one
        message more, which is still coming in.
    call_bytes: of one call that comes in pieces.
    session_calls: that one session may have under way or waiting; beyond, it is not read from.
    connections: that are open; beyond, they are closed as they come.
    receive_s: seconds within which the message of a call comes in once it is read; less where
        others wait to be read.
    keepalive_s: seconds of silence after which a connection is asked whether somebody is there,
        and closed where nobody answers.  idle_s: without a call, after which it is closed.
    exports: under way, of all callers.
    search_lanes: batches of equal searches under way at once; 0 coalesces none.
    writers: threads for mutations and administration.

    Those of one caller count where tokens tell callers apart.
    """

    message_bytes: int = 64 << 20
    calls: int = 1_024
    caller_calls: int = 512
    held_bytes: int = 1 << 30
    caller_bytes: int = 1 << 29
    streams: int = 512
    caller_streams: int = 64
    call_bytes: int = 1 << 28
    session_calls: int = 64
    connections: int = 16_384
    receive_s: float = 30.0
    keepalive_s: float = 60.0
    idle_s: float = 900.0
    exports: int = 16
    search_lanes: int = CORES
    writers: int = 16

    def __post_init__(self) -> None:
        least = dict.fromkeys(("calls", "streams", "exports", "search_lanes"), 0)
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if not least.get(name, 1) <= value <= 2**40:
                raise InvalidArgument(
                    f"{name} is out of range", got=value, expected=f"≥ {least.get(name, 1)}"
                )
        for name in ("held_bytes", "caller_bytes"):
            if getattr(self, name) < 2 * self.message_bytes:
                raise InvalidArgument(
                    f"{name} are less than a call may need",
                    got=getattr(self, name),
                    expected=f"≥ {2 * self.message_bytes}, a message and its reply",
                )

    def options(self) -> list[tuple[str, int]]:
        """Those that gRPC keeps to, as it wants them."""
        waiting = 2 * (self.calls + self.streams) + 1_024
        return [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_send_message_length", self.message_bytes),
            # With it, gRPC takes megabytes of messages that nobody has begun to read; without,
            # 64 KiB a stream, and a message whole once it is read.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", 2 * METADATA_BYTES),
            ("grpc.max_allowed_incoming_connections", self.connections),
            # Of one connection, beyond what is let in: clients keep more to themselves, and would
            # not be told.
            ("grpc.max_concurrent_streams", waiting),
            # Of all, before they are answered; those beyond are cancelled without a word.
            ("grpc.server.max_pending_requests", waiting),
            ("grpc.server.max_pending_requests_hard_limit", 4 * waiting),
            ("grpc.keepalive_time_ms", int(1_000 * self.keepalive_s)),
            ("grpc.http2.ping_timeout_ms", int(1_000 * ANSWER_S)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # Clients may ask the same, as often.
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.max_connection_idle_ms", int(1_000 * self.idle_s)),
            ("grpc.server_handshake_timeout_ms", int(1_000 * ANSWER_S)),
        ]


class _Share:
    """What one caller has under way, and what is left of its quota."""

    def __init__(self, places: int) -> None:
        self.calls = self.bytes = self.streams = 0
        self.places = Places(places)
        self.quota = NO_QUOTA
        self.buckets: dict[str, Bucket] = {}

    def take_over(self, quota: Quota) -> None:
        """The quota as the token has it now; one that changed begins anew."""
        if quota != self.quota:
            now, self.quota = time.monotonic(), quota
            rates = ((field.name, getattr(quota, field.name)) for field in fields(quota))
            self.buckets = {name: Bucket(rate, now) for name, rate in rates if rate is not None}

    def wait_s(self) -> float:
        """Seconds until something is left of each rate that is not of calls."""
        now = time.monotonic()
        rates = (bucket for name, bucket in self.buckets.items() if name != "requests_per_s")
        return max((bucket.wait_s(now) for bucket in rates), default=0.0)


class Gate:
    """All that is under way in a server, counted."""

    def __init__(self, limits: Limits, *, shared: bool = False) -> None:
        """shared: nobody can tell callers apart: only what bounds all of them counts."""
        self._limits, self._shared = limits, shared
        self._shares: dict[str, _Share] = {}
        self.all = _Share(limits.held_bytes // limits.message_bytes)
        self.refused: Counter[tuple[str, str]] = Counter()
        """Refusals by caller and by what had run out."""

    def call(self, caller: Caller) -> Held:
        """Lets a call in; raises `Overloaded`."""
        share = self._share(caller)
        if self.all.calls >= self._limits.calls:
            raise self._full(caller, "calls", "the server has too many calls to do", self.all.calls)
        if not self._shared and share.calls >= self._limits.caller_calls:
            raise self._full(caller, "caller_calls", "you have too many calls", share.calls)
        now = time.monotonic()
        for name, bucket in share.buckets.items():
            if (wait_s := bucket.wait_s(now)) > 0:
                self.refused[caller.name, name] += 1
                raise Overloaded(
                    f"your quota of {name.removesuffix('_per_s')} is used up",
                    retry_after_s=wait_s,
                    got="more",
                    expected=f"{getattr(share.quota, name):g} a second",
                )
        held = Held(self, caller, share, self._limits)
        share.calls += 1
        self.all.calls += 1
        held.draw("requests_per_s", 1)
        return held

    def stream(self, caller: Caller) -> Callable[[], None]:
        """Lets a stream in, and returns what counts it out again; raises `Overloaded`."""
        share = self._share(caller)
        if self.all.streams >= self._limits.streams:
            raise self._full(caller, "streams", "the server has too many streams", self.all.streams)
        if not self._shared and share.streams >= self._limits.caller_streams:
            raise self._full(caller, "caller_streams", "you have too many streams", share.streams)
        for counted in (self.all, share):
            counted.streams += 1

        def leave() -> None:
            for counted in (self.all, share):
                counted.streams -= 1

        return leave

    def check_bytes(self, caller: Caller, share: _Share, size: int) -> None:
        """Raises `Overloaded` where so many more would be too many."""
        if self.all.bytes + size > self._limits.held_bytes:
            problem = "the server holds too many bytes"
            raise self._full(caller, "held_bytes", problem, self.all.bytes)
        if not self._shared and share.bytes + size > self._limits.caller_bytes:
            problem = "your calls hold too many bytes"
            raise self._full(caller, "caller_bytes", problem, share.bytes)

    def _share(self, caller: Caller) -> _Share:
        share = self._shares.get(caller.name)
        if share is None:
            most = self._limits.held_bytes if self._shared else self._limits.caller_bytes
            share = self._shares[caller.name] = _Share(most // self._limits.message_bytes)
        share.take_over(caller.quota)
        return share

    def _full(self, caller: Caller, limit: str, problem: str, under_way: int) -> Overloaded:
        self.refused[caller.name, limit] += 1
        most = getattr(self._limits, limit)
        return Overloaded(
            problem, retry_after_s=RETRY_S, got=f"{under_way} under way", expected=f"≤ {most}"
        )


class Held:
    """What one call holds of the server, from `Gate.call` until `leave`."""

    def __init__(self, gate: Gate, caller: Caller, share: _Share, limits: Limits) -> None:
        self._gate, self._caller, self._share, self._limits = gate, caller, share, limits
        self._bytes = 0
        self._left = False

    async def received(
        self, read: Callable[[], Awaitable[Any]], within_s: float | None = None
    ) -> bytes:
        """What `next` gives, which is held from then on; raises `Overloaded` too."""
        data = await self.next(read, within_s)
        self.take(len(data))
        return data

    async def next(
        self, read: Callable[[], Awaitable[Any]], within_s: float | None = None
    ) -> bytes:
        """What is read, once there is a place for the longest message; raises `DeadlineExceeded`,
        `Overloaded` where others wait for the place, and `InvalidArgument` where nothing comes.
        """
        within_s = self._limits.receive_s if within_s is None else within_s
        places = self._share.places, self._gate.all.places
        try:
            data = await receiving.received(read, within_s, *places)
        except Overloaded:
            self._gate.refused[self._caller.name, "receive_s"] += 1
            raise
        if not isinstance(data, bytes):
            raise InvalidArgument("the call has no message", expected="one")
        return data

    def take(self, size: int) -> None:
        """Holds so many bytes more; raises `Overloaded`."""
        self._gate.check_bytes(self._caller, self._share, size)
        self.add(size)

    def add(self, size: int) -> None:
        """As `take`, of what is there already and may not be refused, as the reply of a change."""
        if not self._left:
            self._bytes += size
            self._share.bytes += size
            self._gate.all.bytes += size
        self.draw("bytes_per_s", size)

    def draw(self, name: str, amount: float) -> None:
        """Charges the quota of that name, if there is one."""
        bucket = self._share.buckets.get(name)
        if bucket is not None:
            bucket.draw(amount)

    async def paced(self, rows: int, size: int) -> None:
        """Charges what a stream has passed on, and waits until it may go on."""
        self.draw("rows_per_s", rows)
        self.draw("bytes_per_s", size)
        while (wait_s := self._share.wait_s()) > 0:
            await asyncio.sleep(wait_s)

    def leave(self, *_: Any) -> None:
        """Holds nothing any more; a second call does nothing."""
        if not self._left:
            self._left = True
            for counted in (self._share, self._gate.all):
                counted.calls -= 1
                counted.bytes -= self._bytes
