"""The service from outside: ways to a server, which need the extra `rpc` only once called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memstore.finding import finder
from memstore.rpc.defaults import DEADLINE_S, MESSAGE_BYTES
from memstore.rpc.tls import ClientTls

if TYPE_CHECKING:
    from memstore.rpc.async_client import AsyncClient
    from memstore.rpc.client import Client


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
    TLS, and then a token goes to this machine alone.  deadline_s: of a call that names none.
    message_bytes: the most that a message may have, in either direction.  fan_out: False asks the
    servers named alone, and has them ask the others.

    Raises `InvalidArgument`, and `ImportError` without the extra `rpc`.
    """
    from memstore.rpc.client import Client
    from memstore.rpc.target import Target

    look, addresses = finder(str(address)), str(address).split(",")
    if look is not None:
        found = look()
        token = found.token if token is None else token
        if tls is None and found.authority is not None:
            tls = ClientTls(found.authority.encode())
        addresses = [*found.servers]
    targets = [Target(each, token, tls, deadline_s, message_bytes) for each in addresses]
    find = None if look is None else lambda: look().servers
    return Client(*targets, fan_out=fan_out, find=find)


def connect_async(
    address: str,
    *,
    token: str | None = None,
    tls: ClientTls | bool | None = None,
    deadline_s: float = DEADLINE_S,
    message_bytes: int = MESSAGE_BYTES,
) -> AsyncClient:
    """As `connect`, for asyncio: returns a client whose verbs are awaited.

    address: of one server, or of several that hold parts of the same memories, with commas
    between: one is asked, which asks the others, and where it is not there the next.

    It may be made anywhere, and belongs to the event loop of its first call.
    """
    from memstore.rpc.async_client import AsyncClient
    from memstore.rpc.target import Target

    addresses = str(address).split(",")
    return AsyncClient(*(Target(a, token, tls, deadline_s, message_bytes) for a in addresses))
