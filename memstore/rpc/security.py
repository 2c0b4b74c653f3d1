"""Who may call: bearer tokens with a role and memories.

    token = add_token("tokens.json", "trainer", "write", memories=["facts"])
    guard = Guard(Tokens("tokens.json"))
    caller = guard.caller(metadata)            raises Unauthenticated
    caller.check("write", "facts")             raises NotAllowed

The file has a salted hash of each token, never a token: 256 random bits, which no dictionary holds,
so that one round of BLAKE2b does. It is read again when it changes, without a restart.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from memstore.errors import (
    InvalidArgument,
    MemoryInUse,
    MemstoreError,
    NotAllowed,
    Unauthenticated,
    UnknownMemory,
)
from memstore.rpc.quotas import NO_QUOTA, Quota
from memstore.rpc.verbs import Role

ROLES: tuple[Role, ...] = get_args(Role)
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
BEARER = "Bearer "


@dataclass(frozen=True)
class Caller:
    """Who calls. memories: those that it may use; None is all."""

    name: str
    role: Role
    memories: frozenset[str] | None = None
    quota: Quota = NO_QUOTA

    def check(self, role: Role, memory: str | None) -> None:
        """Raises `NotAllowed` unless it may do what takes this role, to this memory.

        memory: None is the store as a whole, which a caller of some memories may not change.
        """
        if ROLES.index(self.role) < ROLES.index(role):
            raise NotAllowed(
                f"{self.name!r} may not do that", got=f"role {self.role}", expected=f"role {role}"
            )
        if self.memories is not None and memory not in self.memories:
            if memory is None and role == "read":
                return
            raise NotAllowed(
                f"{self.name!r} may not do that",
                got="the store as a whole" if memory is None else f"memory {memory!r}",
                expected=f"among memories {sorted(self.memories)}",
            )

    def sees(self, memory: str) -> bool:
        return self.memories is None or memory in self.memories


def seen_by(caller: Caller, error: MemstoreError) -> MemstoreError:
    """An error without what it tells of memories that are not for the caller."""
    if caller.memories is None:
        return error
    if isinstance(error, UnknownMemory):
        return UnknownMemory(error.problem, got=error.got)
    if isinstance(error, MemoryInUse):
        return MemoryInUse("the memory is in use", hint=error.hint)
    return error


ANYBODY = Caller("anybody", "peer")
"""Who calls where no tokens are asked for."""

NOBODY = Caller("", "read", frozenset())
"""Who asks what is told without a token. No token has that name."""


@dataclass(frozen=True)
class _Known:
    caller: Caller
    salt: bytes
    digest: bytes = field(repr=False)


UNKNOWN = _Known(NOBODY, bytes(16), bytes(64))


class Tokens:
    """The tokens of a file, as it is now. Any thread may ask."""

    def __init__(self, path: str | Path) -> None:
        """Raises `InvalidArgument` where there is no such file, or it holds something else."""
        self._path = Path(path)
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = ()
        self._known: dict[str, _Known] = {}
        self._read()

    def caller(self, token: str) -> Caller | None:
        """Whose token it is; None is nobody's."""
        with self._lock:
            # A file that cannot be read now, as in the middle of being replaced, says what it said.
            with contextlib.suppress(InvalidArgument):
                self._read()
            known = self._known.get(token.partition(".")[0])
        # One that nobody has is compared too: how long it takes tells no names.
        against = known or UNKNOWN
        if not hmac.compare_digest(_digest(token, against.salt), against.digest) or known is None:
            return None
        return known.caller

    def _read(self) -> None:
        try:
            state = self._path.stat()
            stamp = (state.st_ino, state.st_size, state.st_mtime_ns)
            if stamp != self._stamp:
                self._known = dict(map(_known, _entries(self._path)))
                self._stamp = stamp
        except FileNotFoundError:
            if not self._stamp:
                raise InvalidArgument(
                    f"{self._path} is missing", hint="memstore token makes one"
                ) from None
            self._known = {}  # Who takes the file away takes all tokens away.
        except OSError as error:
            raise InvalidArgument(
                f"{self._path} cannot be read", got=str(error), hint="memstore token makes one"
            ) from error


class Guard:
    """Says who calls, by the metadata of a call."""

    def __init__(self, tokens: Tokens | None) -> None:
        """tokens: None takes everybody for an administrator."""
        self._tokens = tokens

    def caller(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> Caller:
        """Raises `Unauthenticated` where the token is missing or unknown."""
        if self._tokens is None:
            return ANYBODY
        given = next((value for key, value in metadata or () if key == "authorization"), "")
        token = given[len(BEARER) :] if str(given).startswith(BEARER) else b""
        caller = self._tokens.caller(token) if isinstance(token, str) else None
        if caller is None:
            raise Unauthenticated(
                "the server does not know who calls",
                got="no token" if not given else "an unknown token",
                expected="the metadata authorization: Bearer TOKEN",
            )
        return caller


def add_token(
    path: str | Path,
    name: str,
    role: Role,
    memories: Sequence[str] | None = None,
    quota: Quota = NO_QUOTA,
) -> str:
    """Draws a token and puts its hash into the file, in place of one of that name; returns it.

    Nobody can tell it again from the file. Raises `InvalidArgument`.
    """
    path = Path(path)
    if not NAME.fullmatch(name):
        raise InvalidArgument("not a name for a token", got=repr(name), expected=NAME.pattern)
    if role not in ROLES:
        raise InvalidArgument("no such role", got=repr(role), expected=f"one of {ROLES}")
    token, salt = f"{name}.{secrets.token_urlsafe(32)}", secrets.token_bytes(16)
    entry = {
        "name": name,
        "role": role,
        "memories": None if memories is None else sorted(memories),
        "quota": {key: rate for key, rate in asdict(quota).items() if rate is not None},
        "salt": base64.b64encode(salt).decode(),
        "digest": base64.b64encode(_digest(token, salt)).decode(),
    }
    others = _others(path, name)
    _write(path, [*others, entry])
    return token


def remove_token(path: str | Path, name: str) -> None:
    """Takes the token of that name away; raises `InvalidArgument` where there is none."""
    path = Path(path)
    others = _others(path, name)
    if not path.exists() or len(others) == len(_entries(path)):
        raise InvalidArgument(f"{path} has no such token", got=repr(name))
    _write(path, others)


def is_loopback(address: str) -> bool:
    """Whether `host:port` is reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(token: str, salt: bytes) -> bytes:
    return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), salt=salt).digest()


def _known(entry: dict[str, Any]) -> tuple[str, _Known]:
    name, memories = entry["name"], entry["memories"]
    role = entry["role"]
    if role not in ROLES:
        raise InvalidArgument(f"token {name!r} has no such role", got=repr(role))
    quota = Quota(**entry.get("quota", {}))
    caller = Caller(name, role, None if memories is None else frozenset(memories), quota)
    return name, _Known(caller, *(base64.b64decode(entry[part]) for part in ("salt", "digest")))


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_bytes())["tokens"]
        dict(map(_known, entries))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{path} holds no tokens", got=str(error)) from error
    return list(entries)


def _others(path: Path, name: str) -> list[dict[str, Any]]:
    try:
        return [entry for entry in _entries(path) if entry["name"] != name]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read", got=str(error)) from error


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    """Replaces the file at once, readable by its owner alone."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump({"tokens": entries}, file, indent=1)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InvalidArgument(f"{path} cannot be written", got=str(error)) from error
