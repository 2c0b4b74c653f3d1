"""The service from outside: ways to a server, which need the extra `rpc` only once called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from memstore.finding import finder
from memstore.rpc.defaults import DEADLINE_S, MESSAGE_BYTES
from memstore.rpc.tls import ClientTls

if TYPE_CHECKING:
    from memstore.rpc.async_client import AsyncClient
    from memstore.rpc.client import Client
    from memstore.rpc.target import Target


def connect(
    address: str,
    *,
    token: str | None = None,
    tls: ClientTls | bool | None = None,
    deadline_s: float = DEADLINE_S,
    message_bytes: int = MESSAGE_BYTES,
    fan_out: bool = True,
) -> Client:
    """Returns a client of the server at `host:port`, which need not be there yet.

    address: of one server, or of several that hold parts of the same memories, with commas
    between: any of them tells of the others. Or `ray:NAMESPACE/NAME`, for a driver of the Ray that
    runs them (extra `cluster`): it tells where they are, and the token and TLS unless told here.

    token: as `memstore token` gave it.  tls: True trusts the authorities of the system; None is no
    TLS, and then a token goes to this machine alone.  deadline_s: of a call that names none, and of
    asking the registry of a cluster where the servers are; Ray has its own to find that.
    message_bytes: the most that a message may have, in either direction.  fan_out: False asks the
    servers named alone, and has them ask the others.

    Raises `InvalidArgument`, `Unreachable` where Ray does not tell where the servers are, and
    `ImportError` without the extra `rpc`.
    """
    from memstore.rpc.client import Client

    targets, find = _servers(address, token, tls, deadline_s, message_bytes)
    return Client(*targets, fan_out=fan_out, find=find)


def connect_async(
    address: str,
    *,
    token: str | None = None,
    tls: ClientTls | bool | None = None,
    deadline_s: float = DEADLINE_S,
    message_bytes: int = MESSAGE_BYTES,
    fan_out: bool = True,
) -> AsyncClient:
    """As `connect`, for asyncio: returns a client whose verbs are awaited.

    fan_out: threads ask several servers, each for its own part; False asks one alone, and the next
    where it is not there, and has it ask the others.

    It may be made anywhere, and belongs to the event loop of its first call.
    """
    from memstore.rpc.async_client import AsyncClient

    targets, find = _servers(address, token, tls, deadline_s, message_bytes)
    return AsyncClient(*targets, fan_out=fan_out, find=find)


def _servers(
    address: str,
    token: str | None,
    tls: ClientTls | bool | None,
    deadline_s: float,
    message_bytes: int,
) -> tuple[list[Target], Callable[[], Sequence[str]] | None]:
    """The servers of an address, and what looks up where they are now."""
    from memstore.rpc.target import Target

    look, addresses = finder(str(address)), str(address).split(",")
    if look is not None:
        found = look(deadline_s)
        token = found.token if token is None else token
        if tls is None and found.authority is not None:
            tls = ClientTls(found.authority.encode())
        addresses = [*found.servers]
    targets = [Target(each, token, tls, deadline_s, message_bytes) for each in addresses]
    return targets, None if look is None else lambda: look(deadline_s).servers
