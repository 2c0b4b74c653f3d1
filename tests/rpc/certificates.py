"""Certificates for tests of TLS: an authority of their own, a server at 127.0.0.1, a client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers.authority import Authority


@dataclass(frozen=True)
class Certificates:
    """PEM files: of who signed, and of a server and a client that are signed."""

    authority: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path


def make(folder: Path) -> Certificates:
    """Writes a new authority's certificate and those that it signs to a folder."""
    authority, places = Authority.make("memstore tests"), ("127.0.0.1", "localhost")
    texts = (
        authority.certificate,
        *authority.issue(*places),
        *authority.issue(*places, client=True),
    )
    names = ("authority", "server", "server-key", "client", "client-key")
    files = [folder / f"{name}.pem" for name in names]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return Certificates(*files)
