"""What a host's EHLO reply offers (RFC 5321 §4.1.1.1), as the client session wants it. No I/O.

Input: keywords in lower case with their parameters, as aiosmtplib collects them. Output: Capability bits and numbers;
what is malformed counts as not offered."""

from __future__ import annotations

from angarium._core.client_session import Capability

MOST_OCTETS = (1 << 64) - 1  # what the client session can hold
MOST_LIMIT = (1 << 32) - 1

__all__ = ["capabilities_of", "limit_of", "lowest", "number"]


def capabilities_of(extensions: dict[str, str]) -> int:
    """The Capability bits of an EHLO reply."""
    offered = 0
    for keyword, bit in (
        ("pipelining", Capability.CAPABILITY_PIPELINING),
        ("8bitmime", Capability.CAPABILITY_8BITMIME),
        ("smtputf8", Capability.CAPABILITY_SMTPUTF8),
        ("chunking", Capability.CAPABILITY_CHUNKING),
        ("size", Capability.CAPABILITY_SIZE),
        ("dsn", Capability.CAPABILITY_DSN),
        ("requiretls", Capability.CAPABILITY_REQUIRETLS),
        ("mt-priority", Capability.CAPABILITY_PRIORITY),
    ):
        if keyword in extensions:
            offered |= bit
    return offered


def number(text: str, most: int = MOST_OCTETS) -> int:
    """The number that stands in text, `most` when it is greater (RFC 1870 §3 allows 20 digits), 0 when it is none."""
    word = text.strip()
    return min(int(word), most) if word.isascii() and word.isdecimal() and len(word) <= 20 else 0


def limit_of(text: str, name: str) -> int:
    """One limit of a LIMITS line (RFC 9422 §3), 0 when it is not there."""
    for word in text.split():
        keyword, _, value = word.partition("=")
        if keyword.upper() == name:
            return number(value, MOST_LIMIT)
    return 0


def lowest(*limits: int) -> int:
    """The lowest limit that is one (0: none)."""
    return min((limit for limit in limits if limit), default=0)
