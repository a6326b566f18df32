"""Reference model of the address parser: RFC 5322 §3.4 over tokens, each alternative of the grammar a function."""

from __future__ import annotations

import re
from dataclasses import dataclass

ATOM = re.compile(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+")
FOLD = re.compile(rb"\r?\n(?=[ \t]|\Z)")
SPACE = re.compile(rb"(?:[ \t]|\r?\n(?=[ \t]|\Z))+")
QUOTED = re.compile(rb'"((?:\r?\n(?=[ \t]|\Z)|\\[^\0\r\n]|[^\0\r\n"\\])*)"', re.DOTALL)
LITERAL = re.compile(rb"\[((?:[ \t]|\r?\n(?=[ \t]|\Z)|[\x21-\x5a\x5e-\x7e\x80-\xff])*)\]")
SPECIALS = b".,:;@<>"

Mailbox = tuple[bytes, bytes, int, bool]


class Broken(Exception):
    """The value is no address list."""


@dataclass
class Token:
    kind: str  # word, literal, or a special itself
    content: bytes
    end: int


def skip_comment(value: bytes, at: int) -> int:
    """Behind the comment that begins at `at`."""
    depth = 0
    while at < len(value):
        c = value[at : at + 1]
        fold = FOLD.match(value, at)
        if fold:
            at = fold.end()
            continue
        if c in (b"\0", b"\r", b"\n"):
            raise Broken
        if c == b"\\":
            if value[at + 1 : at + 2] in (b"", b"\0", b"\r", b"\n"):
                raise Broken
            at += 2
            continue
        depth += {b"(": 1, b")": -1}.get(c, 0)
        at += 1
        if depth == 0:
            return at
    raise Broken


def tokens_of(value: bytes) -> list[Token]:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise Broken from None
    tokens = []
    at = 0
    while at < len(value):
        if value[at : at + 1] == b"(":
            at = skip_comment(value, at)
        elif match := SPACE.match(value, at):
            at = match.end()
        elif match := ATOM.match(value, at):
            at = match.end()
            tokens.append(Token("word", match[0], at))
        elif match := QUOTED.match(value, at):
            at = match.end()
            content = re.sub(rb"\\(.)|\r?\n(?=[ \t]|\Z)", lambda hit: hit[1] or b"", match[1], flags=re.DOTALL)
            tokens.append(Token("word", content, at))
        elif match := LITERAL.match(value, at):
            at = match.end()
            tokens.append(Token("literal", b"[" + re.sub(rb"[ \t\r\n]", b"", match[1]) + b"]", at))
        elif value[at : at + 1] in [SPECIALS[i : i + 1] for i in range(len(SPECIALS))]:
            at += 1
            tokens.append(Token(value[at - 1 : at].decode(), value[at - 1 : at], at))
        else:
            raise Broken
    return tokens


class Parser:
    def __init__(self, value: bytes) -> None:
        self.value = value
        self.tokens = tokens_of(value)
        self.at = 0
        self.found: list[Mailbox] = []

    @property
    def kind(self) -> str:
        return self.tokens[self.at].kind if self.at < len(self.tokens) else ""

    def next(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, kind: str) -> None:
        if self.kind != kind:
            raise Broken
        self.at += 1

    def address_list(self, end: str) -> None:
        while self.kind != end:
            if self.kind == ",":
                self.at += 1
                continue
            self.address(in_group=end == ";")
            if self.kind not in (",", end):
                raise Broken

    def address(self, *, in_group: bool) -> None:
        words = []
        while self.kind in ("word", "."):
            words.append(self.next())
        if self.kind == ":" and any(word.kind == "word" for word in words) and not in_group:
            self.at += 1
            self.address_list(";")
            self.expect(";")
        elif self.kind == "<":
            self.at += 1
            self.route()
            local = []
            while self.kind in ("word", "."):
                local.append(self.next())
            self.mailbox(local, angle=True)
            self.expect(">")
        else:
            self.mailbox(words, angle=False)

    def route(self) -> None:
        if self.kind not in ("@", ","):
            return
        while self.kind != ":":
            if self.kind == "@":
                self.at += 1
                self.domain()
                if self.kind not in (",", ":"):
                    raise Broken
            else:
                self.expect(",")
        self.at += 1

    def mailbox(self, words: list[Token], *, angle: bool) -> None:
        kinds = [word.kind for word in words]
        if not kinds or kinds != ["word" if i % 2 == 0 else "." for i in range(len(kinds))] or kinds[-1] == ".":
            raise Broken
        domain = b""
        if self.kind == "@":
            self.at += 1
            domain = self.domain()
        content = b"".join(word.content for word in words)
        self.found.append((quoted(content), domain, words[-1].end, angle))

    def domain(self) -> bytes:
        if self.kind == "literal":
            return self.next().content.lower()
        parts = []
        while True:
            if self.kind != "word" or self.value[self.tokens[self.at].end - 1 : self.tokens[self.at].end] == b'"':
                raise Broken
            parts.append(self.next().content.lower())
            if self.kind != ".":
                return b".".join(parts)
            self.at += 1


def quoted(content: bytes) -> bytes:
    """The local part with quotes only where it needs them."""
    if all(ATOM.fullmatch(part) for part in content.split(b".")):
        return content
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", content) + b'"'


def parse_addresses(value: bytes) -> list[Mailbox] | None:
    """What the compiled parse_addresses says."""
    try:
        parser = Parser(value)
        parser.address_list("")
    except Broken:
        return None
    return parser.found
