"""TLS: which files say who a server is, and who its callers are."""

from __future__ import annotations

import ssl
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
        """Raises `InvalidArgument` where a file cannot be read, or is not what it is to be."""
        authority = None if self.client_authority is None else _authority(self.client_authority)
        pair = (pem(self.key), pem(self.certificate))
        try:  # gRPC would say that it cannot listen
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key, password=str)
        except ssl.SSLError as error:
            raise InvalidArgument(
                f"{self.certificate} and {self.key} are no certificate and its key",
                got=str(error),
                expected="PEM files, the key without a password",
            ) from error
        import grpc

        return grpc.ssl_server_credentials([pair], authority, authority is not None)


@dataclass(frozen=True)
class ClientTls:
    """The file of who signs the server's certificate, None being the system's authorities; and with
    mutual TLS the client's own certificate and key. Bytes are what would be in the file."""

    authority: Path | str | bytes | None = None
    certificate: Path | str | bytes | None = None
    key: Path | str | bytes | None = field(default=None, repr=False)

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises `InvalidArgument` where a file cannot be read or is no authority, or one of two
        is missing."""
        import grpc

        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("a certificate goes with its key", expected="both, or none")
        authority = None if self.authority is None else _authority(self.authority)
        own = (None if part is None else pem(part) for part in (self.key, self.certificate))
        return grpc.ssl_channel_credentials(authority, *own)


def pem(source: Path | str | bytes) -> bytes:
    """What is in a file; bytes are that already."""
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{source} cannot be read", got=str(error)) from error


def _authority(source: Path | str | bytes) -> bytes:
    """What is in a file of authorities, of which it has one at least."""
    read = pem(source)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=read.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        name = "what was given" if isinstance(source, bytes) else source
        raise InvalidArgument(
            f"{name} holds no authority", got=str(error), expected="certificates in PEM"
        ) from error
    return read
