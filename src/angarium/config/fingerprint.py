"""What certificates are known by. Fingerprint: a SHA-256 digest of a certificate or public key, as `openssl x509
-fingerprint -sha256` shows it, or without the colons, with or without `sha256:` in front. CertificateName: that digest
of a whole certificate, or one of the names that it is for."""

from __future__ import annotations

import re

from msgspec import Struct

__all__ = ["CertificateName", "Fingerprint"]

_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


class Fingerprint(Struct, frozen=True):
    """A digest of 32 octets."""

    sha256: bytes

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """ValueError says what is wrong."""
        digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
        if not _HEXADECIMAL.fullmatch(digits):
            raise ValueError(f'"{text}" is not a SHA-256 fingerprint: 64 hexadecimal digits')
        return cls(bytes.fromhex(digits))

    def __str__(self) -> str:
        return self.sha256.hex()


class CertificateName(Struct, frozen=True):
    """Which client certificate: by a name in it, or by its fingerprint."""

    name: str = ""
    sha256: bytes = b""

    @classmethod
    def parse(cls, text: str) -> CertificateName:
        """ValueError says what is wrong."""
        digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
        if _HEXADECIMAL.fullmatch(digits):
            return cls(sha256=bytes.fromhex(digits))
        if text.lower().startswith("sha256:"):
            raise ValueError(f'"{text}" is not a SHA-256 fingerprint: 64 hexadecimal digits')
        if not text or not text.isprintable() or text != text.strip() or len(text) > 255:
            raise ValueError(f'"{text}" is neither a name such as "printer.example.org" nor a SHA-256 fingerprint')
        if "*" in text:
            raise ValueError(f'"{text}" has a "*": certificates are named one by one')
        return cls(name=text)

    def __str__(self) -> str:
        return self.name or f"sha256:{self.sha256.hex()}"
