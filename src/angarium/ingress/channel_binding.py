"""Channel bindings that SCRAM-SHA-256-PLUS is offered with: `tls-server-end-point` (RFC 5929 §4).

Job: the hashes of the certificates that this node has shown to its clients. A client binds its proof to the certificate
that it saw; whoever sits between the two has another one. All of the node's certificates count, and those that were
replaced since this process began, because a client may have seen an older one before; every one of them is ours.

Input: the paths of PEM files, whose first certificate is the one that is shown. Output: hashes; none for a certificate
whose signature has no hash of its own (Ed25519, RFC 5929 §4.1). `tls-exporter` (RFC 9266) is not there, because
Python's ssl gives no keying material away.

Fails: a file that cannot be read has no hash, and what was known of it stays. Bounds: MOST_KNOWN hashes."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["END_POINT", "EndPoints"]

END_POINT = "tls-server-end-point"
MOST_KNOWN = 64
LARGEST_OCTETS = 1 << 20
BEGIN, END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


class EndPoints:
    """The certificates of one node."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self._states: dict[str, tuple[int, int, int]] = {}
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def hashes(self) -> list[bytes]:
        """Of every certificate that clients may have seen, the newest last. It looks at the files' states."""
        for file in self._files:
            try:
                found = os.stat(file)
                state = (found.st_mtime_ns, found.st_size, found.st_ino)
                if self._states.get(file) == state:
                    continue
                self._states[file] = state
                hashed = _hash_of(file)
            except (OSError, ValueError):
                continue
            if hashed is not None:
                self._known[hashed] = None
                self._known.move_to_end(hashed)
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return list(self._known)


def _hash_of(file: str) -> bytes | None:
    with open(file, "rb") as opened:
        octets = opened.read(LARGEST_OCTETS)
    begin = octets.find(BEGIN)
    end = octets.find(END, begin)
    if begin < 0 or end < 0:
        return None
    certificate = x509.load_pem_x509_certificate(octets[begin : end + len(END)] + b"\n")
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in {"md5", "sha1"} else algorithm.name
    return hashlib.new(name, certificate.public_bytes(Encoding.DER)).digest()
