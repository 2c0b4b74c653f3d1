"""Authority: signs certificates of servers and of who calls them, which nobody else trusts."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, field
from typing import Self

from memstore.extras import install

try:
    from cryptography import x509
except ImportError as error:
    raise ImportError(f"certificates need cryptography: {install('cluster')}") from error

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LASTS = datetime.timedelta(days=3_650)
"""Of all certificates: a server gets a new one whenever it starts, but may run for years."""

EARLIER = datetime.timedelta(days=1)
"""For nodes whose clocks are behind."""


@dataclass(frozen=True)
class Authority:
    """The certificate and the key of who signs, as PEM."""

    certificate: str
    key: str = field(repr=False)

    @classmethod
    def make(cls, name: str) -> Self:
        """Draws a new one."""
        key, subject = ec.generate_private_key(ec.SECP256R1()), _name(name)
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            _unsigned(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate.public_bytes(Encoding.PEM).decode(), _pem(key))

    def issue(self, *hosts: str, client: bool = False) -> tuple[str, str]:
        """A certificate for the server at some addresses or names, and its key, as PEM.

        client: it is for one who calls instead.
        """
        own = load_pem_private_key(self.key.encode(), None)
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        issuer = x509.load_pem_x509_certificate(self.certificate.encode()).subject
        key = ec.generate_private_key(ec.SECP256R1())
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(own.public_key())
        use = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        certificate = (
            _unsigned(_name("memstore"), issuer, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName(map(_place, hosts)), critical=False)
            .add_extension(signer, critical=False)
            .sign(own, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM).decode(), _pem(key)


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + LASTS)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _place(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
