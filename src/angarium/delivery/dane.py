"""DANE for SMTP: does a host's certificate chain match what its zone says in TLSA records? No I/O.

Job: RFC 6698 as RFC 7671 and RFC 7672 narrow it for mail. Input: the chain as the host sent it (DER, its own
certificate first), the TLSA records of the host (the caller vouches for their DNSSEC), the names that the certificate
may have, the time. Output: a Verdict: the record that matched, or what is wrong, in the terms of RFC 8460 §4.3.

    usage           matches                     names    dates    chain
    3, DANE-EE      the host's own key          no       no       no (RFC 7672 §3.1.1)
    2, DANE-TA      what the host's is signed   yes      yes      up to the anchor: signatures, CA, path length, key
                    by, at any distance                           usage, name constraints (RFC 7672 §3.1.2)
    0, 1, PKIX-*    nothing: unusable in mail (RFC 7672 §3.1.3)

An anchor that the host does not send is taken from the record itself where that holds all of it: a certificate (2 0 0),
or a key (2 1 0). Of several digests for one usage and selector the strongest counts (RFC 7671 §9); whole data counts
always. Signatures by MD5 and SHA-1 below an anchor count as none.

`usable` says which records can match at all: when there are records and none is usable, the caller must have TLS, and
cannot authenticate it (RFC 7672 §2.2).

Fails: never; what cannot be read does not match. Bounds: MOST_CERTIFICATES of the chain, MOST_SIGNATURES checked."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from angarium.delivery.mail_host import Tlsa
    from angarium.smtp.tls_result import TlsResult

__all__ = ["Verdict", "name_matches", "public_key_of", "usable", "verify"]

DANE_TA, DANE_EE = 2, 3
CERTIFICATE, PUBLIC_KEY = 0, 1
FULL, SHA256, SHA512 = 0, 1, 2
_DIGESTS = {SHA256: hashlib.sha256, SHA512: hashlib.sha512}  # the higher number is the stronger one

MOST_CERTIFICATES = 16
MOST_SIGNATURES = 64
_WEAK = (hashes.MD5, hashes.SHA1)
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

T = TypeVar("T", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The record that vouches for the host, or None, what is wrong (RFC 8460 §4.3), and that in words."""

    record: Tlsa | None
    result: TlsResult | None
    text: str


def usable(records: Sequence[Tlsa]) -> tuple[Tlsa, ...]:
    """The records that can match at all (RFC 7672 §3.1): known usage, selector and matching type, and sound data."""
    return tuple(record for record in records if _is_usable(record))


def _is_usable(record: Tlsa) -> bool:
    if record.usage not in (DANE_TA, DANE_EE) or record.selector not in (CERTIFICATE, PUBLIC_KEY):
        return False
    if record.matching == FULL:
        if record.usage == DANE_EE:
            return record.data[:1] == b"\x30"  # it is only compared with what the host sends
        return (_load if record.selector == CERTIFICATE else _load_key)(record.data) is not None
    digest = _DIGESTS.get(record.matching)
    return digest is not None and len(record.data) == digest().digest_size


def verify(chain: Sequence[bytes], records: Sequence[Tlsa], names: Sequence[str], now: float) -> Verdict:
    """Whether one of the records vouches for the chain.

    `names` are the reference identifiers (RFC 7672 §3.2.2), `now` is in unix seconds.
    """
    wanted = _strongest(usable(records))
    if not wanted:
        return Verdict(None, "tlsa-invalid", "none of the TLSA records is usable")
    if not chain:
        return Verdict(None, "tlsa-invalid", "the host sent no certificate")
    for record in wanted:
        if record.usage == DANE_EE and _matches(record, chain[0]):
            return Verdict(record, None, "")
    anchors = [record for record in wanted if record.usage == DANE_TA]
    if anchors:
        return _Anchored(chain[:MOST_CERTIFICATES], anchors, names, datetime.fromtimestamp(now, UTC)).verdict()
    return Verdict(None, "tlsa-invalid", f"no TLSA record matches the certificate ({_show(wanted)})")


def _strongest(records: Sequence[Tlsa]) -> list[Tlsa]:
    """Without the digests that a stronger one of the same usage and selector stands beside (RFC 7671 §9)."""
    best: dict[tuple[int, int], int] = {}
    for record in records:
        kind = (record.usage, record.selector)
        best[kind] = max(best.get(kind, 0), record.matching)
    return [record for record in records if record.matching in (FULL, best[(record.usage, record.selector)])]


def _show(records: Sequence[Tlsa]) -> str:
    return "; ".join(f"{usage} {selector} {kind} {data.hex()[:16]}…" for usage, selector, kind, data in records[:4])


