"""What a host's certificate or public key is known by: a SHA-256 digest, as `openssl x509 -fingerprint -sha256` shows
it, or without the colons, with or without `sha256:` in front."""

from __future__ import annotations

import re

from msgspec import Struct

__all__ = ["Fingerprint"]

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
