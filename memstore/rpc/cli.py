"""What `memstore serve`, `memstore health` and `memstore token` do.

memstore serve PATH --listen HOST:PORT     serves a store until SIGTERM or Ctrl-C
memstore health HOST:PORT                  asks a server whether it serves: exit status 0, or 1
memstore token FILE NAME --role ROLE       draws a token, and tells it once
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from memstore.errors import InvalidArgument
from memstore.placement import Part
from memstore.rpc.garbage import Survivors
from memstore.rpc.health import serves
from memstore.rpc.limits import Limits
from memstore.rpc.quotas import Quota
from memstore.rpc.security import ROLES, Tokens, add_token, is_loopback, remove_token
from memstore.rpc.server import Server
from memstore.rpc.target import Target
from memstore.rpc.tls import ClientTls, ServerTls
from memstore.rpc.topology import Topology
from memstore.shard.log import Fsync
from memstore.store import LOG_BYTES, Store
from memstore.trim import keep_little

LIMITS = {
    "message_bytes": "bytes of one message, in either direction",
    "calls": "calls under way at once",
    "caller_calls": "of those, of one token",
    "held_bytes": "bytes of messages and replies of calls under way",
    "caller_bytes": "of those, of one token",
    "streams": "sessions, loads, exports and health watches that are open",
    "caller_streams": "of those, of one token",
    "session_calls": "calls of one session, under way or waiting",
    "connections": "connections that are open",
    "search_lanes": "batches of equal searches under way; 0 searches for each call by itself",
}
"""Flags of `serve`: those of `Limits` that depend on the machine and on who calls."""

QUOTAS = {
    "requests_per_s": "calls a second",
    "bytes_per_s": "bytes of messages a second, in both directions",
    "rows_per_s": "rows a second, written, read or found",
}

PORT = 7437
GRACE_S = 10.0


def add_commands(commands: Any) -> None:
    """Adds `serve`, `health` and `token` to the commands of `memstore`."""
    words = "serve a store to others, until SIGTERM or Ctrl-C"
    serving = commands.add_parser("serve", help=words, description=words)
    serving.add_argument(
        "path", type=Path, help="the directory of the store, made if there is none"
    )
    serving.add_argument(
        "--listen",
        default=f"127.0.0.1:{PORT}",
        metavar="HOST:PORT",
        help=f"127.0.0.1:{PORT} unless told; beyond this machine with TLS and tokens; "
        "port 0 is any that is free, and printed",
    )
    serving.add_argument("--tls-certificate", type=Path, metavar="FILE", help="PEM, with its chain")
    serving.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM")
    serving.add_argument(
        "--tls-clients",
        type=Path,
        metavar="FILE",
        help="who signs clients' certificates: mutual TLS",
    )
    serving.add_argument("--tokens", type=Path, metavar="FILE", help="made by `memstore token`")
    serving.add_argument(
        "--insecure", action="store_true", help="listen beyond this machine without TLS or tokens"
    )
    serving.add_argument(
        "--metrics", metavar="HOST:PORT", help="serve /metrics for Prometheus there"
    )
    serving.add_argument(
        "--fsync",
        choices=get_args(Fsync),
        default="interval",
        help="when a mutation is safe from a power loss (interval: every tenth of a second)",
    )
    serving.add_argument(
        "--log-bytes",
        type=int,
        default=LOG_BYTES,
        metavar="N",
        help=f"bytes logged since the last checkpoint until one is made ({LOG_BYTES:,})",
    )
    parts = serving.add_argument_group("parts", "of memories whose shards lie on several servers")
    parts.add_argument("--part", metavar="I/N", help="that this server holds, as 0/2")
    parts.add_argument(
        "--topology", type=Path, metavar="FILE", help="where all are; read again when it changes"
    )
    parts.add_argument(
        "--servers", metavar="HOST:PORT,…", help="all of them, in order, in place of a file"
    )
    parts.add_argument(
        "--peer-token-file", type=Path, metavar="FILE", help="the token, of role peer, for others"
    )
    parts.add_argument(
        "--peer-authority", type=Path, metavar="FILE", help="PEM, signs the others' certificates"
    )
    limits = serving.add_argument_group("limits", "beyond which calls are told to come again")
    for name, words in LIMITS.items():
        default = getattr(Limits(), name)
        flag = f"--{name.replace('_', '-')}"
        limits.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{words} ({default:,})"
        )

    words = "ask a server whether it serves"
    health = commands.add_parser("health", help=words, description=words)
    here = f"127.0.0.1:{PORT}"
    health.add_argument(
        "address", nargs="?", default=here, metavar="HOST:PORT", help=f"{here} unless told"
    )
    add_tls(health)
    health.add_argument(
        "--deadline-s", type=float, default=5.0, metavar="SECONDS", help="5 unless told"
    )

    words = "draw a token for a caller, in place of the one that it had, or take it away"
    token = commands.add_parser("token", help=words, description=words)
    token.add_argument("file", type=Path, help="of the hashes; servers read it again by themselves")
    token.add_argument("name", help="of the caller")
    token.add_argument(
        "--role", choices=ROLES, default="read", help="what it may do: read unless told"
    )
    token.add_argument(
        "--memories", nargs="+", metavar="NAME", help="the only ones that it may use"
    )
    for name, words in QUOTAS.items():
        flag = f"--{name.replace('_', '-')}"
        token.add_argument(flag, type=float, metavar="N", help=f"quota: {words}")
    token.add_argument("--remove", action="store_true", help="take it away")


def add_tls(command: argparse.ArgumentParser) -> None:
    """Adds the flags that say how a client speaks TLS."""
    command.add_argument("--tls", action="store_true", help="trust the system's authorities")
    for flag, words in (
        ("authority", "who signs the server's certificate"),
        ("certificate", "the client's own, for mutual TLS"),
        ("key", "of that certificate"),
    ):
        command.add_argument(f"--tls-{flag}", type=Path, metavar="FILE", help=f"PEM: {words}")


def client_tls(options: argparse.Namespace) -> ClientTls | None:
    """What those flags say; None is no TLS."""
    files = options.tls_authority, options.tls_certificate, options.tls_key
    return ClientTls(*files) if options.tls or any(files) else None


def serve(options: argparse.Namespace) -> int:
    """Serves until a signal; then answers what is under way and makes a checkpoint.

    A second signal ends it at once, as a crash does: what was acknowledged is in the log.
    """
    _log_as_json()
    tokens = None if options.tokens is None else Tokens(options.tokens)
    server_options: dict[str, Any] = {
        "tls": _tls(options),
        "tokens": tokens,
        "insecure": options.insecure,
        "limits": Limits(**{name: getattr(options, name) for name in LIMITS}),
    }
    store_options: dict[str, Any] = {"fsync": options.fsync, "log_bytes": options.log_bytes}
    if options.part is not None:
        server_options |= _peers(options)
        store_options |= {"part": Part.parsed(options.part), "cluster": _cluster(options)}
    with (
        _signals() as ended,
        _long_lived(),
        Store(options.path, **store_options) as store,
        Server(store, options.listen, **server_options) as server,
    ):
        if options.servers is not None:
            server.route(Topology(1, tuple(options.servers.split(","))))
        if options.metrics is not None:
            _serve_metrics(store, server, options.metrics, insecure=options.insecure)
        logging.getLogger("memstore.serve").info("serving %s at %s", store.path, server.address)
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        ended.wait()
        server.close(GRACE_S)
    return 0


@contextlib.contextmanager
def _long_lived() -> Iterator[None]:
    keep_little()
    survivors = Survivors()
    survivors.start()
    try:
        yield
    finally:
        survivors.stop()


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Is set by the first signal that ends a server; a second one ends the process."""
    ended = threading.Event()

    def end(number: int, _: Any) -> None:
        if ended.is_set():
            os._exit(128 + number)
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def health(options: argparse.Namespace) -> int:
    """Says whether a server serves; the exit status is for orchestrators that run a command."""
    target = Target(options.address, tls=client_tls(options), deadline_s=options.deadline_s)
    there = serves(target)
    sys.stdout.write(f"{options.address} {'serves' if there else 'is being shut down'}.\n")
    return 0 if there else 1


