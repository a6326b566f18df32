"""Where a route leads: the parsed value of `next_hop`.

    mx                     by the recipient domain's mail exchangers (RFC 5321 §5.1)
    smtp://host:port       one host, port 25 unless written; no MX look-up
    smtps://host:port      the same with TLS from the first octet, port 465
    lmtp://host:port       LMTP (RFC 2033), port 24
    lmtp+unix:/path        LMTP over a Unix socket
    maildir:/path          a Maildir on this machine
    pipe:command           a program
    discard:               nowhere: answered 250, counted, gone

All of them parse. SUPPORTED names those that this version delivers to; the loader refuses the others.
"""

from __future__ import annotations

import difflib
import ipaddress
from typing import Literal, get_args

from msgspec import Struct

from angarium.config.address import parse_host, parse_port, split_host_port

__all__ = ["SUPPORTED", "NextHop", "NextHopKind"]

NextHopKind = Literal["mx", "smtp", "smtps", "lmtp", "lmtp+unix", "maildir", "pipe", "discard"]

SUPPORTED: tuple[NextHopKind, ...] = ("smtp", "mx", "maildir", "discard")

DEFAULT_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
SHAPES = {
    "mx": "mx",
    "smtp": "smtp://host:port",
    "smtps": "smtps://host:port",
    "lmtp": "lmtp://host:port",
    "lmtp+unix": "lmtp+unix:/path",
    "maildir": "maildir:/path",
    "pipe": "pipe:command",
    "discard": "discard:",
}


class NextHop(Struct, frozen=True):
    """What follows from the kind: host and port (smtp, smtps, lmtp), path (lmtp+unix, maildir), command (pipe)."""

    kind: NextHopKind
    host: str = ""
    port: int = 0
    path: str = ""
    command: str = ""

    @classmethod
    def parse(cls, text: str) -> NextHop:
        """ValueError says what is wrong, and what the kind that was meant looks like."""
        scheme, colon, rest = text.partition(":")
        kind = next((known for known in get_args(NextHopKind) if known == scheme.lower()), None)
        if kind is None:
            near = difflib.get_close_matches(scheme.lower(), SHAPES, n=1)
            hint = (
                f'did you mean "{SHAPES[near[0]]}"?' if near else f"a next hop is one of {', '.join(SHAPES.values())}"
            )
            raise ValueError(f'"{text}" is no next hop; {hint}')
        if kind == "mx":
            if colon:
                raise ValueError(f'"{text}": mx takes nothing behind it; for one host write "smtp://host:port"')
            return cls(kind=kind)
        if not colon:
            raise ValueError(f'"{text}" is not complete: it is written "{SHAPES[kind]}"')
        if kind == "discard":
            if rest:
                raise ValueError(f'"{text}": discard: takes nothing behind it')
            return cls(kind=kind)
        if kind in {"maildir", "lmtp+unix"}:
            if not rest.startswith("/") or "\0" in rest:
                raise ValueError(f'"{text}" wants an absolute path: "{SHAPES[kind]}"')
            return cls(kind=kind, path=rest)
        if kind == "pipe":
            if not rest.strip():
                raise ValueError(f'"{text}" names no command')
            return cls(kind=kind, command=rest.strip())
        host, port = cls._host_and_port(text, kind, rest)
        return cls(kind=kind, host=host, port=port)

    @staticmethod
    def _host_and_port(text: str, kind: str, rest: str) -> tuple[str, int]:
        if not rest.startswith("//"):
            raise ValueError(f'"{text}" is written "{SHAPES[kind]}", with two slashes')
        authority = rest.removeprefix("//").removesuffix("/")
        if "@" in authority:
            raise ValueError(f'"{text}": a user and password have no place in a next hop')
        if any(mark in authority for mark in "/?#"):
            raise ValueError(f'"{text}" has more behind the port; it is written "{SHAPES[kind]}"')
        host, port = split_host_port(authority)
        if not host:
            raise ValueError(f'"{text}" names no host')
        return parse_host(host), DEFAULT_PORTS[kind] if port is None else parse_port(port, least=1)

    @property
    def is_loopback(self) -> bool:
        """Whether the host is an address of this machine. A name is not: what it means is up to someone else."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.host:
            return (
                f"{self.kind}://[{self.host}]:{self.port}"
                if ":" in self.host
                else f"{self.kind}://{self.host}:{self.port}"
            )
        return "mx" if self.kind == "mx" else f"{self.kind}:{self.path}{self.command}"
