"""The server's session under random dialogues: tests.fuzz.session states what must hold."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.session import Server, check

LINES = st.sampled_from(
    [
        b"EHLO client.test", b"HELO client.test", b"MAIL FROM:<a@client.test>", b"MAIL FROM:<>",
        b"MAIL FROM:<a@b> SIZE=99999", b"MAIL FROM:<a@client.test> BODY=8BITMIME SMTPUTF8",
        b"MAIL FROM:<a@b> HOLDFOR=5 MT-PRIORITY=9", b"MAIL FROM:<> HOLDUNTIL=2030-01-01T00:00:00Z MT-PRIORITY=-9",
        b"X-Angarium-Durability: memory", b"x-angarium-durability:\r\n\tasync",
        b"RCPT TO:<b@next.test>", b"RCPT TO:<Postmaster>", b"RCPT TO:<", b"DATA", b".", b"..", b"RSET",
        b"NOOP", b"QUIT", b"VRFY x", b"HELP", b"EXPN x", b"STARTTLS", b"AUTH PLAIN AAAA", b"BDAT 0",
        b"BDAT 0 LAST", b"BDAT 7", b"BDAT 12 LAST", b"BDAT 2500 LAST", b"BDAT -1", b"Subject: x", b"",
        b" folded", b"x" * 3000,
    ]
)  # fmt: skip
ENDS = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\n.\n", b"\r\n.\r\n", b"\r\r\n", b"\0"])
DIALOGUES = st.lists(st.one_of(st.tuples(LINES, ENDS).map(b"".join), st.binary(max_size=40)), max_size=30).map(b"".join)
OPENED = st.sampled_from(
    [
        b"",
        b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@next.test>\r\n",
        b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@next.test>\r\nDATA\r\n",
        b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@next.test>\r\nBDAT 9\r\nSubject: ",
    ]
)


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


@settings(
    max_examples=600,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(opened=OPENED, dialogue=DIALOGUES, cuts=st.lists(st.integers(0, 1 << 16), max_size=12))
def test_any_dialogue_in_any_pieces(server: Server, opened: bytes, dialogue: bytes, cuts: list[int]) -> None:
    check(server, opened + dialogue, cuts)


@settings(max_examples=40)
@given(opened=OPENED, dialogue=DIALOGUES)
def test_octet_by_octet(server: Server, opened: bytes, dialogue: bytes) -> None:
    octets = opened + dialogue
    check(server, octets, range(len(octets)))