def token(options: argparse.Namespace) -> int:
    """Prints the new token, which nobody can tell again."""
    if options.remove:
        remove_token(options.file, options.name)
        return 0
    quota = Quota(**{name: getattr(options, name) for name in QUOTAS})
    made = add_token(options.file, options.name, options.role, options.memories, quota)
    sys.stdout.write(f"{made}\n")
    return 0


def _peers(options: argparse.Namespace) -> dict[str, Any]:
    """How other servers are found and reached."""
    if (options.topology is None) == (options.servers is None):
        raise InvalidArgument(
            "a part must know where the others are", expected="--topology or --servers"
        )
    token, file = None, options.peer_token_file
    if file is not None:
        try:
            token = file.read_text().strip()
        except OSError as error:
            raise InvalidArgument(f"{file} cannot be read", got=str(error)) from error
    tls = None
    if options.tls_certificate is not None:
        own = (options.tls_certificate, options.tls_key) if options.tls_clients else (None, None)
        tls = ClientTls(options.peer_authority, *own)
    return {"topology": options.topology, "peer_token": token, "peer_tls": tls}


def _cluster(options: argparse.Namespace) -> str | None:
    """What the topology says of it, if it is there yet and says so."""
    file = options.topology
    return Topology.read(file).cluster or None if file is not None and file.exists() else None


def _tls(options: argparse.Namespace) -> ServerTls | None:
    given = options.tls_certificate, options.tls_key
    if given == (None, None) and options.tls_clients is None:
        return None
    if None in given:
        raise InvalidArgument(
            "TLS needs a certificate and its key", expected="--tls-certificate and --tls-key"
        )
    return ServerTls(*given, options.tls_clients)


def _serve_metrics(store: Store, server: Server, address: str, *, insecure: bool) -> None:
    from prometheus_client import start_http_server

    from memstore import metrics

    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise InvalidArgument("not an address for metrics", got=repr(address), expected="host:port")
    if not (insecure or is_loopback(address)):
        raise InvalidArgument(
            "metrics have no TLS and ask for no token",
            got=address,
            expected="an address of this machine",
            hint="--insecure serves them all the same",
        )
    scraped = metrics.registry(store, server.gate.refused)
    start_http_server(int(port), addr=host, registry=scraped)


class _JsonFormatter(logging.Formatter):
    """A line of JSON a record, for whatever gathers logs."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