def _matches(record: Tlsa, certificate: bytes) -> bool:
    """RFC 6698 §2.1.4: the selected content, whole or digested, is the record's data."""
    content = certificate if record.selector == CERTIFICATE else public_key_of(certificate)
    if content is None:
        return False
    if record.matching != FULL:
        content = _DIGESTS[record.matching](content).digest()
    return hmac.compare_digest(content, record.data)


# ---------------------------------------------------------------------- a chain up to an anchor


class _Anchored:
    """The search for a path from the host's certificate up to an anchor, by issuers among what is known."""

    def __init__(self, chain: Sequence[bytes], anchors: Sequence[Tlsa], names: Sequence[str], now: datetime) -> None:
        self._anchors = anchors
        self._names = names
        self._now = now
        self._signatures = 0
        self._leaf = _load(chain[0])
        known: dict[bytes, x509.Certificate] = {}
        full = [record.data for record in anchors if (record.selector, record.matching) == (CERTIFICATE, FULL)]
        for der in [*chain[1:], *full]:
            certificate = _load(der)
            if certificate is not None:
                known.setdefault(der, certificate)
        self._known = known
        self._anchor_of = {der: record for der in known for record in reversed(anchors) if _matches(record, der)}
        self._keys = [
            (record, key)
            for record in anchors
            if (record.selector, record.matching) == (PUBLIC_KEY, FULL) and (key := _load_key(record.data)) is not None
        ]
        self._found: list[Verdict] = []

    def verdict(self) -> Verdict:
        if self._leaf is None:
            return Verdict(None, "certificate-not-trusted", "the host's certificate cannot be read")
        good = next((verdict for verdict in self._search([self._leaf]) if verdict.record is not None), None)
        if good is not None:
            return good
        if self._found:
            return self._found[0]
        if self._anchor_of:
            text = "the host's certificate is not issued by the trust anchor of the TLSA records"
            return Verdict(None, "certificate-not-trusted", text)
        return Verdict(None, "tlsa-invalid", f"no TLSA record matches the chain ({_show(self._anchors)})")

    def _search(self, path: list[x509.Certificate]) -> Iterator[Verdict]:
        """Every end of a path that goes on from here: at an anchor, or at what an anchor's bare key has signed."""
        top = path[-1]
        for record, key in self._keys:
            if self._may_check() and _signed_with(top, key):
                yield self._judge(path, None, record)
        for der, issuer in self._known.items():
            if issuer in path or issuer.subject != top.issuer or len(path) > MOST_CERTIFICATES:
                continue
            if not self._may_check() or not _issued_by(top, issuer):
                continue
            if der in self._anchor_of:
                yield self._judge([*path, issuer], issuer, self._anchor_of[der])
            yield from self._search([*path, issuer])

    def _may_check(self) -> bool:
        self._signatures += 1
        return self._signatures <= MOST_SIGNATURES

    def _judge(self, path: list[x509.Certificate], anchor: x509.Certificate | None, record: Tlsa) -> Verdict:
        """The path is signed up to an anchor: is it sound, in time, and for this name?"""
        verdict = self._judged(path, anchor, record)
        if verdict.record is None:
            self._found.append(verdict)
        return verdict

    def _judged(self, path: list[x509.Certificate], anchor: x509.Certificate | None, record: Tlsa) -> Verdict:
        leaf = path[0]
        unsound = next((why for depth, issuer in enumerate(path[1:]) if (why := _not_an_issuer(issuer, depth))), None)
        if unsound is None and not _may_serve(leaf):
            unsound = "its certificate is not for TLS servers"
        if unsound is None and not all(_allows(issuer, leaf) for issuer in path[1:]):
            unsound = "a name constraint of its issuers excludes it"
        below = path if anchor is None else path[:-1]
        if unsound is None and any(isinstance(_hash_of(signed), _WEAK) for signed in below):
            unsound = "its chain is signed with a digest that is broken"
        if unsound is not None:
            return Verdict(None, "certificate-not-trusted", unsound)
        for certificate in path:
            if self._now > certificate.not_valid_after_utc:
                text = f"a certificate expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
                return Verdict(None, "certificate-expired", text)
            if self._now < certificate.not_valid_before_utc:
                text = f"a certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
                return Verdict(None, "certificate-expired", text)
        if not name_matches(leaf, self._names):
            return Verdict(None, "certificate-host-mismatch", f"the certificate is not for {' or '.join(self._names)}")
        return Verdict(record, None, "")


