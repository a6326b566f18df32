"""Where a route leads: the parsed value of `next_hop`.

    mx                     by the recipient domain's mail exchangers (RFC 5321 §5.1)
    smtp://host:port       one host, port 25 unless written; no MX look-up
    smtps://host:port      the same with TLS from the first octet, port 465
    lmtp://host:port       LMTP (RFC 2033), port 24
    lmtp+unix:/path        LMTP over a Unix socket
    maildir:/path          a Maildir on this machine; /srv/{domain}/{local} is one for each recipient
    pipe:/program words    a program, without a shell; its words may have names in braces too
    discard:               nowhere: answered 250, counted, gone
    bounce:550 5.1.1 text  nowhere: this reply is the answer; `bounce:` alone is 550 5.7.1

FOLDER_NAMES and WORD_NAMES are the names that may stand in braces; docs/routing.md says what they stand for.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import shlex
from typing import Literal, get_args

from msgspec import Struct

from angarium.config.address import parse_host, parse_port, split_host_port
from angarium.config.template import Template

__all__ = ["FOLDER_NAMES", "SESSION_KINDS", "WORD_NAMES", "HopReply", "NextHop", "NextHopKind"]

NextHopKind = Literal["mx", "smtp", "smtps", "lmtp", "lmtp+unix", "maildir", "pipe", "discard", "bounce"]

SESSION_KINDS: tuple[NextHopKind, ...] = ("smtp", "smtps", "lmtp", "lmtp+unix")  # of these a route may have several

FOLDER_NAMES = ("domain", "local", "user", "detail", "recipient")  # all of them differ from recipient to recipient
WORD_NAMES = (*FOLDER_NAMES, "sender", "queue_id", "tenant")

HopReply = tuple[int, tuple[int, int, int], str]  # code, enhanced status, text
REFUSED: HopReply = (550, (5, 7, 1), "Refused by configuration")  # RFC 3463 §3.8: delivery not authorized
LONGEST_REPLY_TEXT = 400  # RFC 5321 §4.5.3.1.5: 512 octets for the whole line
_REPLY = re.compile(r"([45][0-5]\d)(?: ([45])\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2}))?(?: (.*))?", re.ASCII)

DEFAULT_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
SHAPES = {
    "mx": "mx",
    "smtp": "smtp://host:port",
    "smtps": "smtps://host:port",
    "lmtp": "lmtp://host:port",
    "lmtp+unix": "lmtp+unix:/path",
    "maildir": "maildir:/path",
    "pipe": "pipe:/path/program",
    "discard": "discard:",
    "bounce": "bounce:550 5.1.1 text",
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
            made = cls(kind=kind, path=rest)
            if kind == "maildir":
                _ = made.folder
            return made
        if kind in {"pipe", "bounce"}:
            made = cls(kind=kind, command=rest.strip())
            _ = made.words if kind == "pipe" else made.reply
            return made
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
    def folder(self) -> tuple[Template, ...]:
        """Of a maildir: the parts of its path, from the root down. ValueError when a name in braces is not known."""
        parts = [part for part in self.path.split("/") if part]
        if "." in parts or ".." in parts:
            raise ValueError(f'"{self}": "." and ".." have no place in a path that recipients fill in')
        return tuple(Template.parse(part, FOLDER_NAMES) for part in parts)

    @property
    def words(self) -> tuple[Template, ...]:
        """Of a pipe: the program and its arguments, taken apart as a shell would. ValueError when there are none."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise ValueError(f'"{self}": {str(error).lower()}') from None
        if not words:
            raise ValueError(f'"{self}" names no program')
        if not words[0].startswith("/") or "{" in words[0] or "}" in words[0]:
            raise ValueError(f'"{self}": the program is named by its absolute path, "{SHAPES["pipe"]}"')
        if "\0" in self.command:
            raise ValueError(f'"{self}" has a NUL in it')
        return tuple(Template.parse(word, WORD_NAMES) for word in words)

    @property
    def reply(self) -> HopReply:
        """Of a bounce: the reply that it stands for. ValueError when it is none."""
        if not self.command:
            return REFUSED
        found = _REPLY.fullmatch(self.command)
        if found is None:
            raise ValueError(f'"{self}" is written "{SHAPES["bounce"]}", with a code of 4yz or 5yz')
        code, text = int(found[1]), found[5] or REFUSED[2]
        if code in {421, 521}:
            raise ValueError(f'"{self}": {code} is said of a connection, not of a recipient')
        if found[2] is None:
            enhanced = (code // 100, 7, 1) if code == REFUSED[0] else (code // 100, 0, 0)
        elif int(found[2]) != code // 100:
            raise ValueError(f'"{self}": {code} and {found[2]}.{found[3]}.{found[4]} contradict each other')
        else:
            enhanced = (int(found[2]), int(found[3]), int(found[4]))
        if not (text.isascii() and text.isprintable()) or len(text) > LONGEST_REPLY_TEXT:
            raise ValueError(f'"{self}": the text is printable ASCII, at most {LONGEST_REPLY_TEXT} characters')
        return code, enhanced, text

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
