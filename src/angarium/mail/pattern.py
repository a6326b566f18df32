"""Patterns for addresses and texts, as routes and policies use them.

    example.org        every address at exactly this domain
    *.example.org      every address at a domain below it, at any depth, and not at example.org itself
    user@example.org   this one address
    *                  every address, the domainless <Postmaster> included

Domains compare without regard to case, and an internationalised domain compares equal in both of its forms, U-label
and A-label (RFC 5890). The local part is compared as it is written, because only the host that receives it knows its
meaning (RFC 5321 §2.4); `postmaster` alone has no case (§4.5.1). A pattern that is none raises ValueError with the
reason.

A SenderPattern is for reverse-paths: one of these, or `<>`, which is the null reverse-path alone (§4.5.5); `*` is for
that one too. A TextPattern is for words such as log-ins and values of header fields: what it says with any octets for
each star. Matching takes time in proportion to the text, whatever the stars.
"""

from __future__ import annotations

import re
from typing import Literal

import idna
from msgspec import Struct

__all__ = ["AddressPattern", "SenderPattern", "TextPattern", "ascii_domain", "folded_domain", "unicode_domain"]

_LABEL = re.compile(rb"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LOCAL = re.compile(r'"(\\.|[^"\\])*"|[^\s"(),:;<>@\[\\\]]+')  # RFC 5321 §4.1.2, dots anywhere
_LITERAL = re.compile(rb"\[[0-9a-z:.-]+\]")


def ascii_domain(domain: bytes) -> bytes:
    """The domain in lower case, its U-labels as A-labels. ValueError when it cannot be one."""
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain.decode("utf-8"), uts46=True)
    except (idna.IDNAError, UnicodeDecodeError) as error:
        raise ValueError(f"not an internationalised domain: {error}") from None


def folded_domain(domain: bytes) -> bytes:
    """The domain as it compares: as ascii_domain where it has A-labels, in lower case where it has none."""
    try:
        return ascii_domain(domain)
    except ValueError:
        return domain.lower()


def unicode_domain(domain: bytes) -> bytes | None:
    """The U-labels of a domain in A-labels, as UTF-8; None when it has none."""
    if b"xn--" not in domain:
        return None
    try:
        return idna.decode(domain).encode()
    except (idna.IDNAError, UnicodeError):
        return None


def _check_domain(text: str, domain: str) -> bytes:
    octets = ascii_domain(domain.encode())
    if _LITERAL.fullmatch(octets):
        return octets
    if len(octets) > 253 or not all(_LABEL.fullmatch(label) for label in octets.split(b".")):
        raise ValueError(f'"{text}": "{domain}" is not a domain')
    return octets


class AddressPattern(Struct, frozen=True):
    """One pattern. `domain` is in lower case and ASCII; `local` is empty unless the pattern is for one address."""

    kind: Literal["any", "domain", "subdomain", "address"]
    local: bytes = b""
    domain: bytes = b""

    @classmethod
    def parse(cls, text: str) -> AddressPattern:
        if text == "*":
            return cls(kind="any")
        if not text or text != text.strip():
            raise ValueError(f'"{text}" is not a pattern: it is empty or has blanks around it')
        local, at, domain = text.rpartition("@")
        if at:
            if "*" in local or not local:
                raise ValueError(f'"{text}": for every address at a domain write "{domain or "example.org"}"')
            if not _LOCAL.fullmatch(local):
                raise ValueError(f'"{text}": "{local}" is not a local part; what is no plain text is quoted')
            if domain.startswith("*"):
                raise ValueError(f'"{text}": one local part cannot be matched at many domains')
            return cls(kind="address", local=cls._fold(local.encode()), domain=_check_domain(text, domain))
        if text.startswith("*."):
            return cls(kind="subdomain", domain=_check_domain(text, text[2:]))
        if "*" in text:
            raise ValueError(f'"{text}": a star stands alone or in front, as in "*" and "*.example.org"')
        return cls(kind="domain", domain=_check_domain(text, text))

    @staticmethod
    def _fold(local: bytes) -> bytes:
        return b"postmaster" if local.lower() == b"postmaster" else local

    def matches(self, local: bytes, domain: bytes) -> bool:
        """Whether the address `local@domain` is meant; an empty domain stands for the domainless <Postmaster>."""
        if self.kind == "any":
            return True
        try:
            domain = ascii_domain(domain)
        except ValueError:
            return False
        if self.kind == "subdomain":
            return domain.endswith(b"." + self.domain) and len(domain) > len(self.domain) + 1
        return domain == self.domain and (self.kind == "domain" or self._fold(local) == self.local)

    def __str__(self) -> str:
        if self.kind == "any":
            return "*"
        domain = self.domain.decode("ascii")
        return {"domain": domain, "subdomain": f"*.{domain}", "address": f"{self.local.decode()}@{domain}"}[self.kind]


class SenderPattern(Struct, frozen=True):
    """A pattern for reverse-paths. `address` is None for the null reverse-path."""

    address: AddressPattern | None

    @classmethod
    def parse(cls, text: str) -> SenderPattern:
        return cls(None if text == "<>" else AddressPattern.parse(text))

    def matches(self, local: bytes, domain: bytes) -> bool:
        """Whether the reverse-path `local@domain` is meant; both are empty for the null one."""
        if self.address is None:
            return not local and not domain
        if not local and not domain:
            return self.address.kind == "any"
        return self.address.matches(local, domain)

    def __str__(self) -> str:
        return "<>" if self.address is None else str(self.address)


class TextPattern(Struct, frozen=True):
    """A text in which each star stands for any octets, none included. `parts` is what stands between the stars."""

    parts: tuple[bytes, ...]

    @classmethod
    def parse(cls, text: str) -> TextPattern:
        if not text or "\0" in text:
            raise ValueError(f'"{text}" is not a pattern: it is empty' if not text else "has a NUL in it")
        return cls(tuple(part.encode() for part in text.split("*")))

    def matches(self, text: bytes) -> bool:
        """Whether the whole text is meant."""
        first, last = self.parts[0], self.parts[-1]
        if len(self.parts) == 1:
            return text == first
        at, end = len(first), len(text) - len(last)
        if at > end or not text.startswith(first) or not text.endswith(last):
            return False
        for part in self.parts[1:-1]:  # the leftmost place of each leaves the most room for those behind it
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    @property
    def folded(self) -> TextPattern:
        """The same in lower case (ASCII), for texts that are, too."""
        return TextPattern(tuple(part.lower() for part in self.parts))

    def __str__(self) -> str:
        return b"*".join(self.parts).decode()
