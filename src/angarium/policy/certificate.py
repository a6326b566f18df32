"""What a client's certificate stands for: the names that it is for, its fingerprint, and whether its owner may relay.

Input: what TLS has verified against the listener's client_ca. Output: ClientCertificate, which sessions keep, policies
are asked with, and AUTH EXTERNAL (RFC 4422 appendix A) takes its names from. A certificate by itself is no log-in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from angarium.config.model import Listener

__all__ = ["ClientCertificate", "read_certificate"]

_ALTERNATIVES = ("email", "DNS", "URI")  # in this order: who a person is, then which host


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate whose key the client has. `names`: e-mail addresses, DNS names, URIs, then the common name."""

    names: tuple[str, ...]
    fingerprint: str  # SHA-256 of the whole certificate, 64 hexadecimal digits
    relays: bool = False  # the listener names it in relay_certificates


def read_certificate(listener: Listener, shown: Mapping[str, Any], der: bytes) -> ClientCertificate:
    """From what `ssl` says of the peer's certificate: the fields of getpeercert(), and its octets."""
    alternatives = shown.get("subjectAltName", ())
    names = [value for kind in _ALTERNATIVES for name, value in alternatives if name == kind]
    names += [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
    fingerprint = hashlib.sha256(der).hexdigest()
    known = {name.lower() for name in names}
    relays = any(
        one.sha256.hex() == fingerprint if one.sha256 else one.name.lower() in known
        for one in listener.relay_certificates
    )
    return ClientCertificate(tuple(dict.fromkeys(names)), fingerprint, relays)
