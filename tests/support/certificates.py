"""Certificates for tests, good ones and all kinds of bad ones, made when they are asked for.

    root = Authority("Root CA")
    issuer = root.authority("Issuer CA")
    host = issuer.issue("mx.example.test")
    host.chain_der([issuer])        what the host sends: its own certificate, then the issuer's

What trustme does not make: expired ones, broken chains, names in the common name alone, constraints of all kinds.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAY = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def make_key(kind: str = "ec") -> Key:
    """A new private key: ec, rsa or ed25519."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @cached_property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @cached_property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public_key_der(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def fingerprint(self, *, of_key: bool = False) -> str:
        """SHA-256 of the certificate or of its public key, in hexadecimal."""
        return hashlib.sha256(self.public_key_der if of_key else self.der).hexdigest()

    def tlsa_data(self, selector: int, matching_type: int) -> bytes:
        """The data of a TLSA record that is for this certificate (RFC 6698 §2.1)."""
        content = self.public_key_der if selector else self.der
        return {0: bytes, 1: lambda c: hashlib.sha256(c).digest(), 2: lambda c: hashlib.sha512(c).digest()}[
            matching_type
        ](content)

    def write(self, folder: Path, name: str, above: Sequence[Issued] = ()) -> tuple[Path, Path]:
        """The chain and the key as files."""
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        chain.write_bytes(b"".join(issued.pem for issued in (self, *above)))
        key.write_bytes(self.key_pem)
        return chain, key

    def server_context(self, folder: Path, above: Sequence[Issued] = (), name: str = "server") -> ssl.SSLContext:
        """For a server that sends this certificate and those above it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.write(folder, name, above))
        return context


class Authority(Issued):
    """A CA; `above` has signed it, else it has signed itself."""

    def __init__(
        self,
        name: str,
        above: Authority | None = None,
        *,
        kind: str = "ec",
        days: tuple[int, int] = (-10, 100),
        ca: bool = True,
        path_length: int | None = None,
        signs: bool = True,
        extended: Sequence[x509.ObjectIdentifier] = (),
        constraints: x509.NameConstraints | None = None,
        key: Key | None = None,
    ) -> None:
        key = key or make_key(kind)
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=ca, path_length=path_length), True),
            (_usage(signs), True),
        ]
        if extended:
            extensions.append((x509.ExtendedKeyUsage(extended), False))
        if constraints is not None:
            extensions.append((constraints, True))
        super().__init__(_make(name, key, above, days, extensions), key)

    def authority(self, name: str, **options: object) -> Authority:
        """A CA under this one."""
        return Authority(name, self, **options)  # type: ignore[arg-type]

    def issue(
        self,
        *names: str,
        common_name: str = "host",
        kind: str = "ec",
        days: tuple[int, int] = (-1, 90),
        extended: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH,),
        digest: hashes.HashAlgorithm | None = None,
    ) -> Issued:
        """A host's certificate for these DNS names; without any, the common name has to do."""
        key = make_key(kind)
        extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(ca=False, path_length=None), True)]
        if names:
            extensions.append((x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False))
        if extended:
            extensions.append((x509.ExtendedKeyUsage(extended), False))
        return Issued(_make(common_name, key, self, days, extensions, digest), key)


def self_signed(*names: str, days: tuple[int, int] = (-1, 90), kind: str = "ec") -> Issued:
    """A host's certificate that nobody vouches for."""
    key = make_key(kind)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    ]
    return Issued(_make("self", key, None, days, extensions), key)


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _make(
    name: str,
    key: Key,
    above: Authority | None,
    days: tuple[int, int],
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    digest: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signer = key if above is None else above.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if above is None else above.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if above is not None:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key()), critical=False
        )
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else digest or hashes.SHA256()
    return builder.sign(signer, algorithm)
