"""The messages of tests/corpus, and some that are too large to keep.

Each is what a client could submit, octet for octet, with CRLF line ends; all were written for these tests. MESSAGES has
them by name. `dotted` says whether DATA can carry one: it ends with CRLF, or is empty. The rest goes by BDAT only.

`body_hash` is DKIM's, RFC 6376 §3.4.3, §3.4.4 and §3.7.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "corpus"
TRACE = re.compile(rb"Received: [^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")


def load() -> dict[str, bytes]:
    """All messages by name."""
    messages = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.eml"))}
    assert len(messages) >= 60, f"{FOLDER} is not complete"
    return messages | made()


def made() -> dict[str, bytes]:
    """Messages that are made up here: large ones, the same every time."""
    random_octets = random.Random(5321).randbytes
    top = b"From: ada@origin.test\r\nTo: bo@dest.test\r\n"
    encoded = base64.b64encode(random_octets(1_200_000))
    lines = b"\r\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))
    fields = b"".join(b"X-Field-%d: %s\r\n" % (number, b"v" * 180) for number in range(1000))
    return {
        "line-of-100-kb": top + b"Subject: one line\r\n\r\n" + b"0123456789" * 10_000 + b"\r\n",
        "line-of-100-kb-of-dots": top + b"Subject: dots\r\n\r\n" + b"." * 100_000 + b"\r\n",
        "attachment-of-1-mb": top + b"Content-Transfer-Encoding: base64\r\n\r\n" + lines + b"\r\n",
        "header-of-200-kb": top + fields + b"\r\nA short body.\r\n",
        "field-of-50-kb": top + b"Subject: " + b"s" * 50_000 + b"\r\n\r\nA short body.\r\n",
        "field-of-2000-folds": top + b"X-Folded: a" + b"\r\n b" * 2000 + b"\r\n\r\nA short body.\r\n",
        "10000-lone-dots": top + b"\r\n" + b".\r\n" * 10_000,
        "10000-blank-lines": top + b"\r\n" + b"\r\n" * 10_000,
        # the end of mail data and of dots falls on every place of a buffer of a power of two
        "many-short-lines": top + b"\r\n" + b"".join(b"." * (n % 5) + b"x" * (n % 11) + b"\r\n" for n in range(20_000)),
    }


def dotted(message: bytes) -> bool:
    """Whether DATA can carry it as it is."""
    return message == b"" or message.endswith(b"\r\n")


def without_trace(received: bytes, count: int = 1) -> bytes:
    """What arrived without the `count` Received fields on top."""
    for _ in range(count):
        match = TRACE.match(received)
        assert match is not None, f"no trace field on top: {received[:200]!r}"
        received = received[match.end() :]
    return received


def body_of(message: bytes) -> bytes:
    """What follows the first blank line."""
    return message if message.startswith(b"\r\n") else message.partition(b"\r\n\r\n")[2]


def body_hash(message: bytes, canonicalization: str) -> str:
    """bh= of a message: SHA-256 of its body, canonicalized `simple` or `relaxed`."""
    body = body_of(message)
    if canonicalization == "relaxed":
        body = b"\r\n".join(re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n"))
    body = re.sub(rb"(?:\r\n)+\Z", b"", body)
    if body or canonicalization == "simple":
        body += b"\r\n"
    return base64.b64encode(hashlib.sha256(body).digest()).decode("ascii")
