"""TLS: which files say who a server is, and who its callers are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from memstore.errors import InvalidArgument

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True)
class ServerTls:
    """The files of a server's certificate and key, and of who signs clients' (mutual TLS)."""

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Raises `InvalidArgument` where a file cannot be read."""
        authority = None if self.client_authority is None else pem(self.client_authority)
        import grpc

        return grpc.ssl_server_credentials(
            [(pem(self.key), pem(self.certificate))], authority, authority is not None
        )


@dataclass(frozen=True)
class ClientTls:
    """The file of who signs the server's certificate, None being the system's authorities; and with
    mutual TLS the client's own certificate and key. Bytes are what would be in the file."""

    authority: Path | str | bytes | None = None
    certificate: Path | str | bytes | None = None
    key: Path | str | bytes | None = field(default=None, repr=False)

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises `InvalidArgument` where a file cannot be read, or one of two is missing."""
        import grpc

        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("a certificate goes with its key", expected="both, or none")
        parts = (self.authority, self.key, self.certificate)
        return grpc.ssl_channel_credentials(*(None if p is None else pem(p) for p in parts))


def pem(source: Path | str | bytes) -> bytes:
    """What is in a file; bytes are that already."""
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{source} cannot be read", got=str(error)) from error
