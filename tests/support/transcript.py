r"""Dialogues written down as text, and how to read them.

A file holds one or more dialogues. Lines:

    # ...            a comment, only at the start of a line
    @dialogue TITLE  begins a dialogue
    @WORD ...        a directive; which there are says the runner
    C: ...           a line of the client, CRLF implied
    S: ...           a line of the server, CRLF implied
    M: ...           a line of mail data, CRLF implied
    C| ... S| ... M| the same without CRLF: half a line, or any octets

In C, S and M lines \r \n \t \0 \xHH \\ stand for octets and {x*1000} for a thousand times x. In what a test expects,
<ID> stands for a queue id, <DATE> for a date-time of RFC 5322 and <*> for anything within a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "transcripts"

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_REPEAT = re.compile(rb"\{([^{}]+)\*(\d+)\}")
_NAMED = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
_PLACEHOLDERS = {
    b"<ID>": rb"[0-9A-HJKMNP-TV-Z]{13}",
    b"<DATE>": rb"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000",
    b"<*>": rb"[^\r\n]*",
}


@dataclass
class Step:
    """Consecutive lines of one kind, or one directive."""

    kind: str  # C, S, M or @
    octets: bytes = b""
    words: list[str] = field(default_factory=list)
    line: int = 0

    def options(self) -> dict[str, str]:
        """The KEY=VALUE words of a directive; a word without = stands for itself."""
        pairs = [word.partition("=") for word in self.words[1:]]
        return {key: value if equals else key for key, equals, value in pairs}


@dataclass
class Dialogue:
    """One dialogue of a file."""

    file: str
    title: str
    steps: list[Step] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.file}: {self.title}"


def unescape(text: bytes) -> bytes:
    """The octets that a line's text stands for."""
    text = _REPEAT.sub(lambda match: match[1] * int(match[2]), text)
    return _ESCAPE.sub(lambda match: _NAMED.get(match[1]) or bytes((int(match[1][1:], 16),)), text)


def matches(expected: bytes, got: bytes) -> bool:
    """Whether got is expected, placeholders filled in."""
    parts = re.split(b"(<ID>|<DATE>|<[*]>)", expected)
    pattern = b"".join(_PLACEHOLDERS.get(part) or re.escape(part) for part in parts)
    return re.fullmatch(pattern, got) is not None


def read_dialogues(path: Path) -> list[Dialogue]:
    """Every dialogue of a file."""
    dialogues: list[Dialogue] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line or line.startswith(b"#"):
            continue
        if line.startswith(b"@"):
            words = line[1:].decode().split()
            if words[0] == "dialogue":
                dialogues.append(Dialogue(path.stem, " ".join(words[1:])))
            else:
                dialogues[-1].steps.append(Step("@", words=words, line=number))
            continue
        kind, mark = chr(line[0]), line[1:3]
        if kind not in "CSM" or mark not in {b": ", b"| ", b":", b"|"}:
            raise ValueError(f"{path}:{number}: {line!r}")
        octets = unescape(line[3:]) + (b"\r\n" if mark[:1] == b":" else b"")
        steps = dialogues[-1].steps
        if steps and steps[-1].kind == kind:
            steps[-1].octets += octets
        else:
            steps.append(Step(kind, octets, line=number))
    return dialogues


def dialogues_of(role: str) -> list[Dialogue]:
    """Every dialogue of tests/transcripts/ROLE."""
    return [dialogue for path in sorted((FOLDER / role).glob("*.txt")) for dialogue in read_dialogues(path)]