def _load(der: bytes) -> x509.Certificate | None:
    """A certificate all of whose parts can be read: the library reads some of them when they are asked for."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        for part in ("subject", "issuer", "extensions", "not_valid_before_utc", "not_valid_after_utc"):
            getattr(certificate, part)
    except _UNREADABLE:
        return None
    return certificate


def _load_key(der: bytes) -> object | None:
    try:
        return serialization.load_der_public_key(der)
    except _UNREADABLE:
        return None


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_UNREADABLE):
        return False
    return True


def _signed_with(certificate: x509.Certificate, key: object) -> bool:
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        parameters = certificate.signature_algorithm_parameters
        algorithm = certificate.signature_hash_algorithm
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(signature, signed, parameters)
        elif (
            isinstance(key, rsa.RSAPublicKey)
            and isinstance(parameters, padding.PKCS1v15 | padding.PSS)
            and algorithm is not None
        ):
            key.verify(signature, signed, parameters, algorithm)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and parameters is None:
            key.verify(signature, signed)
        else:
            return False
    except (InvalidSignature, *_UNREADABLE):
        return False
    return True


def _hash_of(certificate: x509.Certificate) -> hashes.HashAlgorithm | None:
    try:
        return certificate.signature_hash_algorithm
    except _UNREADABLE:
        return None


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _not_an_issuer(certificate: x509.Certificate, below: int) -> str | None:
    """Why a certificate may not have issued the one under it, `below` which there are so many CAs (RFC 5280 §4.2.1)."""
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    if constraints is None or not constraints.ca:
        return "an issuer's certificate is not that of a CA"
    if constraints.path_length is not None and below > constraints.path_length:
        return "the chain is longer than one of its CAs allows"
    if usage is not None and not usage.key_cert_sign:
        return "an issuer's key is not for signing certificates"
    if extended is not None and not _serves(extended):
        return "an issuer's certificate is not for TLS servers"
    return None


def _serves(extended: x509.ExtendedKeyUsage) -> bool:
    return any(use in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE) for use in extended)


def _may_serve(certificate: x509.Certificate) -> bool:
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    return extended is None or _serves(extended)


def _allows(issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    """Whether the issuer's name constraints allow the DNS names of a host (RFC 5280 §4.2.1.10)."""
    constraints = _extension(issuer, x509.NameConstraints)
    if constraints is None:
        return True
    names = _dns_names(leaf)
    permitted = [tree.value.lower() for tree in constraints.permitted_subtrees or () if isinstance(tree, x509.DNSName)]
    excluded = [tree.value.lower() for tree in constraints.excluded_subtrees or () if isinstance(tree, x509.DNSName)]

    def within(name: str, tree: str) -> bool:
        return not tree or name == tree.lstrip(".") or name.endswith("." + tree.lstrip("."))

    return all(
        (not permitted or any(within(name, tree) for tree in permitted))
        and not any(within(name, tree) for tree in excluded)
        for name in names
    )


# ---------------------------------------------------------------------- names and keys


def name_matches(certificate: x509.Certificate, names: Sequence[str]) -> bool:
    """Whether the certificate is for one of the names (RFC 7672 §3.2.3, RFC 6125 §6.4): in any case of letters.

    A wildcard stands for the whole of the first label. The common name counts only where there are no DNS names.
    """
    presented = _dns_names(certificate)
    for name in names:
        wanted = name.lower().rstrip(".")
        below = wanted.partition(".")[2]
        if any(known == wanted or ("." in below and known == "*." + below) for known in presented):
            return True
    return False


def _dns_names(certificate: x509.Certificate) -> list[str]:
    alternative = _extension(certificate, x509.SubjectAlternativeName)
    names = [] if alternative is None else alternative.get_values_for_type(x509.DNSName)
    if not names:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [str(attribute.value) for attribute in common[-1:]]
    return [name.lower().rstrip(".") for name in names]


def public_key_of(certificate: bytes) -> bytes | None:
    """The SubjectPublicKeyInfo of a DER certificate, octet for octet; None when there is none.

    A library would write the key anew, and the digest of that may be another one.
    """
    try:
        _, inner, _ = _element(certificate, 0)  # Certificate
        _, at, end = _element(certificate, inner)  # TBSCertificate
        tag, _, behind = _element(certificate, at)
        if tag == 0xA0:  # [0] version
            at = behind
        for _ in range(5):  # serialNumber, signature, issuer, validity, subject
            _, _, at = _element(certificate, at)
        tag, _, behind = _element(certificate, at)
    except IndexError:
        return None
    return certificate[at:behind] if tag == 0x30 and behind <= end else None


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element at `at`, where its content begins and where it ends; IndexError when it is cut off."""
    tag, length = der[at], der[at + 1]
    start = at + 2
    if length > 127:
        octets = length & 127
        length = int.from_bytes(der[start : start + octets], "big")
        start += octets
    if start + length > len(der):
        raise IndexError(at)
    return tag, start, start + length
