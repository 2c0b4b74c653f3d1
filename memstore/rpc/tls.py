"""TLS: which files say who a server is, and who its callers are."""

from __future__ import annotations

from dataclasses import dataclass
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
    mutual TLS the client's own certificate and key."""

    authority: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises `InvalidArgument` where a file cannot be read, or one of two is missing."""
        import grpc

        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("a certificate goes with its key", expected="both, or none")
        parts = (self.authority, self.key, self.certificate)
        return grpc.ssl_channel_credentials(*(None if p is None else pem(Path(p)) for p in parts))


def pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read", got=str(error)) from error
